//! What a token is for: a host and a path, and whether one path covers another.

use percent_encoding::percent_decode_str;

/// The decoded resource of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    /// The host, in lower case, without scheme and port.
    pub host: String,
    /// The path's segments, decoded, without empty ones. No segments: the whole hub.
    pub segments: Vec<String>,
}

impl Audience {
    /// Read the `sr` of a token or the address of an AMQP link: `[scheme://]host[:port][/path]`, percent-encoded once, as
    /// a whole or in parts. A last segment `api-version=...`, which an MQTT sample of the maker's documents puts there, is
    /// dropped. None: not UTF-8, or without a host.
    ///
    /// Segments are taken as they come: `..` is a legal device id and means nothing else here, and what was an escaped
    /// slash separates like any other, since clients escape all of them or none \[IoT Hub: control access with SAS\].
    pub fn parse(text: &str) -> Option<Self> {
        let decoded = percent_decode_str(text).decode_utf8().ok()?;
        let address = match decoded.split_once("://") {
            Some((scheme, address)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => address,
            _ => &decoded,
        };
        let mut parts = address.split('/');
        let host = without_port(parts.next()?).to_ascii_lowercase();
        if host.is_empty() {
            return None;
        }
        let mut segments: Vec<String> = parts.filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if segments.last().is_some_and(|last| last.trim_start_matches('?').starts_with("api-version=")) {
            segments.pop();
        }
        Some(Self { host, segments })
    }
}

/// `host` of `host`, `host:port`, `[v6]` and `[v6]:port`; the brackets stay.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !is_bare_v6(host) => host,
        _ => authority,
    }
}

fn is_bare_v6(host: &str) -> bool {
    host.contains(':') && !host.ends_with(']')
}

/// Whether a grant for `granted` covers `wanted`: it is a prefix, by whole segments, so that `devices/dev1` covers
/// `devices/dev1/messages` but not `devices/dev10`.
///
/// The ids of devices and modules (behind `devices`, `twins` and `modules`) are compared with case, everything else
/// (names of routes, event hubs and consumer groups) without \[IoT Hub: control access with SAS\].
pub fn covers<G: AsRef<str>, W: AsRef<str>>(granted: &[G], wanted: &[W]) -> bool {
    granted.len() <= wanted.len()
        && granted.iter().zip(wanted).enumerate().all(|(index, (granted_segment, wanted_segment))| {
            let (one, other) = (granted_segment.as_ref(), wanted_segment.as_ref());
            let is_id = index > 0 && names_a_collection_of_ids(granted[index - 1].as_ref());
            if is_id { one == other } else { one.eq_ignore_ascii_case(other) }
        })
}

fn names_a_collection_of_ids(segment: &str) -> bool {
    ["devices", "twins", "modules"].iter().any(|name| segment.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, host: &str, segments: &[&str]) {
        let audience = Audience::parse(text).unwrap();
        assert_eq!(
            (audience.host.as_str(), audience.segments),
            (host, segments.iter().map(|s| s.to_string()).collect())
        );
    }

    #[test]
    fn every_clients_form_is_read() {
        check("127.0.0.5%2Fdevices%2FDev%201", "127.0.0.5", &["devices", "Dev 1"]);
        check("hub.test:8883%2Fdevices%2Fd%2Fmodules%2Fm", "hub.test", &["devices", "d", "modules", "m"]);
        check("HUB.test", "hub.test", &[]);
        check("hub.test/devices/d", "hub.test", &["devices", "d"]);
        check("hub.test%2fdevices%2fa%2bb+c", "hub.test", &["devices", "a+b+c"]);
        check("sb%3A%2F%2Flocalhost%3A15672%2Fmyeh", "localhost", &["myeh"]);
        check("amqp%3a%2f%2fhub.test%2f%2feh%2f", "hub.test", &["eh"]);
        check("hub.test%2Fdevices%2Fd%2Fapi-version%3D2016-11-14", "hub.test", &["devices", "d"]);
        check("[::1]:5671/devices/d", "[::1]", &["devices", "d"]);
        check("hub/devices/50%", "hub", &["devices", "50%"]);
        check("hub/devices/..", "hub", &["devices", ".."]);
        check("hub/devices/d://other", "hub", &["devices", "d:", "other"]);
        assert_eq!(Audience::parse(""), None);
        assert_eq!(Audience::parse("sb%3A%2F%2F"), None);
        assert_eq!(Audience::parse("%ff%fe"), None);
    }

    #[test]
    fn a_prefix_is_one_of_whole_segments() {
        let check = |granted: &[&str], wanted: &[&str], expected| {
            assert_eq!(covers(granted, wanted), expected, "{granted:?} over {wanted:?}");
        };
        check(&[], &["devices", "a"], true);
        check(&[], &[], true);
        check(&["devices"], &["devices", "a"], true);
        check(&["devices", "dev1"], &["devices", "dev1"], true);
        check(&["devices", "dev1"], &["devices", "dev1", "messages", "events"], true);
        check(&["devices", "dev1"], &["devices", "dev10"], false);
        check(&["devices", "dev10"], &["devices", "dev1"], false);
        check(&["devices", "dev1"], &["devices"], false);
        check(&["devices", "dev1"], &[], false);
        check(&["devices", "dev1"], &["devices", "Dev1"], false);
        check(&["Devices", "dev1"], &["devices", "dev1"], true);
        check(&["devices", "d", "modules", "m"], &["devices", "d", "Modules", "M"], false);
        check(&["MyHub"], &["myhub", "ConsumerGroups", "$Default"], true);
        check(&["devices", ".."], &["devices", "a"], false);
        check(&["devices", ""], &["devices", "a"], false);
    }
}
