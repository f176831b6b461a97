//! A disk that forgets at a cut what was not synced.
//!
//! [`Image`] is the model: what programs see ("volatile") and what the medium holds ("durable"). A file's pages and size
//! become durable when the file is synced, a directory's entries when the directory is. At a cut the durable state is what
//! remains, and of what was not synced any part, down to single sectors. [`mounted`] makes a real file system of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

pub mod mounted;

/// Bytes of a page, the unit in which a file is kept.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a sector, the unit that a cut leaves whole.
pub const SECTOR_BYTES: usize = 512;
/// The number of the root directory.
pub const ROOT: u64 = 1;

type Page = [u8; PAGE_BYTES];

/// Why an operation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such name or number.
    Missing,
    /// The name is taken.
    Exists,
    /// The directory has entries.
    NotEmpty,
    /// A directory where a file is needed, or the other way round.
    WrongKind,
}

/// All files and directories, by number.
#[derive(Debug)]
pub struct Image {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Seed of what survives a cut.
    chance: u64,
    /// Answer syncs without doing them: a disk that lies.
    pub ignores_syncs: bool,
}

/// A file or a directory.
#[derive(Clone, Debug)]
pub struct Node {
    /// Permission bits.
    pub mode: u16,
    /// What it holds.
    pub content: Content,
}

/// What a node holds, as programs see it and on the medium.
#[derive(Clone, Debug)]
pub enum Content {
    /// A file.
    File {
        /// As programs see it.
        volatile: Bytes,
        /// On the medium.
        durable: Bytes,
        /// Pages that differ.
        dirty: BTreeSet<u64>,
    },
    /// A directory.
    Directory {
        /// As programs see it.
        volatile: BTreeMap<OsString, u64>,
        /// On the medium.
        durable: BTreeMap<OsString, u64>,
    },
}

/// A file's bytes; pages that were never written are zeros.
#[derive(Clone, Debug, Default)]
pub struct Bytes {
    pages: BTreeMap<u64, Arc<Page>>,
    size: u64,
}

impl Bytes {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pages that hold something.
    pub fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    fn read(&self, position: u64, bytes: usize) -> Vec<u8> {
        let end = self.size.min(position.saturating_add(bytes as u64));
        let mut read = Vec::with_capacity(end.saturating_sub(position) as usize);
        let mut position = position;
        while position < end {
            let (index, start) = split(position);
            let count = (PAGE_BYTES - start).min((end - position) as usize);
            match self.pages.get(&index) {
                Some(page) => read.extend_from_slice(&page[start..start + count]),
                None => read.resize(read.len() + count, 0),
            }
            position += count as u64;
        }
        read
    }

    fn write(&mut self, position: u64, mut data: &[u8], dirty: &mut BTreeSet<u64>) {
        let mut position = position;
        self.size = self.size.max(position + data.len() as u64);
        while !data.is_empty() {
            let (index, start) = split(position);
            let (now, later) = data.split_at((PAGE_BYTES - start).min(data.len()));
            let page = self.pages.entry(index).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(page)[start..start + now.len()].copy_from_slice(now);
            dirty.insert(index);
            position += now.len() as u64;
            data = later;
        }
    }

    fn resize(&mut self, size: u64, dirty: &mut BTreeSet<u64>) {
        if size < self.size {
            let (last, start) = split(size);
            dirty.extend(self.pages.split_off(&last.saturating_add(u64::from(start > 0))).into_keys());
            if let Some(page) = self.pages.get_mut(&last).filter(|_| start > 0) {
                Arc::make_mut(page)[start..].fill(0);
                dirty.insert(last);
            }
        }
        self.size = size;
    }

    fn page(&self, index: u64) -> Page {
        self.pages.get(&index).map_or([0; PAGE_BYTES], |page| **page)
    }

    fn take_page(&mut self, index: u64, from: &Self) {
        match from.pages.get(&index) {
            Some(page) => drop(self.pages.insert(index, Arc::clone(page))),
            None => drop(self.pages.remove(&index)),
        }
    }
}

fn split(position: u64) -> (u64, usize) {
    (position / PAGE_BYTES as u64, (position % PAGE_BYTES as u64) as usize)
}

impl Image {
    /// An empty disk; `seed` decides what survives cuts beyond what was synced.
    pub fn new(seed: u64) -> Self {
        let content = Content::Directory { volatile: BTreeMap::new(), durable: BTreeMap::new() };
        let nodes = BTreeMap::from([(ROOT, Node { mode: 0o755, content })]);
        Self { nodes, next: ROOT + 1, chance: seed, ignores_syncs: false }
    }

    /// A node by its number.
    pub fn node(&self, number: u64) -> Result<&Node, Refused> {
        self.nodes.get(&number).ok_or(Refused::Missing)
    }

