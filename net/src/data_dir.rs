//! The data directory: one hub's identity, keys and logs, and the lock that keeps a second hub out.
//!
//! | path | holds |
//! |---|---|
//! | `hub.json` | the [`Manifest`]: what was fixed at the first start |
//! | `lock` | locked while a hub runs here |
//! | `keys/data.key` | the key that encrypts keys at rest, unless the configuration names another place |
//! | `tls/` | CA and server certificate, see [`certificate`](crate::certificate) |
//! | `partitions/NNNN/{events,journal}` | the logs |
//! | `jobs/{records,files}` | import and export jobs, and their files unless the configuration names another place |
//! | `run/hub.json` | how commands find the running hub ([`RunInfo`]); for its owner alone |

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use registry::DataKey;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::files::{self, Readers};

/// The version of the layout. A directory of a newer one is refused.
const VERSION: u32 = 1;

/// Most bytes read from a key's file or descriptor: its base64 text with some white space.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// How often and how long apart the lock is tried.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(30);

/// What went wrong with the data directory.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another hub holds the lock.
    #[error("a hub is running on {} already (process {process})", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// Its process id, as far as it is known.
        process: String,
    },
    /// No hub holds the lock.
    #[error("no hub is running on {}: start one with `corehub serve --data {}`", path.display(), path.display())]
    NotRunning {
        /// The data directory.
        path: PathBuf,
    },
    /// Made by a newer version.
    #[error("{} was made by a newer version of the hub (layout {version}; this one knows {VERSION})", path.display())]
    TooNew {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// What is fixed at the first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Layout of the directory.
    pub version: u32,
    /// The hub's name.
    pub name: String,
    /// How many partitions, 1 to 32.
    pub partitions: u16,
    /// When, milliseconds since 1970.
    pub created: u64,
}

impl Manifest {
    /// A new hub's.
    pub fn new(name: String, partitions: u16, created: u64) -> Self {
        Self { version: VERSION, name, partitions, created }
    }
}

/// How commands find and talk to the running hub.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The hub's process.
    pub pid: u32,
    /// The hub's name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u16,
    /// Its host names, the one for connection strings first.
    pub hosts: Vec<String>,
    /// Where it takes AMQP over TLS.
    pub amqps: Vec<SocketAddr>,
    /// Where it takes HTTPS.
    pub https: Vec<SocketAddr>,
    /// Where it takes MQTT over TLS. A run of an earlier version did not say.
    #[serde(default)]
    pub mqtts: Vec<SocketAddr>,
    /// Where it takes AMQP in the clear.
    pub plain_amqp: Vec<SocketAddr>,
    /// Where it takes further protocols, by their schemes.
    #[serde(default)]
    pub also: BTreeMap<String, Vec<SocketAddr>>,
    /// The CA that its certificate comes from.
    pub ca: PathBuf,
    /// Lets its holder administer the hub, for as long as this run lasts.
    pub administration_token: String,
}

