//! Shared access policies: named keys with rights over the whole hub.

use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;

use crate::Random;
use crate::change::Change;
use crate::credential::{DeviceKey, DeviceKeys};
use crate::error::RegistryError;
use crate::limits::{POLICY_COUNT_MAX, POLICY_NAME_BYTES_MAX};
use crate::store::Store;

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

/// What becomes of one of a policy's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyWish {
    /// It stays as it is; a new policy gets a generated one.
    #[default]
    Keep,
    /// A generated one.
    New,
    /// This one.
    Given(DeviceKey),
}

impl KeyWish {
    fn grant(self, before: Option<&DeviceKey>, random: Random<'_>) -> DeviceKey {
        match (self, before) {
            (Self::Given(key), _) => key,
            (Self::Keep, Some(before)) => before.clone(),
            (Self::Keep, None) | (Self::New, _) => DeviceKey::generate(random),
        }
    }
}

/// What a policy shall be.
#[derive(Clone, Debug)]
pub struct PolicyDraft {
    /// Its name.
    pub name: PolicyName,
    /// What its holders may do. None: what they may already; a new policy needs rights.
    pub rights: Option<Rights>,
    /// Its first key.
    pub primary_key: KeyWish,
    /// Its second key.
    pub secondary_key: KeyWish,
}

impl Store {
    /// Plan that a policy is as the draft says, new or not.
    ///
    /// # Errors
    /// [`RegistryError::PolicyNotFound`]: there is none, and the draft has no rights;
    /// [`RegistryError::PoliciesExhausted`].
    pub fn plan_put_policy(&self, draft: PolicyDraft, random: Random<'_>) -> Result<Change, RegistryError> {
        let before = self.policy(draft.name.as_str());
        let rights =
            draft.rights.or(before.map(|before| before.rights)).ok_or(RegistryError::PolicyNotFound)?;
        if before.is_none() && self.policies().len() >= POLICY_COUNT_MAX {
            return Err(RegistryError::PoliciesExhausted { count_max: POLICY_COUNT_MAX });
        }
        let primary = draft.primary_key.grant(before.map(|before| &before.keys.primary), random);
        let secondary = draft.secondary_key.grant(before.map(|before| &before.keys.secondary), random);
        Ok(Change::PutPolicy(Policy { name: draft.name, rights, keys: DeviceKeys { primary, secondary } }))
    }

    /// Plan a deletion.
    ///
    /// # Errors
    /// [`RegistryError::PolicyNotFound`]; [`RegistryError::LastPolicy`]: a registry without any is taken for a new one, which
    /// gets the built-in ones.
    pub fn plan_delete_policy(&self, name: &str) -> Result<Change, RegistryError> {
        let policy = self.policy(name).ok_or(RegistryError::PolicyNotFound)?;
        match self.policies().len() {
            1 => Err(RegistryError::LastPolicy),
            _ => Ok(Change::DeletePolicy { name: policy.name.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{DataKey, KeySealer};

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

    #[test]
    fn policies_are_made_changed_and_deleted() {
        let mut store = Store::open(None, KeySealer::new(&DataKey::from_bytes([1; 32]))).unwrap();
        let mut next = 0u8;
        let mut random = |bytes: &mut [u8]| {
            next += 1;
            bytes.fill(next);
        };
        let draft = |name: &str, rights, primary_key, secondary_key| PolicyDraft {
            name: PolicyName::parse(name).unwrap(),
            rights,
            primary_key,
            secondary_key,
        };
        let nothing = draft("a", None, KeyWish::New, KeyWish::New);
        assert_eq!(store.plan_put_policy(nothing, &mut random), Err(RegistryError::PolicyNotFound));
        let made = draft("a", Some(Rights::SERVICE_CONNECT), KeyWish::Keep, KeyWish::Keep);
        store.apply(store.plan_put_policy(made, &mut random).unwrap());
        let first = store.policy("a").unwrap().clone();
        assert_ne!(first.keys.primary, first.keys.secondary);
        store.apply(
            store.plan_put_policy(draft("a", None, KeyWish::New, KeyWish::Keep), &mut random).unwrap(),
        );
        let second = store.policy("a").unwrap().clone();
        assert_eq!((second.rights, &second.keys.secondary), (first.rights, &first.keys.secondary));
        assert_ne!(second.keys.primary, first.keys.primary);
        let given = KeyWish::Given(first.keys.primary.clone());
        let changed = draft("a", Some(Rights::REGISTRY_READ), given, KeyWish::Keep);
        store.apply(store.plan_put_policy(changed, &mut random).unwrap());
        assert_eq!(*store.policy("a").unwrap(), Policy { rights: Rights::REGISTRY_READ, ..first });

        assert_eq!(store.plan_delete_policy("b"), Err(RegistryError::PolicyNotFound));
        assert_eq!(store.plan_delete_policy("a"), Err(RegistryError::LastPolicy));
        for number in 1..POLICY_COUNT_MAX {
            let name = format!("p{number}");
            let made = draft(&name, Some(Rights::NONE), KeyWish::Keep, KeyWish::Keep);
            store.apply(store.plan_put_policy(made, &mut random).unwrap());
        }
        let one_more = draft("one-more", Some(Rights::ALL), KeyWish::Keep, KeyWish::Keep);
        let full = RegistryError::PoliciesExhausted { count_max: POLICY_COUNT_MAX };
        assert_eq!(store.plan_put_policy(one_more, &mut random), Err(full));
        store.apply(store.plan_delete_policy("a").unwrap());
        assert_eq!(store.policy("a"), None);
        assert_eq!(store.policies().len(), POLICY_COUNT_MAX - 1);
    }
}
