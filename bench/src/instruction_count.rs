//! Instructions per event of each hot path, counted by valgrind's callgrind and compared with a file that is kept.
//!
//! Counts do not depend on what else the machine does, so a small difference is a real one. They do depend on the compiler
//! and on the processor, whose features decide which code runs: the file is keyed by both, and elsewhere nothing is compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::hot_path::HotPath;

/// What a path may cost more than before, percent.
pub const TOLERANCE_PERCENT: f64 = 3.0;

/// Instructions per event by the path's name.
pub type Counts = BTreeMap<String, u64>;

/// The file: counts by compiler and processor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept(BTreeMap<String, Counts>);

/// How a count stands against the kept one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing is kept for this compiler and processor.
    New,
    /// So many percent of change, within what is tolerated.
    Kept(f64),
    /// More than that.
    Worse(f64),
}

impl Kept {
    /// Where the repository keeps it.
    pub fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("instruction-counts.toml")
    }

    /// Read it; a file that is missing holds nothing.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is not of this form.
    pub fn load(path: &Path) -> Result<Self, String> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                toml::from_str(&text).map(Self).map_err(|error| format!("{}: {error}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Write it.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn save(&self, path: &Path) -> Result<(), String> {
        let text = toml::to_string(&self.0).map_err(|error| error.to_string())?;
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Keep the counts of this compiler and processor instead of what was kept for them.
    pub fn accept(&mut self, key: &str, counts: Counts) {
        self.0.insert(key.to_owned(), counts);
    }

    /// Compare one count.
    pub fn judge(&self, key: &str, name: &str, count: u64) -> Verdict {
        let Some(&kept) = self.0.get(key).and_then(|counts| counts.get(name)) else { return Verdict::New };
        let percent = (count as f64 / kept as f64 - 1.0) * 100.0;
        if percent > TOLERANCE_PERCENT { Verdict::Worse(percent) } else { Verdict::Kept(percent) }
    }
}

/// The compiler and the processor, as the file names them.
///
/// # Errors
///
/// `rustc` or `/proc/cpuinfo` that do not say.
pub fn key() -> Result<String, String> {
    let output = Command::new("rustc")
        .arg("--version")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .map_err(|error| format!("rustc: {error}"))?;
    let compiler = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let processors =
        std::fs::read_to_string("/proc/cpuinfo").map_err(|error| format!("/proc/cpuinfo: {error}"))?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("an unnamed processor", |(_, name)| name.trim());
    Ok(format!("{compiler}, {model}"))
}

/// Count one path: `program` is this program, which runs it under callgrind by `count run NAME`.
///
/// # Errors
///
/// When valgrind is missing or the path fails.
pub fn count(program: &Path, path: &HotPath) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*hot_path*measured*"])
        .arg(program)
        .args(["count", "run", path.name])
        .output()
        .map_err(|error| format!("valgrind (a package of that name has it): {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .and_then(|(_, number)| number.trim().parse::<u64>().ok());
    match collected {
        Some(instructions) if output.status.success() && instructions > 0 => {
            Ok(instructions / path.repetitions as u64)
        }
        _ => Err(format!("{}: {report}", path.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_tolerance_is_worse_and_another_processor_is_not_compared() {
        let mut kept = Kept::default();
        kept.accept("here", Counts::from([("path".to_owned(), 1000)]));
        assert!(matches!(kept.judge("here", "path", 1029), Verdict::Kept(_)));
        assert!(matches!(kept.judge("here", "path", 1031), Verdict::Worse(_)));
        assert!(matches!(kept.judge("here", "path", 500), Verdict::Kept(_)));
        assert_eq!(kept.judge("here", "other", 1), Verdict::New);
        assert_eq!(kept.judge("there", "path", 9000), Verdict::New);
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("counts.toml");
        assert_eq!(Kept::load(&path), Ok(Kept::default()));
        let mut kept = Kept::default();
        kept.accept("rustc 1 (x), A(R) CPU @ 2 GHz", Counts::from([("decode-transfer".to_owned(), 700)]));
        kept.save(&path).unwrap();
        assert_eq!(Kept::load(&path), Ok(kept));
    }
}
