//! What the tokens of one connection allow right now.

use engine::request::{Grant, Principal};
use registry::{DeviceId, PolicyName, Rights};

use super::small_map::SmallMap;
use crate::binding::address::Resource;

/// The grants of a connection, at most one per resource: a newer token for the same resource replaces the older one.
#[derive(Debug)]
pub struct Grants {
    by_resource: SmallMap<Vec<String>, Box<Grant>>,
    /// No grant ends before this; earlier than the true moment after a renewal, until the next look.
    next_expiry_s: Option<u64>,
    count_max: usize,
}

/// The connection holds as many tokens as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantsExhausted {
    /// The limit.
    pub count_max: usize,
}

impl Grants {
    /// No grants yet, at most `count_max`.
    pub fn new(count_max: usize) -> Self {
        Self { by_resource: SmallMap::default(), next_expiry_s: None, count_max }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_resource.is_empty()
    }

    /// Add a grant or renew the one for the same resource.
    pub fn put(&mut self, grant: Grant, event_hub: &str) -> Result<(), GrantsExhausted> {
        let resource = Resource::from_segments(&grant.resource, event_hub);
        let is_new = !self.by_resource.contains_key(resource.segments());
        if is_new && self.by_resource.len() >= self.count_max {
            return Err(GrantsExhausted { count_max: self.count_max });
        }
        let sooner = self.next_expiry_s.map_or(grant.expires_s, |next| next.min(grant.expires_s));
        self.next_expiry_s = Some(sooner);
        self.by_resource.insert(resource.segments().to_vec(), Box::new(grant));
        Ok(())
    }

    /// A grant to send as `device`.
    pub fn for_device(&self, device: &DeviceId) -> Option<&Grant> {
        self.find(&Resource::device_events(device), |principal| match principal {
            Principal::Device { device: owner, .. } => owner == device,
            Principal::Policy { rights, .. } => rights.contains(Rights::DEVICE_CONNECT),
        })
    }

    /// A grant to use a service endpoint.
    pub fn for_service(&self, wanted: &Resource) -> Option<&Grant> {
        self.find(wanted, |principal| match principal {
            Principal::Device { .. } => false,
            Principal::Policy { rights, .. } => rights.contains(Rights::SERVICE_CONNECT),
        })
    }

    /// The one device that the connection's only token is for, its own. Where it is a policy's, the connection stays where the
    /// policy's partition knows it.
    pub fn sole_device(&self) -> Option<DeviceId> {
        let mut grants = self.by_resource.values();
        let (Some(grant), None) = (grants.next(), grants.next()) else { return None };
        match &grant.principal {
            Principal::Device { device, .. } => Some(device.clone()),
            Principal::Policy { .. } => None,
        }
    }

    /// The most specific grant whose resource covers `wanted` and that `allows`.
    fn find(&self, wanted: &Resource, allows: impl Fn(&Principal) -> bool) -> Option<&Grant> {
        let segments = wanted.segments();
        (0..=segments.len())
            .rev()
            .filter_map(|length| self.by_resource.get(&segments[..length]).map(|grant| &**grant))
            .find(|grant| allows(&grant.principal))
    }

    /// Drop what has expired; whether anything was dropped. `skew_s` is how long a token counts after its end.
    pub fn expire(&mut self, now_s: u64, skew_s: u64) -> bool {
        if self.next_expiry_s.is_none_or(|next| now_s <= next.saturating_add(skew_s)) {
            return false;
        }
        let count = self.by_resource.len();
        self.by_resource.retain(|_, grant| now_s <= grant.expires_s.saturating_add(skew_s));
        self.next_expiry_s = self.by_resource.values().map(|grant| grant.expires_s).min();
        self.by_resource.len() < count
    }

    /// Drop what rests on a policy that has changed; whether anything was dropped.
    pub fn revoke(&mut self, policy: &PolicyName) -> bool {
        let count = self.by_resource.len();
        self.by_resource
            .retain(|_, grant| !matches!(&grant.principal, Principal::Policy { name, .. } if name == policy));
        self.by_resource.len() < count
    }

    /// When to look for expired grants next, seconds since 1970.
    pub fn next_expiry_s(&self) -> Option<u64> {
        self.next_expiry_s
    }
}

#[cfg(test)]
mod tests {
    use registry::GenerationId;

    use super::*;

