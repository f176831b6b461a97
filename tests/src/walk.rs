//! Scripts of the documentation, run word for word but for the hub that they are run on.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::hub::{Hub, program};

/// Run the first script of a page in a fresh directory, with `corehub` found. What it printed and that directory.
///
/// # Panics
/// The script fails.
pub fn run(hub: &Hub, page: &str) -> (String, tempfile::TempDir) {
    let script = scripts(page)[0]
        .replace("HUB=localhost ", &format!("HUB={} ", hub.host()))
        .replace("DATA=./hub-data ", &format!("DATA={} ", hub.data().display()));
    let directory = fresh_directory();
    let said = shell(directory.path(), &script, &[]);
    (said, directory)
}

/// The scripts of a page.
pub fn scripts(page: &str) -> Vec<&str> {
    let behind = page.split("```sh\n").skip(1);
    behind.map(|text| text.split_once("```").expect("the script ends").0).collect()
}

/// A directory in which [`shell`] finds the program.
pub fn fresh_directory() -> tempfile::TempDir {
    let directory = crate::fresh_directory("walk");
    std::os::unix::fs::symlink(program(), directory.path().join("corehub")).expect("a link");
    directory
}

/// Run a script in a directory; what it printed.
///
/// # Panics
/// The script fails.
pub fn shell(directory: &Path, script: &str, environment: &[(&str, OsString)]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-eu", "-c", script])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", directory.display()))
        .envs(environment.iter().cloned())
        .output()
        .expect("a shell");
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complaint}");
    said.into_owned()
}
