//! A disk in memory for tests: it cuts power, tears, refuses, fills up, flips bits and takes its time.
//!
//! It keeps two images. Readers see the volatile one; [`SimDisk::after_power_cut`] makes a new disk from the durable one and
//! a seeded choice of what was not synced: any subset of sectors, lengths and names, torn at 512 or 4096 bytes, with
//! garbage where a sector was being written. Each change of the medium is one numbered operation, so that a test can run a
//! workload once, ask how many there were, and then cut the power at every one of them.
//!
//! ```
//! use segment_log::storage::sim::{PowerCut, SimDisk};
//! use segment_log::{Log, LogConfig, Now, Offset, drive};
//!
//! let disk = SimDisk::new(7);
//! let mut storage = disk.storage("log");
//! let (mut log, _) = Log::open(&mut storage, LogConfig::default(), Now::default(), 1).unwrap();
//! log.append(&[&[b"kept"]], 0).unwrap();
//! drive(&mut log, &mut storage);
//! log.append(&[&[b"never asked for"]], 0).unwrap();
//!
//! let disk = disk.after_power_cut(PowerCut { seed: 3, sector_bytes: 512, garbage: true });
//! let (log, _) = Log::open(&mut disk.storage("log"), LogConfig::default(), Now::default(), 2).unwrap();
//! assert_eq!(log.committed(), Offset(1));
//! ```

mod directory;
mod image;

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::directory::{self as steps, Directory};
use super::disk::AlignedBuffer;
use super::{
    BLOCK_BYTES, Buffer, Cause, Completed, FileBytes, LogAction, LogDone, Mapping, Operation, SegmentFile,
    SegmentNumber, Storage, StorageError, Window,
};
use directory::SimDirectory;
use image::Image;
pub use image::PowerCut;

/// What happens at one operation of a simulated disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes: this operation and all that follow are never answered. A write may have happened in part.
    CutPower,
    /// The operation fails without effect. A sync that fails loses what it was to make durable: readers still see it, no
    /// later sync writes it.
    Refuse,
    /// The operation fails for want of space, without effect.
    NoSpace,
}

/// A simulated disk. Clones share it; it stays on one thread.
#[derive(Clone)]
pub struct SimDisk(Rc<RefCell<State>>);

struct State {
    image: Image,
    chance: ChaCha8Rng,
    operations: Vec<Operation>,
    faults: BTreeMap<u64, Fault>,
    capacity_bytes: Option<u64>,
    power_off: bool,
    delayed: bool,
    unreadable: Option<(String, SegmentNumber)>,
    pending: Vec<(u64, String, LogAction<AlignedBuffer>)>,
    done: BTreeMap<u64, VecDeque<LogDone<AlignedBuffer>>>,
    next_storage: u64,
}

