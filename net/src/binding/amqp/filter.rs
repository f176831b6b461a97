//! Where a reader starts: the selector in the filter of a receiver's source.

use engine::request::Start;

/// The name of the filter, as map key and as symbolic descriptor of its value.
pub const SELECTOR_NAME: &str = "apache.org:selector-filter:string";
/// The numeric descriptor of the filter's value [AMQP filter registry].
pub const SELECTOR_CODE: u64 = 0x0000_468C_0000_0004;

/// The selector is not one that a hub understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSelector;

/// Read a selector: `amqp.annotation.<name> > '<value>'` or `>=`, with any white space and the quotes optional.
///
/// Names: `x-opt-offset`, `x-opt-sequence-number`, `x-opt-enqueued-time` and its older `x-opt-enqueuedtimeutc`. Values:
/// a number; `-1` before the first event; `@latest`; for the offset also `@checkpoint`, an addition of this hub.
pub fn parse_selector(text: &str) -> Result<Start, InvalidSelector> {
    let rest = text.trim().strip_prefix("amqp.annotation.").ok_or(InvalidSelector)?;
    let (name, comparison) = rest.split_once('>').ok_or(InvalidSelector)?;
    let (inclusive, value) = match comparison.strip_prefix('=') {
        Some(value) => (true, value),
        None => (false, comparison),
    };
    let value = unquote(value.trim())?;
    match name.trim() {
        "x-opt-offset" => match value {
            "@latest" => Ok(Start::Latest),
            "@checkpoint" => Ok(Start::Checkpoint),
            _ => sequence(value, inclusive),
        },
        "x-opt-sequence-number" => match value {
            "@latest" => Ok(Start::Latest),
            _ => sequence(value, inclusive),
        },
        "x-opt-enqueued-time" | "x-opt-enqueuedtimeutc" => {
            let ms: i64 = value.parse().map_err(|_| InvalidSelector)?;
            Ok(u64::try_from(ms).map_or(Start::Earliest, |ms| Start::Time { ms, inclusive }))
        }
        _ => Err(InvalidSelector),
    }
}

fn unquote(value: &str) -> Result<&str, InvalidSelector> {
    let inner = match value.strip_prefix('\'') {
        Some(rest) => rest.strip_suffix('\'').ok_or(InvalidSelector)?,
        None => value,
    };
    let plain = !inner.is_empty() && !inner.contains(|c: char| c == '\'' || c.is_whitespace());
    if plain { Ok(inner) } else { Err(InvalidSelector) }
}

fn sequence(value: &str, inclusive: bool) -> Result<Start, InvalidSelector> {
    match value.parse::<i64>() {
        Ok(-1) => Ok(Start::Earliest),
        Ok(number) => {
            let number = u64::try_from(number).map_err(|_| InvalidSelector)?;
            Ok(Start::Sequence { number, inclusive })
        }
        Err(_) => Err(InvalidSelector),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_every_client() {
        let after = |number| Start::Sequence { number, inclusive: false };
        for (text, start) in [
            ("amqp.annotation.x-opt-offset > '-1'", Start::Earliest),
            ("amqp.annotation.x-opt-offset > '@latest'", Start::Latest),
            ("amqp.annotation.x-opt-offset > '@checkpoint'", Start::Checkpoint),
            ("amqp.annotation.x-opt-offset > '42'", after(42)),
            ("amqp.annotation.x-opt-offset >= '42'", Start::Sequence { number: 42, inclusive: true }),
            ("amqp.annotation.x-opt-sequence-number > '0'", after(0)),
            ("amqp.annotation.x-opt-sequence-number > '-1'", Start::Earliest),
            ("amqp.annotation.x-opt-sequence-number >'@latest'", Start::Latest),
            (
                "amqp.annotation.x-opt-enqueued-time > '1795294683000'",
                Start::Time { ms: 1_795_294_683_000, inclusive: false },
            ),
            ("amqp.annotation.x-opt-enqueuedtimeutc >= 5", Start::Time { ms: 5, inclusive: true }),
            ("  amqp.annotation.x-opt-offset>7 ", after(7)),
        ] {
            assert_eq!(parse_selector(text), Ok(start), "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in [
            "",
            "x-opt-offset > '1'",
            "amqp.annotation.x-opt-offset < '1'",
            "amqp.annotation.x-opt-offset = '1'",
            "amqp.annotation.x-opt-offset > ''",
            "amqp.annotation.x-opt-offset > '1",
            "amqp.annotation.x-opt-offset > '1' OR 1",
            "amqp.annotation.x-opt-offset > '-2'",
            "amqp.annotation.x-opt-offset > '18446744073709551616'",
            "amqp.annotation.x-opt-enqueued-time > '2026-01-01'",
            "amqp.annotation.x-opt-sequence-number > '@checkpoint'",
            "amqp.annotation.other > '1'",
        ] {
            assert_eq!(parse_selector(text), Err(InvalidSelector), "{text}");
        }
    }
}