    /// The number behind a name.
    pub fn find(&self, parent: u64, name: &OsStr) -> Result<u64, Refused> {
        self.entries(parent)?.get(name).copied().ok_or(Refused::Missing)
    }

    /// A directory's entries.
    pub fn entries(&self, number: u64) -> Result<&BTreeMap<OsString, u64>, Refused> {
        match &self.node(number)?.content {
            Content::Directory { volatile, .. } => Ok(volatile),
            Content::File { .. } => Err(Refused::WrongKind),
        }
    }

    /// Make an empty file.
    pub fn create_file(&mut self, parent: u64, name: &OsStr, mode: u16) -> Result<u64, Refused> {
        let content =
            Content::File { volatile: Bytes::default(), durable: Bytes::default(), dirty: BTreeSet::new() };
        self.create(parent, name, Node { mode, content })
    }

    /// Make an empty directory.
    pub fn create_directory(&mut self, parent: u64, name: &OsStr, mode: u16) -> Result<u64, Refused> {
        let content = Content::Directory { volatile: BTreeMap::new(), durable: BTreeMap::new() };
        self.create(parent, name, Node { mode, content })
    }

    fn create(&mut self, parent: u64, name: &OsStr, node: Node) -> Result<u64, Refused> {
        let number = self.next;
        let entries = self.entries_mut(parent)?;
        if entries.contains_key(name) {
            return Err(Refused::Exists);
        }
        entries.insert(name.to_owned(), number);
        self.nodes.insert(number, node);
        self.next += 1;
        Ok(number)
    }

    /// Remove a name; the node lives on for those who have it open, and for a cut that finds the name still there.
    pub fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Refused> {
        let number = self.find(parent, name)?;
        if self.entries(number).is_ok_and(|entries| !entries.is_empty()) {
            return Err(Refused::NotEmpty);
        }
        self.entries_mut(parent)?.remove(name);
        Ok(())
    }

    /// Move a name, replacing what was there unless that is forbidden.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), replace: bool) -> Result<(), Refused> {
        let number = self.find(from.0, from.1)?;
        if let Ok(target) = self.find(to.0, to.1) {
            if !replace {
                return Err(Refused::Exists);
            }
            if self.entries(target).is_ok_and(|entries| !entries.is_empty()) {
                return Err(Refused::NotEmpty);
            }
        }
        self.entries_mut(from.0)?.remove(from.1);
        self.entries_mut(to.0)?.insert(to.1.to_owned(), number);
        Ok(())
    }

    /// Change permission bits.
    pub fn set_mode(&mut self, number: u64, mode: u16) -> Result<(), Refused> {
        self.nodes.get_mut(&number).ok_or(Refused::Missing)?.mode = mode;
        Ok(())
    }

    /// Bytes of a file, fewer at its end.
    pub fn read(&self, number: u64, position: u64, bytes: usize) -> Result<Vec<u8>, Refused> {
        match &self.node(number)?.content {
            Content::File { volatile, .. } => Ok(volatile.read(position, bytes)),
            Content::Directory { .. } => Err(Refused::WrongKind),
        }
    }

    /// Write into a file.
    pub fn write(&mut self, number: u64, position: u64, data: &[u8]) -> Result<(), Refused> {
        let (volatile, dirty) = self.file_mut(number)?;
        volatile.write(position, data, dirty);
        Ok(())
    }

    /// Shorten or lengthen a file.
    pub fn resize(&mut self, number: u64, size: u64) -> Result<(), Refused> {
        let (volatile, dirty) = self.file_mut(number)?;
        volatile.resize(size, dirty);
        Ok(())
    }

    /// Make a file's bytes or a directory's entries durable.
    pub fn sync(&mut self, number: u64) -> Result<(), Refused> {
        let ignored = self.ignores_syncs;
        let node = self.nodes.get_mut(&number).ok_or(Refused::Missing)?;
        match &mut node.content {
            _ if ignored => {}
            Content::File { volatile, durable, dirty } => {
                durable.size = volatile.size;
                for index in std::mem::take(dirty) {
                    durable.take_page(index, volatile);
                }
            }
            Content::Directory { volatile, durable } => durable.clone_from(volatile),
        }
        Ok(())
    }

    /// Lose the power: what remains is what is durable, and by chance parts of what was not yet.
    pub fn cut(&mut self) {
        let mut chance = self.chance;
        for node in self.nodes.values_mut() {
            match &mut node.content {
                Content::File { volatile, durable, dirty } => {
                    for index in std::mem::take(dirty) {
                        let survivor = torn(&durable.page(index), &volatile.page(index), &mut chance);
                        durable.pages.insert(index, Arc::new(survivor));
                    }
                    volatile.clone_from(durable);
                }
                Content::Directory { volatile, durable } => {
                    if draw(&mut chance).is_multiple_of(2) {
                        volatile.clone_from(durable);
                    } else {
                        durable.clone_from(volatile);
                    }
                }
            }
        }
        self.chance = chance;
        self.forget_unnamed();
    }

    /// Nodes that no directory names are gone once nobody can have them open.
    fn forget_unnamed(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        let mut waiting = vec![ROOT];
        while let Some(number) = waiting.pop() {
            for &child in self.entries(number).into_iter().flat_map(BTreeMap::values) {
                named.insert(child);
                waiting.push(child);
            }
        }
        self.nodes.retain(|number, _| named.contains(number));
    }

    fn entries_mut(&mut self, number: u64) -> Result<&mut BTreeMap<OsString, u64>, Refused> {
        match &mut self.nodes.get_mut(&number).ok_or(Refused::Missing)?.content {
            Content::Directory { volatile, .. } => Ok(volatile),
            Content::File { .. } => Err(Refused::WrongKind),
        }
    }

    fn file_mut(&mut self, number: u64) -> Result<(&mut Bytes, &mut BTreeSet<u64>), Refused> {
        match &mut self.nodes.get_mut(&number).ok_or(Refused::Missing)?.content {
            Content::File { volatile, dirty, .. } => Ok((volatile, dirty)),
            Content::Directory { .. } => Err(Refused::WrongKind),
        }
    }
}