impl SimDisk {
    /// An empty disk; `seed` decides the order of delayed actions.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::with_image(Image::default(), seed)
    }

    fn with_image(image: Image, seed: u64) -> SimDisk {
        SimDisk(Rc::new(RefCell::new(State {
            image,
            chance: ChaCha8Rng::seed_from_u64(seed),
            operations: Vec::new(),
            faults: BTreeMap::new(),
            capacity_bytes: None,
            power_off: false,
            delayed: false,
            unreadable: None,
            pending: Vec::new(),
            done: BTreeMap::new(),
            next_storage: 0,
        })))
    }

    /// The storage of one directory, which is made if it is missing. As at a start, what a crash left half made there is
    /// removed.
    pub fn storage(&self, directory: &str) -> SimStorage {
        let id = {
            let mut state = self.0.borrow_mut();
            state.image.names(directory);
            state.next_storage += 1;
            state.next_storage
        };
        let storage = SimStorage { disk: self.clone(), directory: directory.to_owned(), id };
        // Where the power goes in the middle of this, opening says so.
        let _ = steps::clean(&mut storage.directory());
        storage
    }

    /// How many operations changed the medium so far: writes, allocations, syncs, renames and so on.
    pub fn operation_count(&self) -> u64 {
        self.0.borrow().operations.len() as u64
    }

    /// What each operation was.
    pub fn operations(&self) -> Vec<Operation> {
        self.0.borrow().operations.clone()
    }

    /// Let a fault happen at an operation, counted from 0 over the disk's life.
    pub fn plan(&self, operation: u64, fault: Fault) {
        self.0.borrow_mut().faults.insert(operation, fault);
    }

    /// Cut the power at an operation, counted from 0 over the disk's life.
    pub fn cut_power_at(&self, operation: u64) {
        self.plan(operation, Fault::CutPower);
    }

    /// The power went.
    pub fn is_power_off(&self) -> bool {
        self.0.borrow().power_off
    }

    /// The disk as it comes back after a power cut at this moment, or at the one that was planned.
    pub fn after_power_cut(&self, cut: PowerCut) -> SimDisk {
        let mut chance = ChaCha8Rng::seed_from_u64(cut.seed);
        let image = self.0.borrow().image.cut(&cut, &mut chance);
        SimDisk::with_image(image, cut.seed)
    }

    /// The disk as the next process finds it after the end of this one: nothing that was written is lost, nothing unsynced
    /// is safe from a later power cut.
    pub fn after_kill(&self, seed: u64) -> SimDisk {
        SimDisk::with_image(self.0.borrow().image.kill(), seed)
    }

    /// Bytes of all files from which on allocations fail for want of space; `None` for no end.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.borrow_mut().capacity_bytes = bytes;
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.0.borrow().image.used_bytes()
    }

    /// From now on, actions wait for [`SimDisk::step`], and are carried out in a seeded order.
    pub fn set_delayed(&self, delayed: bool) {
        self.0.borrow_mut().delayed = delayed;
    }

    /// How many actions wait.
    pub fn pending_count(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// Carry out one of the waiting actions; false when there is none.
    pub fn step(&self) -> bool {
        let (id, directory, action) = {
            let mut state = self.0.borrow_mut();
            if state.pending.is_empty() {
                return false;
            }
            let count = state.pending.len();
            let at = state.chance.random_range(0..count);
            state.pending.swap_remove(at)
        };
        SimStorage { disk: self.clone(), directory, id }.carry_out(action);
        true
    }

    /// Loads of this segment fail as of an unreadable medium, until this is called with `None`.
    pub fn set_unreadable(&self, segment: Option<(&str, SegmentNumber)>) {
        let segment = segment.map(|(directory, number)| (directory.to_owned(), number));
        self.0.borrow_mut().unreadable = segment;
    }

    /// The names in a directory and the files' lengths.
    pub fn files(&self, directory: &str) -> Vec<(String, u64)> {
        let mut state = self.0.borrow_mut();
        let entries = state.image.names(directory).entries.clone();
        entries.into_iter().map(|(name, id)| (name, state.image.file(id).bytes.len() as u64)).collect()
    }

    /// A file's bytes as readers see them; empty where there is no such file.
    pub fn file_bytes(&self, directory: &str, name: &str) -> Vec<u8> {
        let mut state = self.0.borrow_mut();
        let id = state.image.find(directory, name);
        id.map(|id| state.image.file(id).bytes.clone()).unwrap_or_default()
    }

    /// Change a file behind everyone's back, in both images: flipped bits, zeroed sectors, misplaced blocks, truncation.
    /// Nothing happens where there is no such file.
    pub fn damage(&self, directory: &str, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.0.borrow_mut();
        if let Some(id) = state.image.find(directory, name) {
            state.image.file(id).damage(change);
        }
    }

    /// Take a file away behind everyone's back.
    pub fn lose_file(&self, directory: &str, name: &str) {
        let mut state = self.0.borrow_mut();
        let names = state.image.names(directory);
        names.unlink(name);
        names.sync();
    }
}

/// One directory of a [`SimDisk`] as a log's storage.
pub struct SimStorage {
    disk: SimDisk,
    directory: String,
    id: u64,
}

impl SimStorage {
    fn directory(&self) -> SimDirectory {
        SimDirectory { disk: self.disk.clone(), name: self.directory.clone() }
    }

    fn state(&self) -> RefMut<'_, State> {
        self.disk.0.borrow_mut()
    }

    fn carry_out(&mut self, action: LogAction<AlignedBuffer>) {
        let id = action.id();
        let result = self.perform(action);
        let storage = self.id;
        let mut state = self.state();
        if !state.power_off {
            state.done.entry(storage).or_default().push_back(LogDone { id, result });
        }
    }

    fn load(
        &self,
        segment: SegmentNumber,
        range: Range<u64>,
        sealed: bool,
    ) -> Result<Window<AlignedBuffer>, StorageError> {
        let mut state = self.state();
        if state.power_off {
            return Err(failed(Operation::Read, Cause::PowerCut));
        }
        if state
            .unreadable
            .as_ref()
            .is_some_and(|(there, number)| *there == self.directory && *number == segment)
        {
            return Err(failed(Operation::Read, Cause::Os(5)));
        }
        let id = state.image.find(&self.directory, &segment.file_name());
        let file = state.image.file(id.ok_or(failed(Operation::Read, Cause::Missing))?);
        let length = file.bytes.len();
        let start = (range.start as usize).min(length);
        let end = (range.end as usize).min(length);
        if sealed {
            let mapping = match file.map.upgrade() {
                Some(mapping) => mapping,
                None => {
                    let mapping = Arc::new(Mapping::from_bytes(&file.bytes));
                    file.map = Arc::downgrade(&mapping);
                    mapping
                }
            };
            return Ok(Window::Mapped(mapping, start..end));
        }
        let mut buffer =
            AlignedBuffer::allocate((end - start).next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES));
        buffer.bytes_mut()[..end - start].copy_from_slice(&file.bytes[start..end]);
        Ok(Window::Buffer(Rc::new(buffer), 0..end - start))
    }
}