    fn policy(rights: Rights, resource: &[&str], expires_s: u64) -> Grant {
        let name = PolicyName::parse("service").unwrap();
        let resource = resource.iter().map(|&s| s.to_owned()).collect();
        Grant { principal: Principal::Policy { name, rights }, resource, expires_s }
    }

    fn device(id: &str, expires_s: u64) -> Grant {
        Grant {
            principal: Principal::Device {
                device: DeviceId::parse(id).unwrap(),
                generation: GenerationId(1),
                keys_version: 1,
            },
            resource: vec!["devices".to_owned(), id.to_owned()],
            expires_s,
        }
    }

    fn id(text: &str) -> DeviceId {
        DeviceId::parse(text).unwrap()
    }

    #[test]
    fn a_device_token_covers_its_device_alone() {
        let mut grants = Grants::new(4);
        grants.put(device("dev1", 10), "h").unwrap();
        assert!(grants.for_device(&id("dev1")).is_some());
        assert_eq!(grants.sole_device(), Some(id("dev1")));
        for other in ["dev10", "dev", "Dev1"] {
            assert!(grants.for_device(&id(other)).is_none(), "{other}");
        }
        assert!(grants.for_service(&Resource::partition("$Default", "0", "h")).is_none());
    }

    #[test]
    fn a_policy_needs_the_right_and_the_resource() {
        let mut grants = Grants::new(4);
        grants.put(policy(Rights::SERVICE_CONNECT, &["H"], 10), "h").unwrap();
        assert!(grants.for_service(&Resource::partition("g", "1", "h")).is_some());
        assert_eq!(grants.sole_device(), None);
        let mut acting = Grants::new(4);
        acting.put(policy(Rights::DEVICE_CONNECT, &["devices", "dev1"], 10), "h").unwrap();
        assert_eq!(acting.sole_device(), None);
        assert!(grants.for_service(&Resource::management("h")).is_some());
        assert!(grants.for_device(&id("dev1")).is_none());
        let mut narrow = Grants::new(4);
        narrow.put(policy(Rights::SERVICE_CONNECT, &["h", "consumergroups", "g"], 10), "h").unwrap();
        assert!(narrow.for_service(&Resource::partition("G", "1", "h")).is_some());
        assert!(narrow.for_service(&Resource::partition("g2", "1", "h")).is_none());
        assert!(narrow.for_service(&Resource::management("h")).is_none());
        let mut hub = Grants::new(4);
        hub.put(policy(Rights::DEVICE_CONNECT, &[], 10), "h").unwrap();
        assert!(hub.for_device(&id("any")).is_some());
        assert!(hub.for_service(&Resource::management("h")).is_none());
    }

    #[test]
    fn renewal_replaces_and_expiry_ends() {
        let mut grants = Grants::new(2);
        grants.put(device("a", 10), "h").unwrap();
        grants.put(device("b", 20), "h").unwrap();
        assert_eq!(grants.sole_device(), None, "a gateway belongs to no device");
        assert_eq!(grants.put(device("c", 20), "h"), Err(GrantsExhausted { count_max: 2 }));
        grants.put(device("a", 30), "h").unwrap();
        assert!(!grants.expire(15, 0), "a was renewed");
        assert_eq!(grants.next_expiry_s(), Some(20));
        assert!(!grants.expire(20, 0), "a token ends after its last second");
        assert!(!grants.expire(24, 5), "the skew is added");
        assert!(grants.expire(21, 0));
        assert!(grants.for_device(&id("b")).is_none());
        assert!(grants.for_device(&id("a")).is_some());
        assert!(grants.expire(31, 0) && grants.is_empty());
        assert_eq!(grants.next_expiry_s(), None);
    }

    #[test]
    fn a_policy_that_changes_takes_its_grants_and_no_others() {
        let name = |text| PolicyName::parse(text).unwrap();
        let mut grants = Grants::new(4);
        grants.put(policy(Rights::ALL, &["devices", "a"], 10), "h").unwrap();
        grants.put(policy(Rights::ALL, &[], 10), "h").unwrap();
        grants.put(device("b", 10), "h").unwrap();
        assert!(!grants.revoke(&name("other")));
        assert!(grants.for_device(&id("a")).is_some());
        assert!(grants.revoke(&name("service")));
        assert!(grants.for_device(&id("a")).is_none() && grants.for_device(&id("b")).is_some());
        assert!(!grants.revoke(&name("service")));
    }
}
