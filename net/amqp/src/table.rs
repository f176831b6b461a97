//! Slots with generations: an id of something that is gone never means what came after it.

/// Up to this many slots there is room for exactly those that are used: most connections have one session with two or four
/// links, and stay so for their life.
const EXACT_SLOT_COUNT: usize = 4;

/// A table of at most `u32::MAX` values.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    count: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { slots: Vec::new(), free: Vec::new(), count: 0 }
    }
}

impl<T> Table<T> {
    /// Number of values.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Puts a value into the lowest slot that was freed last, or a new one. Returns slot and generation.
    pub(crate) fn insert(&mut self, value: T) -> (u32, u32) {
        self.count += 1;
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.value = Some(value);
            return (slot, entry.generation);
        }
        if self.slots.len() == self.slots.capacity() && self.slots.len() < EXACT_SLOT_COUNT {
            self.slots.reserve_exact(1);
        }
        self.slots.push(Slot { generation: 0, value: Some(value) });
        ((self.slots.len() - 1) as u32, 0)
    }

    /// The generation that the slot's value has, or would have.
    pub(crate) fn generation(&self, slot: u32) -> u32 {
        self.slots.get(slot as usize).map_or(0, |entry| entry.generation)
    }

    pub(crate) fn get(&self, slot: u32, generation: u32) -> Option<&T> {
        let entry = self.slots.get(slot as usize)?;
        entry.value.as_ref().filter(|_| entry.generation == generation)
    }

    pub(crate) fn get_mut(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        let entry = self.slots.get_mut(slot as usize)?;
        if entry.generation != generation {
            return None;
        }
        entry.value.as_mut()
    }

    /// The value in a slot, of whatever generation.
    pub(crate) fn at(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.value.as_ref()
    }

    /// See [`Table::at`].
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.value.as_mut()
    }

    /// Takes a value out; the slot's next user has another generation.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let entry = self.slots.get_mut(slot as usize)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
        self.count -= 1;
        Some(value)
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        for slot in 0..self.slots.len() as u32 {
            self.remove(slot);
        }
    }
}
