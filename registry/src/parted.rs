//! An ordered map in parts that are shared with whoever writes them down, and copied on change one by one.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A change while a million entries are written copies a few thousand of them.
const PART_COUNT: usize = 128;

/// Entries by their keys. A clone costs one reference count per part; an empty map takes no room.
#[derive(Clone, Debug)]
pub struct PartedMap<K, V> {
    /// Empty before the first entry.
    parts: Vec<Arc<BTreeMap<K, V>>>,
    count: usize,
}

impl<K, V> Default for PartedMap<K, V> {
    fn default() -> Self {
        Self { parts: Vec::new(), count: 0 }
    }
}

impl<K: Ord + Clone + AsRef<str>, V: Clone> PartedMap<K, V> {
    /// The entry of this key.
    pub fn find(&self, key: &K) -> Option<&V> {
        self.parts.get(place(key))?.get(key)
    }

    /// Put an entry in, instead of the one that there is.
    pub fn insert(&mut self, key: K, value: V) {
        self.parts.resize_with(PART_COUNT, Arc::default);
        let before = Arc::make_mut(&mut self.parts[place(&key)]).insert(key, value);
        self.count += usize::from(before.is_none());
    }

    /// Take an entry out. Nothing is copied where there is none.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key)?;
        self.count -= 1;
        Arc::make_mut(&mut self.parts[place(key)]).remove(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    /// In the order of keys, those behind `after`.
    pub fn after(&self, after: Option<&K>) -> impl Iterator<Item = (&K, &V)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut parts: Vec<_> =
            self.parts.iter().map(|part| part.range((from, Bound::Unbounded)).peekable()).collect();
        std::iter::from_fn(move || {
            let next = parts.iter_mut().filter_map(|part| part.peek().map(|(key, _)| *key)).min()?;
            parts.iter_mut().find_map(|part| part.next_if(|(key, _)| *key == next))
        })
    }
}

fn place(key: &impl AsRef<str>) -> usize {
    crc32fast::hash(key.as_ref().as_bytes()) as usize % PART_COUNT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_not_changed_by_what_comes_later_and_pages_are_ordered() {
        let mut map = PartedMap::default();
        for number in 0..1000_u32 {
            map.insert(format!("{number:04}"), number);
        }
        let copy = map.clone();
        for number in (0..1000_u32).step_by(2) {
            assert_eq!(map.remove(&format!("{number:04}")), Some(number));
        }
        map.insert("0001".into(), 7);
        assert_eq!((map.len(), copy.len(), map.find(&"0001".into())), (500, 1000, Some(&7)));
        assert_eq!(map.remove(&"none".into()), None);
        let page: Vec<u32> = map.after(Some(&"0001".into())).take(3).map(|(_, number)| *number).collect();
        assert_eq!(page, [3, 5, 7]);
        let all: Vec<u32> = copy.after(None).map(|(_, number)| *number).collect();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        assert_eq!(copy.iter().count(), 1000);
    }
}