impl std::fmt::Debug for RunInfo {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RunInfo")
            .field("pid", &self.pid)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Where the key that encrypts keys at rest comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DataKeySource {
    /// `keys/data.key`, made at the first start.
    #[default]
    Beside,
    /// A file elsewhere, which must be there.
    File(PathBuf),
    /// An open descriptor that the hub was started with.
    Descriptor(u32),
}

/// A data directory that this process has locked. Dropping it unlocks it.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Make the directory if it is missing, and lock it.
    ///
    /// # Errors
    ///
    /// [`DataDirError::InUse`] when a hub runs here; [`DataDirError::File`].
    pub fn open(root: &Path) -> Result<Self, DataDirError> {
        files::create_directory(root).map_err(at(root))?;
        // Commands may run in another directory than the hub was started in.
        let root = fs::canonicalize(root).map_err(at(root))?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        // A command that looks whether a hub runs holds the lock for a moment.
        let mut tries = LOCK_TRIES;
        loop {
            tries -= 1;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if tries > 0 => std::thread::sleep(LOCK_PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let run = read_run(&root).ok().flatten();
                    let process = run.map_or_else(|| "unknown".to_string(), |run| run.pid.to_string());
                    return Err(DataDirError::InUse { path: root, process });
                }
                Err(error) => return Err(at(&path)(error.into())),
            }
        }
        let this = Self { root, _lock: lock };
        // Left by a run that was killed.
        this.remove_run_info()?;
        Ok(this)
    }

    /// Its absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where import and export jobs live.
    pub fn jobs(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// Where certificates live.
    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// What the first start wrote; none before it.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Content`], [`DataDirError::TooNew`], [`DataDirError::File`].
    pub fn manifest(&self) -> Result<Option<Manifest>, DataDirError> {
        let path = self.root.join("hub.json");
        let Some(bytes) = files::read_if_there(&path).map_err(at(&path))? else {
            return Ok(None);
        };
        let content = |reason: String| DataDirError::Content { path: path.clone(), reason };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version: Version = serde_json::from_slice(&bytes).map_err(|error| content(error.to_string()))?;
        if version.version > VERSION {
            return Err(DataDirError::TooNew { path, version: version.version });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|error| content(error.to_string()))
    }

    /// Write down what is fixed from now on.
    ///
    /// # Errors
    ///
    /// [`DataDirError::File`].
    pub fn create_manifest(&self, manifest: &Manifest) -> Result<(), DataDirError> {
        write_json(&self.root.join("hub.json"), manifest, Readers::Owner)
    }

    /// The key that encrypts keys at rest. Where it lies beside the data it is made at the first start, which the hub has had
    /// when `is_first_start` is false: then a missing key is an error, because another one would open nothing.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Content`], [`DataDirError::File`].
    pub fn data_key(&self, source: &DataKeySource, is_first_start: bool) -> Result<DataKey, DataDirError> {
        match source {
            DataKeySource::File(path) => {
                parse_key(path, read_key(File::open(path).map_err(at(path))?).map_err(at(path))?)
            }
            DataKeySource::Descriptor(number) => {
                let path = PathBuf::from(format!("/proc/self/fd/{number}"));
                parse_key(&path, read_key(File::open(&path).map_err(at(&path))?).map_err(at(&path))?)
            }
            DataKeySource::Beside => {
                let path = self.data_key_path();
                match File::open(&path) {
                    Ok(file) => parse_key(&path, read_key(file).map_err(at(&path))?),
                    Err(error) if error.kind() == io::ErrorKind::NotFound && is_first_start => {
                        self.make_data_key(&path)
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DataDirError::Content {
                        path,
                        reason: "is missing: put it back, or say where it is with --data-key-file or --data-key-fd"
                            .into(),
                    }),
                    Err(error) => Err(at(&path)(error)),
                }
            }
        }
    }

    /// Where the data key lies unless the configuration says otherwise.
    pub fn data_key_path(&self) -> PathBuf {
        self.root.join("keys").join("data.key")
    }

    fn make_data_key(&self, path: &Path) -> Result<DataKey, DataDirError> {
        use base64::Engine;
        let directory = self.root.join("keys");
        files::create_directory(&directory).map_err(at(&directory))?;
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(|error| at(path)(io::Error::other(error.to_string())))?;
        let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(*bytes) + "\n");
        files::replace(path, text.as_bytes(), Readers::Owner).map_err(at(path))?;
        Ok(DataKey::from_bytes(*bytes))
    }

    /// Tell commands how to find this run.
    ///
    /// # Errors
    ///
    /// [`DataDirError::File`].
    pub fn write_run_info(&self, info: &RunInfo) -> Result<(), DataDirError> {
        let directory = self.root.join("run");
        files::create_directory(&directory).map_err(at(&directory))?;
        write_json(&run_path(&self.root), info, Readers::Owner)
    }

    /// The run is over.
    ///
    /// # Errors
    ///
    /// [`DataDirError::File`].
    pub fn remove_run_info(&self) -> Result<(), DataDirError> {
        let path = run_path(&self.root);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }
}

/// The hub that runs on the data directory `root`, for commands.
///
/// # Errors
///
/// [`DataDirError::NotRunning`]; [`DataDirError::File`] when it may not be read.
pub fn find_running(root: &Path) -> Result<RunInfo, DataDirError> {
    let not_running = || DataDirError::NotRunning { path: root.to_path_buf() };
    let path = root.join("lock");
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_running()),
        Err(error) => return Err(at(&path)(error)),
    };
    if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
        return Err(not_running());
    }
    read_run(root)?.ok_or_else(not_running)
}

fn run_path(root: &Path) -> PathBuf {
    root.join("run").join("hub.json")
}

fn read_run(root: &Path) -> Result<Option<RunInfo>, DataDirError> {
    let path = run_path(root);
    let Some(bytes) = files::read_if_there(&path).map_err(at(&path))? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| DataDirError::Content { path, reason: error.to_string() })
}

fn write_json(path: &Path, value: &impl Serialize, readers: Readers) -> Result<(), DataDirError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| DataDirError::Content { path: path.to_path_buf(), reason: error.to_string() })?;
    text.push('\n');
    files::replace(path, text.as_bytes(), readers).map_err(at(path))
}

fn read_key(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX as usize));
    file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// 32 bytes as they are, or as base64 text.
