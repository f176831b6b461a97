//! The steps of each slow action, over the primitive operations of one directory, in the order that survives a power cut
//! between any two of them.
//!
//! The operating system ([`super::disk::DiskDirectory`]) and the simulated disk share these functions, so that what is
//! tested by cutting power is what runs. They block; a form that may not block calls them on a thread of its own.
//!
//! | name in the directory | what it is |
//! |---|---|
//! | `{number:016x}.segment` | a segment |
//! | `{number:016x}.preparing` | a segment that is not ready; removed at the next start |
//! | `{number:016x}.free` | a retired segment that waits for recycling; worth nothing but its room |
//! | `{name}.replacing` | the next content of a file; removed at the next start |

use super::{BLOCK_BYTES, SegmentNumber, StorageError};

/// How many retired files a directory keeps for recycling.
pub const FREE_FILES_MAX: usize = 1;

/// The primitive operations of one directory. Names have no separators in them.
pub trait Directory {
    /// An open file.
    type File;

    /// Each file's name and length in bytes.
    fn names(&mut self) -> Result<Vec<(String, u64)>, StorageError>;
    /// Create an empty file; one of that name is emptied.
    fn create(&mut self, name: &str) -> Result<Self::File, StorageError>;
    /// Open an existing file.
    fn open(&mut self, name: &str) -> Result<Self::File, StorageError>;
    /// The file's length in bytes.
    fn bytes(&mut self, file: &Self::File) -> Result<u64, StorageError>;
    /// Lengthen the file to `to` bytes; all from `from` on is allocated and written with zeros, so that a later write and
    /// sync changes no metadata.
    fn allocate(&mut self, file: &Self::File, from: u64, to: u64) -> Result<(), StorageError>;
    /// Cut the file to `bytes`. Never called on a file that is mapped.
    fn shorten(&mut self, file: &Self::File, bytes: u64) -> Result<(), StorageError>;
    /// Write all of `bytes` at `position`; both are multiples of [`BLOCK_BYTES`] but for files written by [`replace`].
    fn write(&mut self, file: &Self::File, position: u64, bytes: &[u8]) -> Result<(), StorageError>;
    /// Make the file's content and length durable.
    fn sync(&mut self, file: &Self::File) -> Result<(), StorageError>;
    /// Rename, replacing a file of the new name.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), StorageError>;
    /// Remove a name.
    fn unlink(&mut self, name: &str) -> Result<(), StorageError>;
    /// Make creations, renames and removals durable.
    fn sync_names(&mut self) -> Result<(), StorageError>;
}

/// At the start: remove what a crash left half made, and make durable what names the last process left. Segments stay, and so
/// do retired files within [`FREE_FILES_MAX`].
///
/// Without the sync, a power cut later could bring back a name from before the start: that of a retired segment, whose file
/// has been written over since, or a replaced file's old content, by which nothing was decided any more.
pub fn clean<D: Directory>(directory: &mut D) -> Result<(), StorageError> {
    let mut kept_free = 0;
    for (name, _) in directory.names()? {
        let stale = name.ends_with(".preparing") || name.ends_with(".replacing");
        if name.ends_with(".free") && kept_free < FREE_FILES_MAX {
            kept_free += 1;
        } else if stale || name.ends_with(".free") {
            directory.unlink(&name)?;
        }
    }
    directory.sync_names()
}

/// Make a segment's file: recycle or create, allocate, write the header, sync, rename, sync the directory.
///
/// The name appears only when header and extents are durable. A recycled file keeps its old bytes behind the header: they
/// belong to another epoch and never validate. It leaves its place at once: the next one to retire may have it.
///
/// Errors: any; nothing is left behind that the next try or start does not remove. `NoSpace` is the usual one.
pub fn prepare<D: Directory>(
    directory: &mut D,
    segment: SegmentNumber,
    bytes: u64,
    header: &[u8],
) -> Result<(), StorageError> {
    let free = directory.names()?.into_iter().find(|(name, _)| name.ends_with(".free"));
    let temporary = format!("{segment}.preparing");
    let made = (|| {
        let (file, from) = match free {
            Some((name, free_bytes)) => {
                directory.rename(&name, &temporary)?;
                (directory.open(&temporary)?, free_bytes)
            }
            None => (directory.create(&temporary)?, 0),
        };
        if from > bytes {
            directory.shorten(&file, bytes)?;
        } else if from < bytes {
            directory.allocate(&file, from, bytes)?;
        }
        directory.write(&file, 0, header)?;
        directory.sync(&file)?;
        directory.rename(&temporary, &segment.file_name())?;
        directory.sync_names()
    })();
    made.inspect_err(|_| {
        // The room it took is given back. Where even that fails the next start removes the file: it is not finished, or it
        // has no records.
        let _ = directory.unlink(&temporary).or_else(|_| directory.unlink(&segment.file_name()));
    })
}

/// Close a segment: write the footer so that it ends at `file_bytes`, sync, shorten the file to that, sync.
///
/// The footer is durable before the file is cut: a file that is shorter than its header says and has no footer was
/// damaged by someone else.
pub fn seal<D: Directory>(
    directory: &mut D,
    segment: SegmentNumber,
    file_bytes: u64,
    footer: &[u8],
) -> Result<(), StorageError> {
    assert!(
        footer.len() as u64 <= file_bytes && footer.len().is_multiple_of(BLOCK_BYTES),
        "a footer of whole blocks"
    );
    let file = directory.open(&segment.file_name())?;
    directory.write(&file, file_bytes - footer.len() as u64, footer)?;
    directory.sync(&file)?;
    if directory.bytes(&file)? > file_bytes {
        directory.shorten(&file, file_bytes)?;
        directory.sync(&file)?;
    }
    Ok(())
}

/// Retire a segment: keep its file for recycling where `recyclable` (nobody maps it), or unlink it; sync the directory. Of
/// more than [`FREE_FILES_MAX`] the largest stay: they need the fewest zeros. A segment that is already gone is a success.
pub fn remove<D: Directory>(
    directory: &mut D,
    segment: SegmentNumber,
    recyclable: bool,
) -> Result<(), StorageError> {
    let name = segment.file_name();
    let names = directory.names()?;
    let Some((_, bytes)) = names.iter().find(|(there, _)| *there == name) else {
        return directory.sync_names();
    };
    let free = || names.iter().filter(|(name, _)| name.ends_with(".free"));
    let smallest = free().min_by_key(|(_, bytes)| bytes).filter(|_| free().count() >= FREE_FILES_MAX);
    if !recyclable || smallest.is_some_and(|(_, there)| there >= bytes) {
        directory.unlink(&name)?;
        return directory.sync_names();
    }
    if let Some((smaller, _)) = smallest {
        directory.unlink(smaller)?;
    }
    let free = format!("{segment}.free");
    directory.rename(&name, &free)?;
    directory.sync_names().inspect_err(|_| {
        // Written over while the old name may still be the durable one, it would come back as a broken segment.
        let _ = directory.unlink(&free);
    })
}

/// Replace a file whole: write the new content beside it, sync, rename over it, sync the directory.
pub fn replace<D: Directory>(directory: &mut D, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    assert!(SegmentNumber::from_file_name(name).is_none(), "segments are not replaced");
    let temporary = format!("{name}.replacing");
    let made = (|| {
        let file = directory.create(&temporary)?;
        directory.write(&file, 0, bytes)?;
        directory.sync(&file)?;
        directory.rename(&temporary, name)
    })();
    if let Err(error) = made {
        let _ = directory.unlink(&temporary);
        return Err(error);
    }
    directory.sync_names()
}
