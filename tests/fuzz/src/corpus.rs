//! Corpora as files: one per target, one entry per line, in hexadecimal digits.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The file of a target's corpus.
pub fn path(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format!("{target}.hex"))
}

/// The entries of a target's corpus.
///
/// # Errors
///
/// The file cannot be read, or holds something else than lines of hexadecimal digits.
pub fn read(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let text = fs::read_to_string(path(target))?;
    text.lines().map(|line| from_hex(line).ok_or_else(|| io::Error::other("not a line of digits"))).collect()
}

/// Write a target's corpus, in an order that does not depend on that of the entries: small ones first.
///
/// # Errors
///
/// The file cannot be written.
pub fn write(target: &str, mut entries: Vec<Vec<u8>>) -> io::Result<()> {
    entries.sort_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    entries.dedup();
    let lines: String = entries.iter().map(|entry| to_hex(entry) + "\n").collect();
    fs::create_dir_all(path(target).parent().expect("a file in a directory"))?;
    fs::write(path(target), lines)
}

/// Bytes as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text takes everything");
        text
    })
}

/// Bytes of hexadecimal digits; none: something else is among them.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