/// What a page is after a cut that met its write: as before, as written, or some sectors of each.
fn torn(before: &Page, written: &Page, chance: &mut u64) -> Page {
    match draw(chance) % 4 {
        0 | 1 => *before,
        2 => *written,
        _ => {
            let mut page = *before;
            let sectors = page.chunks_exact_mut(SECTOR_BYTES).zip(written.chunks_exact(SECTOR_BYTES));
            for (sector, written) in sectors.filter(|_| draw(chance).is_multiple_of(2)) {
                sector.copy_from_slice(written);
            }
            page
        }
    }
}

/// splitmix64: small, seeded, good enough to choose sectors.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn what_was_synced_survives_every_cut() {
        for seed in 0..200 {
            let mut disk = Image::new(seed);
            let file = disk.create_file(ROOT, name("a"), 0o600).expect("a free name");
            disk.write(file, 100, &[1; 5000]).expect("a file");
            disk.sync(file).expect("a file");
            disk.sync(ROOT).expect("a directory");
            disk.write(file, 8192, &[2; 100]).expect("a file");
            disk.create_file(ROOT, name("b"), 0o600).expect("a free name");
            disk.cut();
            let kept = disk.read(disk.find(ROOT, name("a")).expect("synced"), 0, 20_000).expect("a file");
            assert_eq!(kept.len(), 5100);
            assert!(kept[..100].iter().all(|&byte| byte == 0) && kept[100..].iter().all(|&byte| byte == 1));
        }
    }

    #[test]
    fn what_was_not_synced_may_go_and_may_stay() {
        let outcomes: BTreeSet<(bool, Vec<u8>)> = (0..200)
            .map(|seed| {
                let mut disk = Image::new(seed);
                let file = disk.create_file(ROOT, name("a"), 0o600).expect("a free name");
                disk.resize(file, 1024).expect("a file");
                disk.sync(file).expect("a file");
                disk.sync(ROOT).expect("a directory");
                disk.write(file, 0, &[9; 1024]).expect("a file");
                disk.rename((ROOT, name("a")), (ROOT, name("b")), true).expect("a free name");
                disk.cut();
                let renamed = disk.find(ROOT, name("b")).is_ok();
                let kept = disk.read(file, 0, 1024).expect("a file");
                (renamed, vec![kept[0], kept[1023]])
            })
            .collect();
        assert_eq!(outcomes.len(), 8, "{outcomes:?}");
    }

    #[test]
    fn a_disk_that_ignores_syncs_loses() {
        let mut disk = Image::new(3);
        disk.ignores_syncs = true;
        let file = disk.create_file(ROOT, name("a"), 0o600).expect("a free name");
        disk.write(file, 0, &[1; 10]).expect("a file");
        disk.sync(file).expect("a file");
        disk.cut();
        assert_eq!(
            disk.node(file).map_or(0, |node| match &node.content {
                Content::File { durable, .. } => durable.size(),
                Content::Directory { .. } => 1,
            }),
            0
        );
    }

    #[test]
    fn a_shortened_file_is_zeros_when_it_grows_again() {
        let mut disk = Image::new(1);
        let file = disk.create_file(ROOT, name("a"), 0o600).expect("a free name");
        disk.write(file, 0, &[1; 10_000]).expect("a file");
        disk.resize(file, 5000).expect("a file");
        disk.resize(file, 10_000).expect("a file");
        let read = disk.read(file, 0, 10_000).expect("a file");
        assert!(read[..5000].iter().all(|&byte| byte == 1) && read[5000..].iter().all(|&byte| byte == 0));
    }
}
