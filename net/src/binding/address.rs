//! Addresses of AMQP links: which device, partition or node a link is for, in every form that clients write it.
//!
//! Clients write addresses with or without a leading slash, as an absolute URL, in any letter case of the fixed words, with
//! empty segments, and with the device id raw or percent-encoded [IoT Hub: iot-hub-amqp-support].

use percent_encoding::percent_decode_str;
use registry::DeviceId;

/// Below a device: its commands. Below the hub: everybody's.
const COMMANDS: [&str; 2] = ["messages", "devicebound"];

/// Below a device: calls of its methods, and the answers to them.
const METHODS: [&str; 2] = ["methods", "devicebound"];

/// Where receipts are.
const RECEIPTS: [&str; 3] = ["messages", "serviceBound", "feedback"];

/// What a link address names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `$cbs`: where tokens are put.
    Cbs,
    /// `$management` of the event hub.
    Management,
    /// `/devices/{id}/messages/events`.
    DeviceEvents(DeviceSegment),
    /// `/devices/{id}/messages/devicebound`: where a device receives its commands, and what a command is addressed to.
    DeviceCommands(DeviceSegment),
    /// `/devices/{id}/modules/{module}/messages/devicebound`.
    ModuleCommands(DeviceSegment),
    /// `/devices/{id}/twin`.
    DeviceTwin(DeviceSegment),
    /// `/devices/{id}/methods/devicebound`.
    DeviceMethods(DeviceSegment),
    /// Any other path of a device that IoT Hub documents: all that modules have.
    DeviceOther(DeviceSegment),
    /// `{event hub}/ConsumerGroups/{group}/Partitions/{partition}`.
    Partition {
        /// The group's name as written.
        group: String,
        /// The partition's text as written.
        partition: String,
    },
    /// The event hub itself or a partition or publisher of it: where Event Hubs producers send.
    EventHub,
    /// `/messages/devicebound`: where back ends send commands.
    Commands,
    /// `/messages/serviceBound/feedback`: where back ends receive receipts.
    Receipts,
    /// A service endpoint of IoT Hub that this hub does not have: file notifications, operations monitoring.
    ServiceEndpoint,
    /// Nothing that is known.
    Unknown,
}

/// A device id as it stands in an address. It is matched as written first, then percent-decoded: `%` is legal in an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSegment {
    text: String,
}