fn parse_key(path: &Path, bytes: Zeroizing<Vec<u8>>) -> Result<DataKey, DataDirError> {
    use base64::Engine;
    let raw: Option<[u8; 32]> = bytes.as_slice().try_into().ok().or_else(|| {
        let decoded = base64::engine::general_purpose::STANDARD.decode(bytes.trim_ascii()).ok();
        decoded.map(Zeroizing::new)?.as_slice().try_into().ok()
    });
    raw.map(DataKey::from_bytes).ok_or_else(|| DataDirError::Content {
        path: path.to_path_buf(),
        reason: "is not a data key: 32 random bytes, as they are or as base64 text (head -c 32 /dev/urandom | base64)"
            .into(),
    })
}

fn at(path: &Path) -> impl Fn(io::Error) -> DataDirError {
    move |source| DataDirError::File { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn run_info() -> RunInfo {
        RunInfo {
            pid: 42,
            name: "plant".into(),
            partitions: 4,
            hosts: vec!["plant.example".into()],
            amqps: vec!["127.0.0.1:5671".parse().unwrap()],
            https: vec!["[::1]:443".parse().unwrap()],
            mqtts: vec!["[::1]:8883".parse().unwrap()],
            plain_amqp: Vec::new(),
            also: BTreeMap::new(),
            ca: "/data/tls/ca.pem".into(),
            administration_token: "secret-of-this-run".into(),
        }
    }

    #[test]
    fn a_second_hub_is_refused_and_the_first_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let first = DataDir::open(directory.path()).unwrap();
        first.write_run_info(&run_info()).unwrap();
        let error = DataDir::open(directory.path()).unwrap_err();
        assert!(matches!(&error, DataDirError::InUse { process, .. } if process == "42"), "{error}");
        drop(first);
        DataDir::open(directory.path()).unwrap();
    }

    #[test]
    fn commands_find_the_hub_while_it_runs_and_only_then() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("nowhere");
        assert!(matches!(find_running(&missing), Err(DataDirError::NotRunning { .. })));
        let hub = DataDir::open(directory.path()).unwrap();
        assert!(matches!(find_running(directory.path()), Err(DataDirError::NotRunning { .. })));
        hub.write_run_info(&run_info()).unwrap();
        assert_eq!(find_running(directory.path()).unwrap(), run_info());
        let mode = fs::metadata(run_path(directory.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(hub);
        assert!(matches!(find_running(directory.path()), Err(DataDirError::NotRunning { .. })));
        DataDir::open(directory.path()).unwrap();
        assert!(!run_path(directory.path()).exists(), "a killed run's file goes with the next start");
    }

    #[test]
    fn no_token_is_printed() {
        assert!(!format!("{:?}", run_info()).contains("secret"));
    }

    #[test]
    fn the_manifest_comes_back_and_a_newer_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let hub = DataDir::open(directory.path()).unwrap();
        assert_eq!(hub.manifest().unwrap(), None);
        let manifest = Manifest::new("plant".into(), 4, 1_790_000_000_000);
        hub.create_manifest(&manifest).unwrap();
        assert_eq!(hub.manifest().unwrap(), Some(manifest));
        fs::write(directory.path().join("hub.json"), r#"{"version":2,"name":"x","new":[]}"#).unwrap();
        assert!(matches!(hub.manifest(), Err(DataDirError::TooNew { version: 2, .. })));
        fs::write(directory.path().join("hub.json"), "{").unwrap();
        assert!(matches!(hub.manifest(), Err(DataDirError::Content { .. })));
    }

    #[test]
    fn a_data_key_is_made_once_and_never_again() {
        let directory = tempfile::tempdir().unwrap();
        let hub = DataDir::open(directory.path()).unwrap();
        assert!(hub.data_key(&DataKeySource::Beside, false).is_err(), "another key would open nothing");
        hub.data_key(&DataKeySource::Beside, true).unwrap();
        let text = fs::read(hub.data_key_path()).unwrap();
        hub.data_key(&DataKeySource::Beside, false).unwrap();
        hub.data_key(&DataKeySource::File(hub.data_key_path()), false).unwrap();
        assert_eq!(fs::read(hub.data_key_path()).unwrap(), text);
        let mode = fs::metadata(hub.data_key_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_data_key_is_32_bytes_or_their_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let hub = DataDir::open(&directory.path().join("data")).unwrap();
        let source = DataKeySource::File(path.clone());
        for (content, is_good) in [
            (&[7u8; 32][..], true),
            (b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", true),
            (b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==", false),
            (b"", false),
            (&[7u8; 33], false),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(hub.data_key(&source, true).is_ok(), is_good, "{content:?}");
        }
    }
}
