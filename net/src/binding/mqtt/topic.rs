//! Topics of devices: which ones there are, and what a client means by one.

use percent_encoding::percent_decode_str;
use registry::DeviceId;

/// What a device publishes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `devices/{id}/messages/events/{bag}`: telemetry.
    Telemetry {
        /// Its properties; see [`super::bag`].
        bag: &'a str,
    },
    /// `$iothub/twin/GET/?$rid={n}` and `$iothub/twin/PATCH/properties/reported/?$rid={n}`, which this hub does not have.
    Twin {
        /// `{n}`, which the answer repeats.
        request_id: &'a str,
    },
    /// Nothing that this device may publish to.
    Foreign,
}

impl<'a> Target<'a> {
    /// Read a topic that `device` publishes to.
    pub fn of(topic: &'a str, device: &DeviceId) -> Self {
        if let Some(rest) = topic.strip_prefix("$iothub/twin/") {
            return match rest.split_once("/?$rid=") {
                Some(("GET" | "PATCH/properties/reported", request_id)) => Self::Twin { request_id },
                _ => Self::Foreign,
            };
        }
        let bag = |rest: &'a str| {
            // As nearly all clients write it.
            rest.strip_prefix("messages/events/").or_else(|| after_words(rest, ["messages", "events"]))
        };
        match of_device(topic, device).and_then(bag) {
            Some(bag) => Self::Telemetry { bag: bag.strip_suffix('/').unwrap_or(bag) },
            None => Self::Foreign,
        }
    }
}

/// What stands in front of the properties of a command's topic, if `filter` asks for the commands of `device`:
/// `devices/{id}/messages/devicebound/#`, the id as the client writes it.
pub fn command_prefix<'a>(filter: &'a str, device: &DeviceId) -> Option<&'a str> {
    let prefix = filter.strip_suffix('#')?;
    let rest = after_words(of_device(prefix, device)?, ["messages", "devicebound"])?;
    (rest.is_empty() && prefix.ends_with('/')).then_some(prefix)
}

/// What follows the device in `devices/{id}/...`, if it is this device. Clients write the id raw or percent-encoded.
fn of_device<'a>(topic: &'a str, device: &DeviceId) -> Option<&'a str> {
    let rest = topic.strip_prefix("devices/")?;
    if let Some(rest) = rest.strip_prefix(device.as_str()).and_then(|rest| rest.strip_prefix('/')) {
        return Some(rest);
    }
    let (id, rest) = rest.split_once('/')?;
    percent_decode_str(id).eq(device.as_str().as_bytes().iter().copied()).then_some(rest)
}

/// What follows two fixed words, compared without case, and a slash that may be missing at the end.
fn after_words<'a>(text: &'a str, words: [&str; 2]) -> Option<&'a str> {
    let (first, rest) = text.split_once('/')?;
    let (second, rest) = rest.split_once('/').unwrap_or((rest, ""));
    (first.eq_ignore_ascii_case(words[0]) && second.eq_ignore_ascii_case(words[1])).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str) -> DeviceId {
        DeviceId::parse(id).unwrap()
    }

    #[test]
    fn telemetry_of_the_device_itself() {
        for (topic, id, expected) in [
            ("devices/d/messages/events/", "d", Some("")),
            ("devices/d/messages/events", "d", Some("")),
            ("devices/d/messages/events/a=b&c", "d", Some("a=b&c")),
            ("devices/d/messages/events/a=b/", "d", Some("a=b")),
            ("devices/d/Messages/EVENTS/a=b", "d", Some("a=b")),
            ("devices/a%2Bb/messages/events/", "a+b", Some("")),
            ("devices/a+b/messages/events/", "a+b", Some("")),
            ("devices/a%2Bb/messages/events/", "a%2Bb", Some("")),
            ("devices/d2/messages/events/", "d", None),
            ("devices/D/messages/events/", "d", None),
            ("devices/d/modules/m/messages/events/", "d", None),
            ("devices/d/messages/eventsx", "d", None),
            ("devices/d/messages", "d", None),
            ("/devices/d/messages/events/", "d", None),
            ("devices//messages/events/", "d", None),
            ("$iothub/methods/res/200/?$rid=1", "d", None),
            ("d", "d", None),
        ] {
            let found = match Target::of(topic, &device(id)) {
                Target::Telemetry { bag } => Some(bag),
                Target::Foreign => None,
                other => panic!("{topic}: {other:?}"),
            };
            assert_eq!(found, expected, "{topic}");
        }
    }

    #[test]
    fn twin_requests_are_known() {
        let of = |topic| Target::of(topic, &device("d"));
        let request_id = "a b/c";
        assert_eq!(of("$iothub/twin/GET/?$rid=a b/c"), Target::Twin { request_id });
        assert_eq!(of("$iothub/twin/PATCH/properties/reported/?$rid=a b/c"), Target::Twin { request_id });
        assert_eq!(of("$iothub/twin/PATCH/properties/desired/?$rid=1"), Target::Foreign);
        assert_eq!(of("$iothub/twin/GET/"), Target::Foreign);
    }

    #[test]
    fn the_one_filter_that_a_device_may_have() {
        let d = device("a+b");
        for filter in ["devices/a%2Bb/messages/devicebound/#", "devices/a+b/messages/deviceBound/#"] {
            assert_eq!(command_prefix(filter, &d), filter.strip_suffix('#'), "{filter}");
        }
        for filter in [
            "#",
            "devices/#",
            "devices/+/messages/devicebound/#",
            "devices/a%2Bb/#",
            "devices/a%2Bb/messages/#",
            "devices/a%2Bb/messages/devicebound#",
            "devices/a%2Bb/messages/devicebound/",
            "devices/a%2Bb/messages/devicebound/x/#",
            "devices/other/messages/devicebound/#",
            "devices/a%2Bb/messages/events/#",
            "devices/a%2Bb/modules/m/inputs/#",
            "$iothub/twin/res/#",
            "$iothub/methods/POST/#",
        ] {
            assert_eq!(command_prefix(filter, &d), None, "{filter}");
        }
    }
}
