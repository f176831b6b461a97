//! Which texts are topic names and topic filters [MQTT-3.1.1 4.7].

/// Whether a message can be published there: not empty, no wildcards.
pub fn is_topic(text: &str) -> bool {
    !text.is_empty() && !text.bytes().any(|byte| matches!(byte, b'+' | b'#' | 0))
}

/// Whether it can be subscribed to: not empty, `+` alone in its level, `#` alone in the last one.
pub fn is_filter(text: &str) -> bool {
    if text.is_empty() || text.contains('\0') {
        return false;
    }
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_good = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            _ => !level.contains(['+', '#']),
        };
        if !is_good {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_alone() {
        for text in ["a", "/", "a//b", "#", "+", "a/#", "+/a", "a/+/b/#", "/+", "$iothub/twin/res/#"] {
            assert!(is_filter(text), "{text}");
        }
        for text in ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a/b+/c", "##", "a/##", "a\0"] {
            assert!(!is_filter(text), "{text}");
        }
        for (text, expected) in [("a/b", true), ("/", true), ("", false), ("a/+", false), ("#", false)] {
            assert_eq!(is_topic(text), expected, "{text}");
        }
    }
}
