//! The forgetful disk as a real file system: FUSE, spoken without libfuse.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use super::{Content, Image, Node, PAGE_BYTES, Refused};
use crate::fresh_directory;
use crate::process::wait_until;

/// All changes go through the kernel, which may therefore remember names and attributes.
const REMEMBER: Duration = Duration::from_secs(60);
/// `FALLOC_FL_KEEP_SIZE`, `FALLOC_FL_PUNCH_HOLE` and `FALLOC_FL_ZERO_RANGE`.
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

/// The disk and where it is mounted.
#[derive(Debug)]
pub struct ForgetfulDisk {
    power: Arc<Mutex<Power>>,
    directory: TempDir,
    session: Option<BackgroundSession>,
}

#[derive(Debug)]
struct Power {
    image: Image,
    on: bool,
    sync_count: u64,
}

impl ForgetfulDisk {
    /// Mount an empty disk. Fails where `/dev/fuse` or the right to mount is missing.
    pub fn mount(seed: u64) -> io::Result<Self> {
        let power = Arc::new(Mutex::new(Power { image: Image::new(seed), on: true, sync_count: 0 }));
        let mut disk = Self { power, directory: fresh_directory("disk"), session: None };
        disk.attach()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// From now on syncs are answered and not done, or done again.
    pub fn ignore_syncs(&self, ignore: bool) {
        self.power().image.ignores_syncs = ignore;
    }

    /// How many syncs it was asked for.
    pub fn sync_count(&self) -> u64 {
        self.power().sync_count
    }

    /// Lose the power: every operation fails from now on, and nothing changes any more.
    pub fn cut(&self) {
        let mut power = self.power();
        power.on = false;
        power.image.cut();
    }

    /// Bring what remained after a cut back, once nobody has a file open.
    pub fn restore(&mut self) {
        self.detach();
        self.power().on = true;
        self.attach().expect("what was mounted once can be mounted again");
    }

    fn attach(&mut self) -> io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forgetful".to_owned()), MountOption::NoAtime];
        let mounted = Mounted { power: Arc::clone(&self.power) };
        self.session = Some(fuser::spawn_mount(mounted, self.directory.path(), &config)?);
        Ok(())
    }

    fn detach(&mut self) {
        let Some(session) = self.session.take() else { return };
        // The kernel lets go of a killed process's files a moment after the process is gone.
        let gone = || unmount(self.directory.path(), UnmountFlags::empty()).ok();
        if wait_until(Duration::from_secs(5), gone).is_none() {
            unmount(self.directory.path(), UnmountFlags::DETACH).expect("a mount of our own can be detached");
        }
        match session.join() {
            Ok(()) => {}
            // The kernel may end a mount in this way, too: fuser issue 212.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => panic!("the file system ends when it is unmounted: {error}"),
        }
    }

    fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().expect("no operation panics")
    }
}

impl Drop for ForgetfulDisk {
    fn drop(&mut self) {
        self.detach();
    }
}

struct Mounted {
    power: Arc<Mutex<Power>>,
}

impl Mounted {
    /// Carry out an operation while there is power.
    fn with<T>(&self, operation: impl FnOnce(&mut Image) -> Result<T, Refused>) -> Result<T, Errno> {
        let mut power = self.power.lock().expect("no operation panics");
        if !power.on {
            return Err(Errno::EIO);
        }
        operation(&mut power.image).map_err(|refused| match refused {
            Refused::Missing => Errno::ENOENT,
            Refused::Exists => Errno::EEXIST,
            Refused::NotEmpty => Errno::ENOTEMPTY,
            Refused::WrongKind => Errno::EISDIR,
        })
    }

    fn entry(&self, operation: impl FnOnce(&mut Image) -> Result<u64, Refused>) -> Result<FileAttr, Errno> {
        self.with(|image| {
            let number = operation(image)?;
            image.node(number).map(|node| attributes(number, node))
        })
    }

