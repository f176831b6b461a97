//! Requests that wait for their answer, by the token that comes back with it.

/// A table of waiting requests. A token names a slot and how often the slot was used, so that an answer to a request that
/// was forgotten (its link is gone) meets nobody.
#[derive(Debug)]
pub struct PendingTable<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// Boxed: a request is seldom, and the slots stay with the connection.
    value: Option<Box<T>>,
}

impl<T> Default for PendingTable<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> PendingTable<T> {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Keep `value` until its answer; returns the token to ask with.
    pub fn insert(&mut self, value: T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.value = Some(Box::new(value));
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    /// The request that `token` stands for, which now has its answer.
    pub fn remove(&mut self, token: u64) -> Option<T> {
        let index = token as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation != (token >> 32) as u32 {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_token_meets_nobody() {
        let mut table = PendingTable::default();
        let first = table.insert("a");
        let second = table.insert("b");
        assert_eq!(table.remove(first), Some("a"));
        assert_eq!(table.remove(first), None);
        let third = table.insert("c");
        assert_eq!(table.remove(first), None, "the slot has a new user");
        assert_eq!((table.remove(third), table.remove(second)), (Some("c"), Some("b")));
        assert_eq!(table.remove(u64::MAX), None);
    }
}
