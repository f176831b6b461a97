//! Request targets: path segments and query, split before anything is decoded.

use std::borrow::Cow;

/// A request target in origin form (`/path?query`) or absolute form, split but not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    path: &'a str,
    query: &'a str,
}

impl<'a> Target<'a> {
    /// Split a target. None: neither of the two forms, or with a raw `#`, which no target has \[RFC 9112 3.2\].
    pub fn parse(text: &'a str) -> Option<Self> {
        let rest = match text.strip_prefix('/') {
            Some(_) => text,
            None => {
                let (scheme, rest) = text.split_once("://")?;
                if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
                    return None;
                }
                rest.find(['/', '?']).map_or("/", |start| &rest[start..])
            }
        };
        if rest.contains('#') {
            return None;
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        Some(Self { path, query })
    }

    /// The path's segments, each decoded: none where an escape is not UTF-8 or broken. A slash at the end gives no empty
    /// segment. Segments are split first and decoded then, so that `%2f` is a character of its segment; `.` and `..` are
    /// names like all others, since they are legal device ids and no file is behind them.
    pub fn segments(&self) -> impl Iterator<Item = Option<Cow<'a, str>>> {
        let path = self.path.strip_prefix('/').unwrap_or(self.path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments = (!path.is_empty()).then(|| path.split('/'));
        segments.into_iter().flatten().map(decode)
    }

    /// The decoded value of the first query parameter of this name, compared without case. A parameter without `=` has an
    /// empty value. None also where the value cannot be decoded.
    pub fn parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        self.query
            .split('&')
            .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| decode(value))
    }
}

/// Resolve percent escapes, once. A plus stays a plus. None: a `%` without two hexadecimal digits behind it, or not UTF-8.
pub fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|byte| (byte as char).to_digit(16));
            let (high, low) = (digit()?, digit()?);
            decoded.push((high << 4 | low) as u8);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, expected: &[&str]) {
        let segments: Option<Vec<_>> = Target::parse(target).unwrap().segments().collect();
        assert_eq!(segments.unwrap(), expected, "{target}");
    }

    #[test]
    fn segments_are_split_before_they_are_decoded() {
        check("/", &[]);
        check("/devices", &["devices"]);
        check("/devices/?api-version=1", &["devices"]);
        check("/devices//", &["devices", ""]);
        check("/devices/a%2Fb", &["devices", "a/b"]);
        check("/devices/%23%3f%25?x", &["devices", "#?%"]);
        check("/devices/..", &["devices", ".."]);
        check("/devices/%2e%2E/..%2f", &["devices", "..", "../"]);
        check("/devices/a+b", &["devices", "a+b"]);
        check("/devices/a%252fb", &["devices", "a%2fb"]);
        check("https://hub.test/devices/a", &["devices", "a"]);
        check("HTTPS://hub.test", &[]);
        check("https://hub.test?x=1", &[]);
    }

    #[test]
    fn broken_escapes_are_refused() {
        for target in ["/a%", "/a%2", "/a%zz", "/a%+1", "/%ff", "/%c3%28"] {
            assert_eq!(Target::parse(target).unwrap().segments().next(), Some(None), "{target}");
        }
        for target in ["*", "hub.test:443", "", "ftp://hub/x", "/a#b"] {
            assert_eq!(Target::parse(target), None, "{target}");
        }
    }

    #[test]
    fn parameters_are_found_without_case() {
        let target = Target::parse("/x?api-version=2021-04-12&Top=5&reject&name=a%20b+c&bad=%f").unwrap();
        let value = |name| target.parameter(name).map(Cow::into_owned);
        assert_eq!(value("top").as_deref(), Some("5"));
        assert_eq!(value("reject").as_deref(), Some(""));
        assert_eq!(value("name").as_deref(), Some("a b+c"));
        assert_eq!((value("missing"), value("bad")), (None, None));
    }
}
