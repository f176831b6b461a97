//! Shared access policies: named keys with rights over the whole hub.

use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;

use crate::Random;
use crate::credential::DeviceKeys;
use crate::error::RegistryError;
use crate::limits::POLICY_NAME_BYTES_MAX;

/// A policy's name: 1 to 64 characters of `A-Z a-z 0-9 - . _ ! ~ * ' ( )` and `$`, compared with case. A clone costs one
/// reference count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName(Arc<str>);

impl PolicyName {
    /// Check a name.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._!~*'()$".contains(&byte);
        match (1..=POLICY_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_name_byte) {
            true => Ok(Self(text.into())),
            false => Err(RegistryError::InvalidPolicyName),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A set of rights \[IoT Hub: access permissions\]. The bits are stored and never change their meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rights(u8);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Read identities.
    pub const REGISTRY_READ: Self = Self(1);
    /// Change identities; includes reading them.
    pub const REGISTRY_WRITE: Self = Self(3);
    /// The back end's endpoints: events, commands, feedback.
    pub const SERVICE_CONNECT: Self = Self(4);
    /// Act as any device.
    pub const DEVICE_CONNECT: Self = Self(8);
    /// Everything.
    pub const ALL: Self = Self(15);

    /// Whether every right of `wanted` is among these.
    pub fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The stored form.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Read the stored form; none for bits without a meaning.
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A shared access policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: PolicyName,
    /// What its holders may do.
    pub rights: Rights,
    /// Both keys.
    pub keys: DeviceKeys,
}

/// The five policies of a new hub, with new keys \[IoT Hub: access permissions\].
pub fn builtin_policies(random: Random<'_>) -> Vec<Policy> {
    let table = [
        ("iothubowner", Rights::ALL),
        ("service", Rights::SERVICE_CONNECT),
        ("device", Rights::DEVICE_CONNECT),
        ("registryRead", Rights::REGISTRY_READ),
        ("registryReadWrite", Rights::REGISTRY_WRITE),
    ];
    table
        .into_iter()
        .map(|(name, rights)| Policy {
            name: PolicyName(name.into()),
            rights,
            keys: DeviceKeys::generate(random),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_includes_reading_and_nothing_else() {
        assert!(Rights::REGISTRY_WRITE.contains(Rights::REGISTRY_READ));
        assert!(!Rights::REGISTRY_READ.contains(Rights::REGISTRY_WRITE));
        assert!(!Rights::REGISTRY_WRITE.contains(Rights::SERVICE_CONNECT));
        assert!(Rights::ALL.contains(Rights::DEVICE_CONNECT | Rights::REGISTRY_WRITE));
        assert_eq!(Rights::from_bits(16), None);
        assert_eq!(Rights::from_bits(3), Some(Rights::REGISTRY_WRITE));
    }

    #[test]
    fn a_new_hub_has_five_policies_with_keys_of_their_own() {
        let mut next = 0u8;
        let policies = builtin_policies(&mut |bytes| {
            next += 1;
            bytes.fill(next);
        });
        assert_eq!(policies.len(), 5);
        assert_eq!(policies[0].rights, Rights::ALL);
        for policy in &policies {
            assert_eq!(PolicyName::parse(policy.name.as_str()).as_ref(), Ok(&policy.name));
            assert_ne!(policy.keys.primary, policy.keys.secondary);
        }
        assert_ne!(policies[0].keys, policies[1].keys);
    }
}
