//! Consumer groups: named sets of checkpoints, hub-wide.

use crate::error::RegistryError;
use crate::id::ConsumerGroupId;
use crate::limits::GROUP_NAME_BYTES_MAX;

/// The group that always exists and can neither be created nor deleted.
pub const DEFAULT_CONSUMER_GROUP: &str = "$Default";

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroup {
    /// Its incarnation.
    pub id: ConsumerGroupId,
    /// Its name as created; found without ASCII case.
    pub name: String,
    /// When, milliseconds since 1970; 0 for `$Default`, which is as old as the hub.
    pub created_ms: u64,
}

impl ConsumerGroup {
    pub(crate) fn builtin() -> Self {
        Self { id: ConsumerGroupId::DEFAULT, name: DEFAULT_CONSUMER_GROUP.to_owned(), created_ms: 0 }
    }
}

/// Refuse a name that no created group may have: 1 to 50 characters of `A-Z a-z 0-9 . _ -`.
pub(crate) fn check_name(name: &str) -> Result<(), RegistryError> {
    if name.eq_ignore_ascii_case(DEFAULT_CONSUMER_GROUP) {
        return Err(RegistryError::ConsumerGroupDefault);
    }
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (1..=GROUP_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_name_byte) {
        true => Ok(()),
        false => Err(RegistryError::InvalidConsumerGroupName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        for good in ["a", "Stream-1_b.c", &"x".repeat(50)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "a/b", "$default1", "ä", &"x".repeat(51)] {
            assert_eq!(check_name(bad), Err(RegistryError::InvalidConsumerGroupName), "{bad}");
        }
        assert_eq!(check_name("$DEFAULT"), Err(RegistryError::ConsumerGroupDefault));
    }
}
