//! Scripts of the documentation, run word for word but for the hub that they are run on.

use std::path::Path;
use std::process::Command;

use crate::hub::{Hub, program};

/// Run the first script of a page in a fresh directory, with `corehub` found. What it printed and that directory.
///
/// # Panics
/// The script fails.
pub fn run(hub: &Hub, page: &str) -> (String, tempfile::TempDir) {
    let (_, rest) = page.split_once("```sh\n").expect("the page has a script");
    let (script, _) = rest.split_once("```").expect("the script ends");
    let script = script
        .replace("HUB=localhost ", &format!("HUB={} ", hub.host()))
        .replace("DATA=./hub-data ", &format!("DATA={} ", hub.data().display()));
    let directory = crate::fresh_directory("walk");
    link(directory.path());
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-eu", "-c", &script])
        .current_dir(directory.path())
        .env("PATH", format!("{}:{path}", directory.path().display()))
        .output()
        .expect("a shell");
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complaint}");
    (said.into_owned(), directory)
}

fn link(directory: &Path) {
    std::os::unix::fs::symlink(program(), directory.join("corehub")).expect("a link");
}