impl Storage for SimStorage {
    type Buffer = AlignedBuffer;

    fn list(&mut self) -> Result<Vec<SegmentFile>, StorageError> {
        let names = self.directory().names()?;
        let segments = names.iter().filter_map(|(name, bytes)| {
            Some(SegmentFile { number: SegmentNumber::from_file_name(name)?, bytes: *bytes })
        });
        Ok(segments.collect())
    }

    fn read(
        &mut self,
        segment: SegmentNumber,
        position: u64,
        into: &mut [u8],
    ) -> Result<usize, StorageError> {
        let mut state = self.state();
        if state.power_off {
            return Err(failed(Operation::Read, Cause::PowerCut));
        }
        let id = state.image.find(&self.directory, &segment.file_name());
        let bytes = &state.image.file(id.ok_or(failed(Operation::Read, Cause::Missing))?).bytes;
        let start = (position as usize).min(bytes.len());
        let count = into.len().min(bytes.len() - start);
        into[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn read_file(&mut self, name: &str) -> Result<Option<FileBytes>, StorageError> {
        let mut state = self.state();
        if state.power_off {
            return Err(failed(Operation::Read, Cause::PowerCut));
        }
        let id = state.image.find(&self.directory, name);
        Ok(id.map(|id| Arc::new(Mapping::from_bytes(&state.image.file(id).bytes))))
    }

    fn perform(
        &mut self,
        action: LogAction<AlignedBuffer>,
    ) -> Result<Completed<AlignedBuffer>, StorageError> {
        let mut names = self.directory();
        match action {
            LogAction::Prepare { segment, bytes, header, .. } => {
                steps::prepare(&mut names, segment, bytes, header.bytes())?;
            }
            LogAction::Write { segment, position, buffer, bytes, durable, .. } => {
                let file = names.open(&segment.file_name())?;
                let end = position + bytes as u64;
                let length = names.bytes(&file)?.next_multiple_of(BLOCK_BYTES as u64);
                assert!(end <= length, "a segment is written within its prepared length");
                names.write(&file, position, &buffer.bytes()[..bytes])?;
                if durable {
                    names.sync(&file)?;
                }
            }
            LogAction::Sync { segment, .. } => {
                let file = names.open(&segment.file_name())?;
                names.sync(&file)?;
            }
            LogAction::Seal { segment, file_bytes, footer, .. } => {
                steps::seal(&mut names, segment, file_bytes, footer.bytes())?;
            }
            LogAction::Load { segment, position, bytes, sealed, .. } => {
                let range = position..position + bytes as u64;
                return self.load(segment, range, sealed).map(Completed::Loaded);
            }
            LogAction::Remove { segment, .. } => {
                let mapped = {
                    let mut state = self.state();
                    let id = state.image.find(&self.directory, &segment.file_name());
                    id.is_some_and(|id| state.image.file(id).map.strong_count() > 0)
                };
                steps::remove(&mut names, segment, !mapped)?;
            }
            LogAction::Replace { name, bytes, .. } => steps::replace(&mut names, &name, &bytes)?,
        }
        Ok(Completed::Unit)
    }

    fn submit(&mut self, action: LogAction<AlignedBuffer>) {
        let (id, directory) = (self.id, self.directory.clone());
        let mut state = self.state();
        if state.delayed {
            state.pending.push((id, directory, action));
        } else {
            drop(state);
            self.carry_out(action);
        }
    }

    fn poll_done(&mut self) -> Option<LogDone<AlignedBuffer>> {
        let id = self.id;
        self.state().done.get_mut(&id)?.pop_front()
    }
}

fn failed(operation: Operation, cause: Cause) -> StorageError {
    StorageError { operation, cause }
}
