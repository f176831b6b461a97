//! Which connections hold grants of the hub's policies, so that they hear when one changes.

use std::collections::HashMap;

use registry::PolicyName;

use crate::request::ConnectionId;

/// Bounded by the hub's connections and by the policies that each may name, which exist when they are noted.
#[derive(Debug, Default)]
pub(crate) struct PolicyHolders(HashMap<ConnectionId, Vec<PolicyName>>);

impl PolicyHolders {
    /// A connection was granted a policy's rights.
    pub fn note(&mut self, connection: ConnectionId, name: &PolicyName) {
        let names = self.0.entry(connection).or_default();
        if !names.contains(name) {
            names.push(name.clone());
        }
    }

    /// The connection is gone.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.0.remove(&connection);
    }

    /// The policy has changed: take out who holds it.
    pub fn take(&mut self, name: &PolicyName) -> Vec<ConnectionId> {
        let mut holders = Vec::new();
        self.0.retain(|connection, names| {
            let count = names.len();
            names.retain(|known| known != name);
            if names.len() < count {
                holders.push(*connection);
            }
            !names.is_empty()
        });
        holders
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::CoreId;

    #[test]
    fn holders_are_told_once_and_forgotten_with_their_connection() {
        let connection = |slot| ConnectionId { core: CoreId(0), slot, generation: 0 };
        let [a, b] = ["a", "b"].map(|name| PolicyName::parse(name).unwrap());
        let mut holders = PolicyHolders::default();
        for name in [&a, &b, &a] {
            holders.note(connection(1), name);
        }
        holders.note(connection(2), &a);
        holders.note(connection(3), &a);
        holders.forget(connection(3));
        let mut told = holders.take(&a);
        told.sort_by_key(|connection| connection.slot);
        assert_eq!(told, [connection(1), connection(2)]);
        assert_eq!(holders.take(&a), []);
        assert_eq!(holders.take(&b), [connection(1)]);
        assert!(holders.0.is_empty());
    }
}