impl DeviceSegment {
    /// The ids that the segment may mean, the likelier first. Empty when it is no legal id in either reading.
    pub fn candidates(&self) -> impl Iterator<Item = DeviceId> {
        let raw = DeviceId::parse(&self.text).ok();
        let decoded = decoded_segment(&self.text)
            .filter(|decoded| *decoded != self.text)
            .and_then(|decoded| DeviceId::parse(&decoded).ok());
        raw.into_iter().chain(decoded)
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Address {
    /// Read an address of a link's terminus. `event_hub` is the hub's name; the event hub is found by it or by
    /// the alias `messages/events`, without case.
    pub fn parse(text: &str, event_hub: &str) -> Self {
        let segments = path_segments(text);
        match segments.as_slice() {
            [] => Self::Unknown,
            [node] if node.eq_ignore_ascii_case("$cbs") => Self::Cbs,
            [node] if node.eq_ignore_ascii_case("$management") => Self::Management,
            [word, id, rest @ ..] if word.eq_ignore_ascii_case("devices") => Self::of_device(id, rest),
            _ => match entity_rest(&segments, event_hub) {
                Some(rest) => Self::of_event_hub(rest),
                None => Self::of_service(&segments),
            },
        }
    }

    fn of_device(id: &str, rest: &[&str]) -> Self {
        let device = DeviceSegment { text: id.to_owned() };
        if is_path(rest, &["messages", "events"]) {
            return Self::DeviceEvents(device);
        }
        if is_path(rest, &COMMANDS) {
            return Self::DeviceCommands(device);
        }
        if is_path(rest, &["twin"]) {
            return Self::DeviceTwin(device);
        }
        if is_path(rest, &METHODS) {
            return Self::DeviceMethods(device);
        }
        let own = match rest {
            [word, _module, rest @ ..] if word.eq_ignore_ascii_case("modules") => rest,
            _ => rest,
        };
        if is_path(own, &COMMANDS) {
            return Self::ModuleCommands(device);
        }
        let known: [&[&str]; 3] = [&["messages", "events"], &METHODS, &["twin"]];
        if known.iter().any(|path| is_path(own, path)) { Self::DeviceOther(device) } else { Self::Unknown }
    }

    fn of_event_hub(rest: &[&str]) -> Self {
        match rest {
            [] => Self::EventHub,
            [node] if node.eq_ignore_ascii_case("$management") => Self::Management,
            [groups, group, partitions, partition]
                if groups.eq_ignore_ascii_case("ConsumerGroups")
                    && partitions.eq_ignore_ascii_case("Partitions") =>
            {
                let group = decoded_segment(group).unwrap_or_else(|| (*group).to_owned());
                Self::Partition { group, partition: (*partition).to_owned() }
            }
            [kind, _]
                if kind.eq_ignore_ascii_case("Partitions") || kind.eq_ignore_ascii_case("Publishers") =>
            {
                Self::EventHub
            }
            _ => Self::Unknown,
        }
    }

    fn of_service(segments: &[&str]) -> Self {
        if is_path(segments, &COMMANDS) {
            return Self::Commands;
        }
        if is_path(segments, &RECEIPTS) {
            return Self::Receipts;
        }
        let known: [&[&str]; 2] =
            [&["messages", "serviceBound", "filenotifications"], &["messages", "operationsMonitoringEvents"]];
        if known.iter().any(|path| is_path(segments, path)) { Self::ServiceEndpoint } else { Self::Unknown }
    }
}

/// A granted or wanted resource in one canonical form, so that prefixes can be compared: fixed words and Event Hubs paths
/// in lower case, the alias of the event hub replaced by its name, device ids as they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource(Vec<String>);

impl Resource {
    /// From decoded path segments below the host, as a token's `sr` names them.
    pub fn from_segments<S: AsRef<str>>(segments: &[S], event_hub: &str) -> Self {
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).filter(|s| !s.is_empty()).collect();
        match segments.as_slice() {
            [word, id, rest @ ..] if word.eq_ignore_ascii_case("devices") => {
                let mut path = vec!["devices".to_owned(), (*id).to_owned()];
                path.extend(rest.iter().map(|segment| segment.to_ascii_lowercase()));
                Self(path)
            }
            _ => match entity_rest(&segments, event_hub) {
                Some(rest) => {
                    let mut path = vec![event_hub.to_ascii_lowercase()];
                    path.extend(rest.iter().map(|segment| segment.to_ascii_lowercase()));
                    Self(path)
                }
                None => Self(segments.iter().map(|segment| segment.to_ascii_lowercase()).collect()),
            },
        }
    }

    /// Sending as a device.
    pub fn device_events(device: &DeviceId) -> Self {
        Self(["devices", device.as_str(), "messages", "events"].into_iter().map(str::to_owned).collect())
    }

    /// Reading a partition of the event hub.
    pub fn partition(group: &str, partition: &str, event_hub: &str) -> Self {
        Self::from_segments(&[event_hub, "consumergroups", group, "partitions", partition], event_hub)
    }

    /// Sending commands.
    pub fn commands(event_hub: &str) -> Self {
        Self::from_segments(&COMMANDS, event_hub)
    }

    /// Receiving receipts.
    pub fn receipts(event_hub: &str) -> Self {
        Self::from_segments(&RECEIPTS, event_hub)
    }

    /// The management node of the event hub.
    pub fn management(event_hub: &str) -> Self {
        Self::from_segments(&[event_hub, "$management"], event_hub)
    }

    /// The path segments.
    pub fn segments(&self) -> &[String] {
        &self.0
    }
}

/// The path of an address, without empty segments; scheme and authority of an absolute one are dropped.
fn path_segments(text: &str) -> Vec<&str> {
    let path = match text.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => {
            rest.split_once('/').map_or("", |(_authority, path)| path)
        }
        _ => text,
    };
    path.split('/').filter(|segment| !segment.is_empty()).collect()
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// What follows the event hub in a path, if the path begins with it.
fn entity_rest<'p, 't>(segments: &'p [&'t str], event_hub: &str) -> Option<&'p [&'t str]> {
    match segments {
        [messages, events, rest @ ..]
            if messages.eq_ignore_ascii_case("messages") && events.eq_ignore_ascii_case("events") =>
        {
            Some(rest)
        }
        [name, rest @ ..] if name.eq_ignore_ascii_case(event_hub) => Some(rest),
        _ => None,
    }
}

fn is_path(segments: &[&str], path: &[&str]) -> bool {
    segments.len() == path.len()
        && segments.iter().zip(path).all(|(segment, word)| segment.eq_ignore_ascii_case(word))
}

