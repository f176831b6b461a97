//! The condition of a query: what it may say, and whether an identity fulfils it.

use std::collections::BTreeSet;

use engine::request::DeviceView;

use super::connection_state;

/// Parentheses within parentheses at most.
const DEPTH_MAX: u32 = 16;

/// Comparisons in one query at most.
const COMPARISON_COUNT_MAX: u32 = 256;

/// Values in all lists of one query at most.
const VALUE_COUNT_MAX: usize = 1000;

/// Why a query is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    /// It cannot be read.
    #[error("the query cannot be read at character {at}: {expected} expected")]
    Syntax {
        /// Where, from 1.
        at: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// Nested or long beyond the limits.
    #[error("the query is too complex")]
    TooComplex,
}

/// What an identity must fulfil.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Is { field: Field, values: BTreeSet<String> },
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    DeviceId,
    Status,
    ConnectionState,
}

impl Condition {
    /// Whether the identity is meant.
    pub(super) fn matches(&self, view: &DeviceView) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(view)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(view)),
            Self::Not(part) => !part.matches(view),
            Self::Is { field: Field::DeviceId, values } => values.contains(view.device.as_str()),
            Self::Is { field: Field::Status, values } => has_word(values, view.status.as_str()),
            Self::Is { field: Field::ConnectionState, values } => has_word(values, connection_state(view)),
        }
    }

    /// The only devices that can be meant, where the condition names them.
    pub(super) fn devices(&self) -> Option<Vec<&str>> {
        match self {
            Self::Is { field: Field::DeviceId, values } => Some(values.iter().map(String::as_str).collect()),
            Self::All(parts) => parts.iter().find_map(Self::devices),
            _ => None,
        }
    }
}

/// Words of the hub's own are compared without case, as clients write them in either.
fn has_word(values: &BTreeSet<String>, word: &str) -> bool {
    values.iter().any(|value| value.eq_ignore_ascii_case(word))
}

/// Read `SELECT * FROM devices [WHERE condition]`. None: every device.
pub(super) fn parse(text: &str) -> Result<Option<Condition>, QueryError> {
    let mut parser = Parser { text, rest: text, comparison_count: 0, value_count: 0 };
    parser.expect_word("SELECT", "SELECT * FROM devices")?;
    parser.expect_mark("*", "SELECT * alone is supported, so *")?;
    parser.expect_word("FROM", "FROM")?;
    parser.expect_word("devices", "devices")?;
    let condition = match parser.take_word("WHERE") {
        true => Some(parser.any(0)?),
        false => None,
    };
    parser.skip_blanks();
    if parser.take_mark(";") {
        parser.skip_blanks();
    }
    if !parser.rest.is_empty() {
        return Err(parser.error(if condition.is_some() {
            "AND, OR or the end"
        } else {
            "WHERE or the end"
        }));
    }
    Ok(condition)
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    comparison_count: u32,
    value_count: usize,
}

