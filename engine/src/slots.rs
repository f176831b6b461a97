//! A table with slots that are used again, and a generation that tells their users apart.

use std::collections::VecDeque;

/// Slots that stay free for a while, so that what they remember of their last user can still be told.
const REMEMBERED_COUNT: usize = 64;

/// A place in a [`Slots`] table: nobody who holds one can reach a later user of the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotKey {
    /// Which slot.
    pub slot: u32,
    /// Which of its users.
    pub generation: u32,
}

/// Values in numbered slots. `E` is what a freed slot remembers of its last user until the next one comes.
#[derive(Debug)]
pub(crate) struct Slots<T, E> {
    slots: Vec<Slot<T, E>>,
    /// The longest free first.
    free: VecDeque<u32>,
    count_max: u32,
}

#[derive(Debug)]
struct Slot<T, E> {
    generation: u32,
    state: State<T, E>,
}

#[derive(Debug)]
enum State<T, E> {
    Used(T),
    Free(E),
}

impl<T, E: Copy> Slots<T, E> {
    /// An empty table for at most `count_max` values.
    pub fn new(count_max: u32) -> Self {
        Self { slots: Vec::new(), free: VecDeque::new(), count_max }
    }

    /// Values in the table.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Put a value in; gives it back when the table is full.
    pub fn insert(&mut self, value: T) -> Result<SlotKey, T> {
        let is_full = self.slots.len() >= self.count_max as usize;
        if (is_full || self.free.len() > REMEMBERED_COUNT)
            && let Some(slot) = self.free.pop_front()
        {
            let place = &mut self.slots[slot as usize];
            place.generation = place.generation.wrapping_add(1);
            place.state = State::Used(value);
            return Ok(SlotKey { slot, generation: place.generation });
        }
        if is_full {
            return Err(value);
        }
        let slot = self.slots.len() as u32;
        self.slots.push(Slot { generation: 0, state: State::Used(value) });
        Ok(SlotKey { slot, generation: 0 })
    }

    /// Take a value out and leave `mark` in its place. None: it is gone already.
    pub fn remove(&mut self, key: SlotKey, mark: E) -> Option<T> {
        let place =
            self.slots.get_mut(key.slot as usize).filter(|place| place.generation == key.generation)?;
        match std::mem::replace(&mut place.state, State::Free(mark)) {
            State::Used(value) => {
                self.free.push_back(key.slot);
                Some(value)
            }
            State::Free(earlier) => {
                place.state = State::Free(earlier);
                None
            }
        }
    }

    /// A value.
    pub fn find(&self, key: SlotKey) -> Option<&T> {
        match self.slots.get(key.slot as usize) {
            Some(Slot { generation, state: State::Used(value) }) if *generation == key.generation => {
                Some(value)
            }
            _ => None,
        }
    }

    /// A value, to change it.
    pub fn find_mut(&mut self, key: SlotKey) -> Option<&mut T> {
        match self.slots.get_mut(key.slot as usize) {
            Some(Slot { generation, state: State::Used(value) }) if *generation == key.generation => {
                Some(value)
            }
            _ => None,
        }
    }

    /// What the slot remembers of a user that is gone; none once there was another.
    pub fn mark(&self, key: SlotKey) -> Option<E> {
        match self.slots.get(key.slot as usize) {
            Some(Slot { generation, state: State::Free(mark) }) if *generation == key.generation => {
                Some(*mark)
            }
            _ => None,
        }
    }

    /// All values, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (SlotKey, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| match &place.state {
            State::Used(value) => Some((SlotKey { slot: slot as u32, generation: place.generation }, value)),
            State::Free(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_user_of_a_slot_is_not_reached_by_an_old_key() {
        let mut slots: Slots<&str, char> = Slots::new(2);
        let first = slots.insert("first").unwrap();
        let second = slots.insert("second").unwrap();
        assert_eq!(slots.insert("third"), Err("third"));
        assert_eq!(slots.remove(first, 'x'), Some("first"));
        assert_eq!((slots.mark(first), slots.find(first)), (Some('x'), None));
        assert_eq!(slots.remove(first, 'y'), None);
        assert_eq!(slots.mark(first), Some('x'), "the first reason stays");
        let third = slots.insert("third").unwrap();
        assert_eq!(third.slot, first.slot);
        assert_eq!((slots.mark(first), slots.find(first)), (None, None));
        assert_eq!(slots.remove(first, 'z'), None);
        *slots.find_mut(third).unwrap() = "fourth";
        assert_eq!(slots.iter().map(|(_, value)| *value).collect::<Vec<_>>(), ["fourth", "second"]);
        assert_eq!((slots.len(), slots.find(second)), (2, Some(&"second")));
    }
}