/// Percent escapes decoded; none when the result is not UTF-8. A plus stays a plus.
fn decoded_segment(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|decoded| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Address {
        Address::parse(text, "plant7")
    }

    fn device_ids(text: &str) -> Vec<String> {
        match parse(text) {
            Address::DeviceEvents(device) => device.candidates().map(|id| id.as_str().to_owned()).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn device_addresses_of_every_client_form() {
        for text in [
            "/devices/dev-1/messages/events",
            "devices/dev-1/messages/events",
            "devices/dev-1/messages/events/",
            "//Devices//dev-1/Messages/Events",
            "amqps://hub.example/devices/dev-1/messages/events",
            "amqps://hub.example:5671/devices/dev-1/messages/events",
        ] {
            assert_eq!(device_ids(text), ["dev-1"], "{text}");
        }
    }

    #[test]
    fn an_id_is_matched_as_written_before_it_is_decoded() {
        assert_eq!(device_ids("/devices/a%2Bb/messages/events"), ["a%2Bb", "a+b"]);
        assert_eq!(device_ids("/devices/100%/messages/events"), ["100%"]);
        assert_eq!(device_ids("/devices/a?b#c:d/messages/events"), ["a?b#c:d"]);
        assert_eq!(device_ids("/devices/Dev-A/messages/events"), ["Dev-A"]);
        assert!(device_ids("/devices/a b/messages/events").is_empty());
    }

    #[test]
    fn other_device_paths_are_known_but_not_events() {
        for text in [
            "/devices/d/modules/m/methods/devicebound",
            "/devices/d/modules/m/messages/events",
            "/devices/d/modules/m/twin",
        ] {
            assert!(matches!(parse(text), Address::DeviceOther(_)), "{text}");
        }
        for text in ["/devices/d", "/devices/d/messages", "/devices", "", "/", "amqps://hub", "/nothing/here"]
        {
            assert_eq!(parse(text), Address::Unknown, "{text}");
        }
    }

    #[test]
    fn event_hub_addresses_of_every_client_form() {
        let wanted = Address::Partition { group: "$Default".to_owned(), partition: "3".to_owned() };
        for text in [
            "plant7/ConsumerGroups/$Default/Partitions/3",
            "/PLANT7/consumergroups/$Default/partitions/3",
            "amqps://hub.example:5671/plant7/ConsumerGroups/$Default/Partitions/3",
            "/messages/events//ConsumerGroups/$Default/Partitions/3",
            "messages/events/ConsumerGroups/%24Default/Partitions/3",
        ] {
            assert_eq!(parse(text), wanted, "{text}");
        }
        for text in ["$management", "/$management", "plant7/$management", "messages/events/$management"] {
            assert_eq!(parse(text), Address::Management, "{text}");
        }
        for text in ["$cbs", "/$cbs", "amqps://hub.example/$cbs", "$CBS"] {
            assert_eq!(parse(text), Address::Cbs, "{text}");
        }
        for text in ["plant7", "amqps://hub.example/plant7", "plant7/Partitions/0", "messages/events"] {
            assert_eq!(parse(text), Address::EventHub, "{text}");
        }
        assert_eq!(parse("other/ConsumerGroups/$Default/Partitions/3"), Address::Unknown);
        assert_eq!(parse("/messages/serviceBound/filenotifications"), Address::ServiceEndpoint);
    }

    #[test]
    fn command_addresses_of_every_client_form() {
        for text in [
            "/devices/d/messages/devicebound",
            "/devices/d/messages/deviceBound",
            "devices/d/messages/devicebound",
            "amqps://hub.example:5671/devices/d/messages/devicebound",
        ] {
            let Address::DeviceCommands(device) = parse(text) else { panic!("{text}") };
            assert_eq!(device.as_str(), "d", "{text}");
        }
        assert!(matches!(parse("/devices/d/modules/m/messages/deviceBound"), Address::ModuleCommands(_)));
        for text in ["/messages/devicebound", "amqps://hub/messages/deviceBound", "messages/devicebound/"] {
            assert_eq!(parse(text), Address::Commands, "{text}");
        }
        for text in ["/messages/serviceBound/feedback", "/messages/servicebound/Feedback"] {
            assert_eq!(parse(text), Address::Receipts, "{text}");
        }
    }

    #[test]
    fn resources_of_one_thing_are_equal() {
        let wanted = Resource::from_segments(&["plant7"], "plant7");
        assert_eq!(Resource::from_segments(&["PLANT7"], "plant7"), wanted);
        assert_eq!(Resource::from_segments(&["messages", "events"], "plant7"), wanted);
        let device = Resource::from_segments(&["Devices", "Dev", "Messages"], "plant7");
        assert_eq!(device.segments(), ["devices", "Dev", "messages"]);
        assert_ne!(device, Resource::from_segments(&["devices", "dev", "messages"], "plant7"));
    }
}