    fn empty(&self, operation: impl FnOnce(&mut Image) -> Result<(), Refused>, reply: ReplyEmpty) {
        match self.with(operation) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn sync(&self, node: INodeNo, reply: ReplyEmpty) {
        self.power.lock().expect("no operation panics").sync_count += 1;
        self.empty(|image| image.sync(node.0), reply);
    }
}

fn attributes(number: u64, node: &Node) -> FileAttr {
    let (kind, size, pages) = match &node.content {
        Content::File { volatile, .. } => (FileType::RegularFile, volatile.size(), volatile.page_count()),
        Content::Directory { .. } => (FileType::Directory, 0, 0),
    };
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: pages * (PAGE_BYTES as u64 / 512),
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind,
        perm: node.mode,
        nlink: 1,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    }
}

/// The permission bits of a new node.
fn permissions(mode: u32, umask: u32) -> u16 {
    u16::try_from(mode & !umask & 0o7777).expect("twelve bits")
}

impl Filesystem for Mounted {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.entry(|image| image.find(parent.0, name)) {
            Ok(attributes) => reply.entry(&REMEMBER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.entry(|_| Ok(node.0)) {
            Ok(attributes) => reply.attr(&REMEMBER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _user: Option<u32>,
        _group: Option<u32>,
        size: Option<u64>,
        _accessed: Option<TimeOrNow>,
        _modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _change: Option<SystemTime>,
        _backup: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.entry(|image| {
            if let Some(size) = size {
                image.resize(node.0, size)?;
            }
            if let Some(mode) = mode {
                image.set_mode(node.0, permissions(mode, 0))?;
            }
            Ok(node.0)
        });
        match changed {
            Ok(attributes) => reply.attr(&REMEMBER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        match self.entry(|image| image.create_directory(parent.0, name, permissions(mode, umask))) {
            Ok(attributes) => reply.entry(&REMEMBER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.entry(|image| image.create_file(parent.0, name, permissions(mode, umask))) {
            Ok(attributes) => {
                reply.created(&REMEMBER, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(|image| image.remove(parent.0, name), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(|image| image.remove(parent.0, name), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return reply.error(Errno::EINVAL);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        self.empty(|image| image.rename((parent.0, name), (new_parent.0, new_name), replace), reply);
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        position: u64,
        bytes: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.with(|image| image.read(node.0, position, bytes as usize)) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        position: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with(|image| image.write(node.0, position, data)) {
            Ok(()) => {
                reply.written(u32::try_from(data.len()).expect("the kernel writes at most some mebibytes"))
            }
            Err(error) => reply.error(error),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Closing makes nothing durable.
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.sync(node, reply);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.sync(node, reply);
    }

    fn readdir(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.with(|image| {
            let entries = image.entries(node.0)?.iter();
            let entries =
                entries.map(|(name, &number)| (name.clone(), number, image.entries(number).is_ok()));
            Ok(entries.collect::<Vec<_>>())
        });
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return reply.error(error),
        };
        for (index, (name, number, is_directory)) in listed.into_iter().enumerate().skip(offset as usize) {
            let kind = if is_directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(number), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        // Room without end: other tests fill disks.
        const BLOCKS: u64 = 1 << 24;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, 1 << 20, 1 << 20, PAGE_BYTES as u32, 255, PAGE_BYTES as u32);
    }

    fn fallocate(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        position: u64,
        bytes: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.empty(
            |image| {
                let size = image.node(node.0).and_then(|node| match &node.content {
                    Content::File { volatile, .. } => Ok(volatile.size()),
                    Content::Directory { .. } => Err(Refused::WrongKind),
                })?;
                let end = position + bytes;
                if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
                    image.write(
                        node.0,
                        position,
                        &vec![0; end.min(size).saturating_sub(position) as usize],
                    )?;
                }
                if mode & KEEP_SIZE == 0 && end > size {
                    image.resize(node.0, end)?;
                }
                Ok(())
            },
            reply,
        );
    }
}
