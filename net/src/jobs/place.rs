//! Where the files of jobs are: directories below one, and nothing else.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Directories below each other in a container's path.
const DEPTH_MAX: usize = 8;

/// Bytes of one name.
const NAME_BYTES_MAX: usize = 128;

/// The directory that all containers lie in.
#[derive(Clone, Debug)]
pub(super) struct Files {
    root: PathBuf,
}

/// A container, open.
#[derive(Debug)]
pub(super) struct Container(OwnedFd);

impl Files {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The names that a container's URI stands for, from the directory of all containers on.
    ///
    /// # Errors
    ///
    /// A sentence: it is no path below that directory.
    pub(super) fn parse<'a>(&self, uri: &'a str) -> Result<Vec<&'a str>, String> {
        let elsewhere = || {
            "a container is a path below the hub's directory for jobs, as plant/today or file:plant/today: letters, digits, \
             '.', '_' and '-' between slashes"
                .to_owned()
        };
        let path = match (uri.strip_prefix("file://"), uri.strip_prefix("file:")) {
            // Between the slashes stands a host.
            (Some(path), _) if !path.starts_with('/') => return Err(elsewhere()),
            (Some(path), _) | (None, Some(path)) => path,
            (None, None) => uri,
        };
        let path = match path.starts_with('/') {
            // Compared as text: nothing is resolved.
            true => {
                let root = self.root.to_str().ok_or_else(elsewhere)?;
                let below = path.strip_prefix(root.trim_end_matches('/')).ok_or_else(elsewhere)?;
                below.strip_prefix('/').ok_or_else(elsewhere)?
            }
            false => path,
        };
        let names: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        match names.len() <= DEPTH_MAX && names.iter().all(|name| is_name(name)) {
            true => Ok(names),
            false => Err(elsewhere()),
        }
    }

    /// Open a container; `makes`: and what is missing of its path.
    pub(super) fn open(&self, names: &[&str], makes: bool) -> io::Result<Container> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory = rustix::fs::open(&self.root, flags, Mode::empty())?;
        for name in names {
            if makes {
                match rustix::fs::mkdirat(&directory, *name, Mode::RWXU) {
                    Ok(()) => rustix::fs::fsync(&directory)?,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            directory = rustix::fs::openat(&directory, *name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(Container(directory))
    }
}

impl Container {
    /// Open a file to read.
    pub(super) fn read(&self, name: &str) -> io::Result<File> {
        // What is no file could make the open wait for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        regular(rustix::fs::openat(&self.0, name, flags, Mode::empty())?)
    }

    /// Open a file to write behind its first `kept_bytes`; what lay behind them is gone. For its owner alone where it is made.
    pub(super) fn write(&self, name: &str, kept_bytes: u64) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut file = regular(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?)?;
        if file.metadata()?.len() < kept_bytes {
            return Err(io::Error::other(format!("{name} is shorter than it was")));
        }
        file.set_len(kept_bytes)?;
        file.seek(SeekFrom::Start(kept_bytes))?;
        self.sync()?;
        Ok(file)
    }

    /// Give a file another name, in place of what had it; durable when this returns.
    pub(super) fn rename(&self, name: &str, new_name: &str) -> io::Result<()> {
        rustix::fs::renameat(&self.0, name, &self.0, new_name)?;
        self.sync()
    }

    /// Remove a file that may be missing.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Err(error) if error != Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.0.as_fd())?)
    }
}

/// Whether a file or directory of a job may have this name: nothing in it means anything to a file system, a shell or an URI.
pub(super) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Make the directory of all containers, and tell its true path.
pub(super) fn make_root(path: &Path) -> io::Result<PathBuf> {
    crate::files::create_directory(path)?;
    std::fs::canonicalize(path)
}

fn regular(descriptor: OwnedFd) -> io::Result<File> {
    let file = File::from(descriptor);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn containers_lie_below_their_directory_and_nowhere_else() {
        let files = Files::new("/data/jobs".into());
        for (uri, names) in [
            ("plant", vec!["plant"]),
            ("plant/2026-11-22", vec!["plant", "2026-11-22"]),
            ("file:plant/", vec!["plant"]),
            ("file:///data/jobs/a/b", vec!["a", "b"]),
            ("/data/jobs/a", vec!["a"]),
        ] {
            assert_eq!(files.parse(uri).unwrap(), names, "{uri}");
        }
        for uri in [
            "",
            ".",
            "..",
            "../x",
            "a/../b",
            "a/./b",
            "a//b",
            "/",
            "/etc",
            "/data/jobs",
            "/data/jobsx/a",
            "/data/jobs/../x",
            "file:///etc/passwd",
            "file://host/share",
            "https://account.blob.core.windows.net/c?sig=x",
            "a b",
            "a%2f..",
            "a\\b",
            "a\0b",
            "~",
            ".hidden",
            "1/2/3/4/5/6/7/8/9",
            "ä",
        ] {
            assert!(files.parse(uri).is_err(), "{uri}");
        }
        assert!(files.parse(&"x".repeat(129)).is_err());
    }

    #[test]
    fn links_lead_nowhere_and_files_are_files() {
        let directory = tempfile::tempdir().unwrap();
        let root = make_root(&directory.path().join("jobs")).unwrap();
        let outside = directory.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("devices.txt"), "secret").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        let files = Files::new(root.clone());
        assert!(files.open(&["link"], true).is_err());
        assert!(files.open(&["missing"], false).is_err());
        let container = files.open(&["a", "b"], true).unwrap();
        symlink(outside.join("devices.txt"), root.join("a/b/devices.txt")).unwrap();
        assert!(container.read("devices.txt").is_err());
        assert!(container.write("devices.txt", 0).is_err());
        std::fs::create_dir(root.join("a/b/directory")).unwrap();
        assert!(container.read("directory").is_err());
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("a/b/pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(container.read("pipe").is_err());

        container.write("out", 0).unwrap().write_all(b"0123456789").unwrap();
        container.write("out", 4).unwrap().write_all(b"ab").unwrap();
        assert_eq!(std::fs::read(root.join("a/b/out")).unwrap(), b"0123ab");
        assert!(container.write("out", 7).is_err(), "what was counted on is gone");
        assert_eq!(std::fs::metadata(root.join("a/b/out")).unwrap().permissions().mode() & 0o777, 0o600);
        container.rename("out", "whole").unwrap();
        container.remove("out").unwrap();
        assert!(container.read("whole").is_ok());
    }
}