impl<'a> Parser<'a> {
    fn any(&mut self, depth: u32) -> Result<Condition, QueryError> {
        let mut parts = vec![self.all(depth)?];
        while self.take_word("OR") {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::Any(parts) })
    }

    fn all(&mut self, depth: u32) -> Result<Condition, QueryError> {
        let mut parts = vec![self.single(depth)?];
        while self.take_word("AND") {
            parts.push(self.single(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::All(parts) })
    }

    fn single(&mut self, depth: u32) -> Result<Condition, QueryError> {
        if depth >= DEPTH_MAX {
            return Err(QueryError::TooComplex);
        }
        if self.take_word("NOT") {
            return Ok(Condition::Not(Box::new(self.single(depth + 1)?)));
        }
        if self.take_mark("(") {
            let inner = self.any(depth + 1)?;
            self.expect_mark(")", ")")?;
            return Ok(inner);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Condition, QueryError> {
        self.comparison_count += 1;
        if self.comparison_count > COMPARISON_COUNT_MAX {
            return Err(QueryError::TooComplex);
        }
        if self.take_word("devices") {
            self.expect_mark(".", ".")?;
        }
        let fields = [
            ("deviceId", Field::DeviceId),
            ("status", Field::Status),
            ("connectionState", Field::ConnectionState),
        ];
        let field = fields.into_iter().find(|(name, _)| self.take_word(name)).map(|(_, field)| field);
        let field = field.ok_or_else(|| self.error("deviceId, status or connectionState"))?;
        if self.take_word("IN") {
            let values = self.list()?;
            return Ok(Condition::Is { field, values });
        }
        if self.take_word("NIN") {
            let values = self.list()?;
            return Ok(Condition::Not(Box::new(Condition::Is { field, values })));
        }
        let is_equal = if self.take_mark("=") {
            true
        } else if self.take_mark("!=") || self.take_mark("<>") {
            false
        } else {
            return Err(self.error("=, != or IN"));
        };
        let values = BTreeSet::from([self.value()?]);
        let is = Condition::Is { field, values };
        Ok(if is_equal { is } else { Condition::Not(Box::new(is)) })
    }

    fn list(&mut self) -> Result<BTreeSet<String>, QueryError> {
        self.expect_mark("[", "[")?;
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.value()?);
            if !self.take_mark(",") {
                break;
            }
        }
        self.expect_mark("]", ", or ]")?;
        Ok(values)
    }

    /// A text in single or double quotes; a quote in it is doubled.
    fn value(&mut self) -> Result<String, QueryError> {
        self.value_count += 1;
        if self.value_count > VALUE_COUNT_MAX {
            return Err(QueryError::TooComplex);
        }
        self.skip_blanks();
        let quote = match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => quote,
            _ => return Err(self.error("a text in quotes")),
        };
        let mut value = String::new();
        let mut rest = &self.rest[1..];
        loop {
            let Some(end) = rest.find(quote) else {
                self.rest = "";
                return Err(self.error("the end of a text"));
            };
            value.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            match rest.strip_prefix(quote) {
                Some(behind) => {
                    value.push(quote);
                    rest = behind;
                }
                None => break,
            }
        }
        self.rest = rest;
        Ok(value)
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// A word, compared without case and not the beginning of a longer one.
    fn take_word(&mut self, word: &str) -> bool {
        self.skip_blanks();
        let Some((start, behind)) = self.rest.split_at_checked(word.len()) else { return false };
        let goes_on = behind.starts_with(|next: char| next.is_alphanumeric() || next == '_');
        let is_taken = start.eq_ignore_ascii_case(word) && !goes_on;
        if is_taken {
            self.rest = behind;
        }
        is_taken
    }

    fn expect_word(&mut self, word: &str, expected: &'static str) -> Result<(), QueryError> {
        if self.take_word(word) { Ok(()) } else { Err(self.error(expected)) }
    }

    fn take_mark(&mut self, mark: &str) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(mark) {
            Some(behind) => {
                self.rest = behind;
                true
            }
            None => false,
        }
    }

    fn expect_mark(&mut self, mark: &str, expected: &'static str) -> Result<(), QueryError> {
        if self.take_mark(mark) { Ok(()) } else { Err(self.error(expected)) }
    }

    fn error(&self, expected: &'static str) -> QueryError {
        let before = &self.text[..self.text.len() - self.rest.len()];
        QueryError::Syntax { at: before.chars().count() + 1, expected }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use registry::{DeviceId, DeviceKeys, DeviceStatus, ETag, GenerationId};

    use super::*;

    fn view(id: &str, status: DeviceStatus, connected: bool) -> DeviceView {
        DeviceView {
            device: DeviceId::parse(id).unwrap(),
            generation: GenerationId(1),
            etag: ETag(1),
            keys: DeviceKeys::generate(&mut |bytes| bytes.fill(1)),
            status,
            status_reason: None,
            status_updated_ms: None,
            life: registry::Life::default(),
            connected,
            connection_updated_ms: None,
            last_activity_ms: None,
            command_count: 0,
        }
    }

    fn meant(condition: &str) -> String {
        let parsed = parse(&format!("select * from DEVICES {condition}")).unwrap();
        let views = [
            view("a", DeviceStatus::Enabled, true),
            view("b", DeviceStatus::Enabled, false),
            view("c", DeviceStatus::Disabled, false),
            view("it's", DeviceStatus::Disabled, true),
        ];
        let matching = views.iter().filter(|view| parsed.as_ref().is_none_or(|parsed| parsed.matches(view)));
        matching.map(|view| view.device.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn conditions_mean_what_they_say() {
        for (condition, expected) in [
            ("", "a b c it's"),
            (";", "a b c it's"),
            ("WHERE deviceId = 'a'", "a"),
            ("WHERE DEVICEID='A'", ""),
            ("WHERE devices.deviceId != 'a'", "b c it's"),
            ("where deviceId <> \"a\"", "b c it's"),
            ("WHERE deviceId IN ['a', 'c','zzz']", "a c"),
            ("WHERE deviceId NIN ['a', 'c']", "b it's"),
            ("WHERE deviceId = 'it''s'", "it's"),
            ("WHERE status = 'enabled'", "a b"),
            ("WHERE status = 'Disabled' AND connectionState = 'connected'", "it's"),
            ("WHERE connectionState='Disconnected' OR deviceId='a'", "a b c"),
            ("WHERE deviceId='a' OR deviceId='b' AND status='disabled'", "a"),
            ("WHERE (deviceId='a' OR deviceId='b') AND status='disabled'", ""),
            ("WHERE NOT (deviceId='a' OR deviceId='b')", "c it's"),
        ] {
            assert_eq!(meant(condition), expected, "{condition}");
        }
    }

    #[test]
    fn conditions_that_name_their_devices_are_known() {
        let devices = |condition: &str| {
            let parsed = parse(&format!("SELECT * FROM devices WHERE {condition}")).unwrap().unwrap();
            parsed.devices().map(|ids| ids.join(" "))
        };
        assert_eq!(devices("deviceId = 'a'").as_deref(), Some("a"));
        assert_eq!(devices("status='enabled' AND deviceId IN ['b','a']").as_deref(), Some("a b"));
        assert_eq!(devices("deviceId = 'a' OR status = 'enabled'"), None);
        assert_eq!(devices("deviceId != 'a'"), None);
    }

    #[test]
    fn everything_else_is_refused_with_its_place() {
        for (text, at) in [
            ("", 1),
            ("DELETE * FROM devices", 1),
            ("SELECT deviceId FROM devices", 8),
            ("SELECT * FROM devices.modules", 22),
            ("SELECT * FROM devicesx", 15),
            ("SELECT * FROM devices WHERE", 28),
            ("SELECT * FROM devices WHERE tags.x = 'a'", 29),
            ("SELECT * FROM devices WHERE status > 'a'", 36),
            ("SELECT * FROM devices WHERE status = 5", 38),
            ("SELECT * FROM devices WHERE status = 'a", 40),
            ("SELECT * FROM devices WHERE status IN []", 40),
            ("SELECT * FROM devices WHERE (status = 'a'", 42),
            ("SELECT * FROM devices WHERE status = 'a' x", 42),
            ("SELECT * FROM devices GROUP BY status", 23),
        ] {
            let Err(QueryError::Syntax { at: found, .. }) = parse(text) else { panic!("{text}") };
            assert_eq!(found, at, "{text}");
        }
        let nested = |open: &str| format!("SELECT * FROM devices WHERE {}status='a'", open.repeat(1000));
        assert_eq!(parse(&nested("(")), Err(QueryError::TooComplex));
        assert_eq!(parse(&nested("NOT ")), Err(QueryError::TooComplex));
        let long = format!("SELECT * FROM devices WHERE status='a'{}", " OR status='a'".repeat(300));
        assert_eq!(parse(&long), Err(QueryError::TooComplex));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_parsing_panic(words in prop::collection::vec(0..24_usize, 0..20)) {
            const WORDS: [&str; 24] = [
                "SELECT", "*", "FROM", "devices", "WHERE", "deviceId", "status", "connectionState", "=", "!=", "<>",
                "IN", "[", "]", ",", "'a'", "\"b", "'", "(", ")", "AND", "OR", "NOT", "ä€",
            ];
            let text = words.iter().map(|index| WORDS[*index]).collect::<Vec<_>>().join(" ");
            let _ = parse(&text);
            let _ = parse(&format!("SELECT * FROM devices WHERE {text}"));
        }
    }
}
