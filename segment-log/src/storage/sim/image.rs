//! What the simulated medium holds: for each file and each name, what a reader sees now and what a power cut leaves.

use std::collections::BTreeMap;
use std::sync::Weak;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use crate::storage::Mapping;

/// A file's own number; names come and go.
pub(super) type FileId = u64;

/// How a power cut treats what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerCut {
    /// Chooses what is kept.
    pub seed: u64,
    /// The unit that the medium writes whole, in bytes: 512 or 4096. Writes tear between such units.
    pub sector_bytes: usize,
    /// A unit that was being written may hold garbage: random bytes, zeros, or a piece of something else.
    pub garbage: bool,
}

/// One change that was not synced.
#[derive(Clone, Debug)]
enum Change {
    Write { position: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Clone, Debug, Default)]
pub(super) struct File {
    /// What a reader sees.
    pub(super) bytes: Vec<u8>,
    /// What was synced.
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    pub(super) map: Weak<Mapping>,
}

impl File {
    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        self.assert_unmapped();
        put(&mut self.bytes, position, bytes);
        self.unsynced.push(Change::Write { position, bytes: bytes.to_vec() });
    }

    pub(super) fn set_length(&mut self, bytes: u64) {
        self.assert_unmapped();
        self.bytes.resize(bytes as usize, 0);
        self.unsynced.push(Change::Length(bytes));
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// A failed sync: what was to be written is forgotten, though readers still see it.
    pub(super) fn lose_unsynced(&mut self) {
        self.unsynced.clear();
    }

    /// Change both images: damage that nobody asked for.
    pub(super) fn damage(&mut self, change: impl Fn(&mut Vec<u8>)) {
        change(&mut self.bytes);
        change(&mut self.durable);
    }

    fn assert_unmapped(&self) {
        assert_eq!(self.map.strong_count(), 0, "a file is never written or cut while it is mapped");
    }

    /// What is left after a power cut.
    fn cut(&self, cut: &PowerCut, keep: Keep, chance: &mut ChaCha8Rng) -> File {
        let mut left = self.durable.clone();
        for change in &self.unsynced {
            match change {
                Change::Length(_) if keep.decide(chance) => apply(&mut left, change),
                Change::Length(_) => {}
                Change::Write { position, bytes } => {
                    for (at, sector) in bytes.chunks(cut.sector_bytes).enumerate() {
                        let start = position + (at * cut.sector_bytes) as u64;
                        if keep.decide(chance) {
                            put(&mut left, start, sector);
                        } else if cut.garbage && chance.random_ratio(1, 3) {
                            put(&mut left, start, &garbage(sector, &self.bytes, chance));
                        }
                    }
                }
            }
        }
        File { bytes: left.clone(), durable: left, unsynced: Vec::new(), map: Weak::new() }
    }
}

/// How much of what was not synced survives.
#[derive(Clone, Copy)]
enum Keep {
    Nothing,
    Everything,
    Some(u32),
}

impl Keep {
    fn decide(self, chance: &mut ChaCha8Rng) -> bool {
        match self {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Some(in_8) => chance.random_ratio(in_8, 8),
        }
    }
}

/// A torn sector: noise, zeros, the half of what was meant, or a sector from elsewhere in the file.
fn garbage(meant: &[u8], file: &[u8], chance: &mut ChaCha8Rng) -> Vec<u8> {
    let mut sector = vec![0; meant.len()];
    match chance.random_range(0..4) {
        0 => chance.fill_bytes(&mut sector),
        1 => {}
        2 => {
            let half = meant.len() / 2;
            sector[..half].copy_from_slice(&meant[..half]);
        }
        _ => {
            let sectors = (file.len() / meant.len()).max(1);
            let start = chance.random_range(0..sectors) * meant.len();
            if let Some(other) = file.get(start..start + meant.len()) {
                sector.copy_from_slice(other);
            }
        }
    }
    sector
}

