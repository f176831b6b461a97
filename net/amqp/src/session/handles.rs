//! Numbers that a peer chooses (handles, channels) and the slots that they stand for.

/// A sorted table: peers number from 0 without gaps, and then a number is its own place.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u32,
    slot: u32,
    /// Hash of whatever the entry may be looked up by besides its number.
    hash: u32,
}

impl Handles {
    /// The slot behind a number.
    pub(crate) fn find(&self, number: u32) -> Option<u32> {
        match self.entries.get(number as usize) {
            Some(entry) if entry.number == number => Some(entry.slot),
            _ => self.place(number).ok().map(|place| self.entries[place].slot),
        }
    }

    /// Puts a slot behind a number, in place of another.
    pub(crate) fn insert(&mut self, number: u32, slot: u32, hash: u32) {
        let entry = Entry { number, slot, hash };
        match self.place(number) {
            Ok(place) => self.entries[place] = entry,
            Err(place) => self.entries.insert(place, entry),
        }
    }

    /// Takes a number out.
    pub(crate) fn remove(&mut self, number: u32) {
        if let Ok(place) = self.place(number) {
            self.entries.remove(place);
        }
    }

    /// The slots whose hash is this one.
    pub(crate) fn with_hash(&self, hash: u32) -> impl Iterator<Item = u32> {
        self.entries.iter().filter(move |entry| entry.hash == hash).map(|entry| entry.slot)
    }

    /// All slots, by number.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().map(|entry| entry.slot)
    }

    /// The lowest number that is not taken.
    pub(crate) fn lowest_free(&self) -> u32 {
        match self.entries.last() {
            Some(last) if last.number as usize == self.entries.len() - 1 => last.number + 1,
            _ => {
                (0..).zip(&self.entries).take_while(|(number, entry)| *number == entry.number).count() as u32
            }
        }
    }

    fn place(&self, number: u32) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&number, |entry| entry.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_dense_and_sparse() {
        let mut handles = Handles::default();
        for number in [7, 0, 262_143, 1] {
            handles.insert(number, number + 100, 0);
        }
        for number in [7, 0, 262_143, 1] {
            assert_eq!(handles.find(number), Some(number + 100));
        }
        assert_eq!(handles.find(2), None);
        assert_eq!(handles.lowest_free(), 2);
        handles.remove(0);
        assert_eq!((handles.find(0), handles.lowest_free()), (None, 0));
    }
}
