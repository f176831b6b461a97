//! A map for what a device has one or two of and a gateway ten thousand: a list while it is short, hashed beyond.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;

/// Up to this many entries there is room for exactly those that are there: most connections stay below for their life.
const FEW: usize = 4;

/// A map. What it costs while it is empty is its own place.
#[derive(Debug)]
// Boxed: the table's head is twice as large as the list's, and an idle connection holds ten of these.
#[allow(clippy::box_collection)]
pub enum SmallMap<K, V> {
    /// In no order.
    Few(Vec<(K, V)>),
    /// Once there were more than [`FEW`].
    Many(Box<HashMap<K, V, RandomState>>),
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<K: Hash + Eq, V> SmallMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Few(list) => list.iter().find(|(other, _)| other.borrow() == key).map(|(_, value)| value),
            Self::Many(map) => map.get(key),
        }
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Few(list) => {
                list.iter_mut().find(|(other, _)| (*other).borrow() == key).map(|(_, value)| value)
            }
            Self::Many(map) => map.get_mut(key),
        }
    }

    /// Whether the key has a value.
    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Give a key its value; the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Self::Few(list) = self {
            if let Some((_, old)) = list.iter_mut().find(|(other, _)| *other == key) {
                return Some(std::mem::replace(old, value));
            }
            if list.len() < FEW {
                list.reserve_exact(1);
                list.push((key, value));
                return None;
            }
            *self = Self::Many(Box::new(list.drain(..).collect()));
        }
        match self {
            Self::Few(_) => unreachable!("it was just made the other"),
            Self::Many(map) => map.insert(key, value),
        }
    }

    /// Take a key's value out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Few(list) => {
                let at = list.iter().position(|(other, _)| other.borrow() == key)?;
                Some(list.swap_remove(at).1)
            }
            Self::Many(map) => map.remove(key),
        }
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (few, many) = match self {
            Self::Few(list) => (Some(list.iter().map(|(key, value)| (key, value))), None),
            Self::Many(map) => (None, Some(map.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Keep the entries that `keeps` wants.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &mut V) -> bool) {
        match self {
            Self::Few(list) => list.retain_mut(|(key, value)| keeps(key, value)),
            Self::Many(map) => map.retain(keeps),
        }
    }
}

impl<K: Hash + Eq, V: Default> SmallMap<K, V> {
    /// The value of a key, made if it has none.
    pub fn get_or_default(&mut self, key: K) -> &mut V
    where
        K: Clone,
    {
        if !self.contains_key(&key) {
            self.insert(key.clone(), V::default());
        }
        self.get_mut(&key).expect("it was just put in")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is done to it, it holds what a map would.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u8..4, 0_u8..12, any::<u16>()), 0..200)) {
            let mut small = SmallMap::default();
            let mut model = HashMap::new();
            for (what, key, value) in steps {
                match what {
                    0 | 1 => prop_assert_eq!(small.insert(key, value), model.insert(key, value)),
                    2 => prop_assert_eq!(small.remove(&key), model.remove(&key)),
                    _ => {
                        small.retain(|other, _| *other % 3 != key % 3);
                        model.retain(|other, _| *other % 3 != key % 3);
                    }
                }
                prop_assert_eq!(small.len(), model.len());
                prop_assert_eq!(small.get(&key), model.get(&key));
                let mut entries: Vec<_> = small.iter().map(|(key, value)| (*key, *value)).collect();
                let mut expected: Vec<_> = model.iter().map(|(key, value)| (*key, *value)).collect();
                entries.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(entries, expected);
            }
        }
    }

    #[test]
    fn few_have_room_for_themselves_alone() {
        let mut map = SmallMap::default();
        map.insert(1, "one");
        assert!(matches!(&map, SmallMap::Few(list) if list.capacity() == 1));
    }
}