fn put(bytes: &mut Vec<u8>, position: u64, content: &[u8]) {
    let start = position as usize;
    if bytes.len() < start + content.len() {
        bytes.resize(start + content.len(), 0);
    }
    bytes[start..start + content.len()].copy_from_slice(content);
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { position, bytes: content } => put(bytes, *position, content),
        Change::Length(length) => bytes.resize(*length as usize, 0),
    }
}

/// One change of a directory's entries that was not synced.
#[derive(Clone, Debug)]
enum NameChange {
    Link(String, FileId),
    Unlink(String),
    Rename(String, String, FileId),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) entries: BTreeMap<String, FileId>,
    durable: BTreeMap<String, FileId>,
    unsynced: Vec<NameChange>,
}

impl Names {
    pub(super) fn link(&mut self, name: &str, file: FileId) {
        self.change(NameChange::Link(name.to_owned(), file));
    }

    pub(super) fn unlink(&mut self, name: &str) {
        self.change(NameChange::Unlink(name.to_owned()));
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, file: FileId) {
        self.change(NameChange::Rename(from.to_owned(), to.to_owned(), file));
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.entries);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn cut(&self, keep: Keep, chance: &mut ChaCha8Rng) -> Names {
        let mut entries = self.durable.clone();
        for change in &self.unsynced {
            if keep.decide(chance) {
                change.apply(&mut entries);
            }
        }
        Names { durable: entries.clone(), entries, unsynced: Vec::new() }
    }
}

impl NameChange {
    fn apply(&self, entries: &mut BTreeMap<String, FileId>) {
        match self {
            NameChange::Link(name, file) => {
                entries.insert(name.clone(), *file);
            }
            NameChange::Unlink(name) => {
                entries.remove(name);
            }
            NameChange::Rename(from, to, file) => {
                if entries.get(from) == Some(file) {
                    entries.remove(from);
                }
                entries.insert(to.clone(), *file);
            }
        }
    }
}

/// All directories and files of a simulated disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) directories: BTreeMap<String, Names>,
    pub(super) files: BTreeMap<FileId, File>,
    next_file: FileId,
}

impl Image {
    pub(super) fn create(&mut self, directory: &str, name: &str) -> FileId {
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, File::default());
        self.names(directory).link(name, id);
        id
    }

    pub(super) fn names(&mut self, directory: &str) -> &mut Names {
        self.directories.entry(directory.to_owned()).or_default()
    }

    pub(super) fn find(&self, directory: &str, name: &str) -> Option<FileId> {
        self.directories.get(directory)?.entries.get(name).copied()
    }

    pub(super) fn file(&mut self, id: FileId) -> &mut File {
        self.files.get_mut(&id).expect("a file that was opened is there")
    }

    /// Bytes of all files that have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        let named = self.directories.values().flat_map(|names| names.entries.values());
        named.filter_map(|id| self.files.get(id)).map(|file| file.bytes.len() as u64).sum()
    }

    /// What a power cut leaves.
    pub(super) fn cut(&self, cut: &PowerCut, chance: &mut ChaCha8Rng) -> Image {
        let keep = match chance.random_range(0..6) {
            0 => Keep::Nothing,
            1 => Keep::Everything,
            some => Keep::Some(some * 3 / 2),
        };
        let directories: BTreeMap<_, _> =
            self.directories.iter().map(|(name, names)| (name.clone(), names.cut(keep, chance))).collect();
        let named: Vec<FileId> =
            directories.values().flat_map(|names: &Names| names.entries.values().copied()).collect();
        let files = self.files.iter().filter(|(id, _)| named.contains(id));
        let files = files.map(|(id, file)| (*id, file.cut(cut, keep, chance))).collect();
        Image { directories, files, next_file: self.next_file }
    }

    /// What the end of the process leaves: everything that readers saw.
    pub(super) fn kill(&self) -> Image {
        let mut image = self.clone();
        for file in image.files.values_mut() {
            file.map = Weak::new();
        }
        image
    }
}
