//! What the tests of the whole hub share: the real program in a directory of its own ([`hub`]), the client packages that
//! speak to it unchanged ([`clients`]), a second AMQP implementation as device and reader ([`amqp`], [`telemetry`],
//! [`commands`]), the
//! account of what was sent and acknowledged ([`history`]), a disk that forgets what was not synced ([`disk`]), and connections that
//! can be cut ([`relay`]).
//!
//! Each test enters by [`namespace::run`], which gives it the low ports and the mounts that it needs.
#![forbid(unsafe_code)]

pub mod amqp;
pub mod clients;
pub mod commands;
pub mod disk;
pub mod history;
pub mod https;
pub mod hub;
pub mod mqtt;
pub mod namespace;
pub mod process;
pub mod relay;
pub mod sas;
pub mod service;
pub mod telemetry;
pub mod walk;

use std::io::Write;
use std::path::PathBuf;

/// Say that a test cannot run here, and why. Where `CI=true` that is a failure: the gate must run everything.
///
/// The line goes past the test harness, which hides what a passing test prints.
pub fn skip(reason: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "cannot run here, which is a failure under CI=true: {reason}"
    );
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    // If standard error is gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}");
}

/// Cargo's target directory: tests keep their data and the client packages there, on a real disk and out of the sources.
pub fn target_directory() -> PathBuf {
    let executable = std::env::current_exe().expect("a test knows its own path");
    // target/<profile>/deps/<test>
    executable.ancestors().nth(3).expect("a test lies three levels below the target directory").to_owned()
}

/// A fresh directory below the target directory, removed when dropped.
pub fn fresh_directory(prefix: &str) -> tempfile::TempDir {
    let parent = target_directory().join("hubs");
    std::fs::create_dir_all(&parent).expect("the target directory can be written");
    tempfile::Builder::new().prefix(prefix).tempdir_in(parent).expect("the target directory can be written")
}
