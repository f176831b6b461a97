//! The facts about the sources that no compiler checks: which crate may know which, where glommio and unsafe code are
//! named, how long a file may be, and what the dependencies may be.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use serde::Deserialize;

/// Lines of a source file beyond which it hides a second noun.
const LINES_MAX: usize = 600;

/// Our crates and those of ours that each may name: arrows point down only. `bench`, `fuzz` and `tests` may name anything.
const ARROWS: [(&str, &[&str]); 9] = [
    ("segment-log", &[]),
    ("registry", &[]),
    ("engine", &["segment-log", "registry"]),
    ("engine-runtime", &["engine", "segment-log", "registry"]),
    ("net-amqp", &[]),
    ("net-http", &[]),
    ("net-mqtt", &[]),
    ("net", &["engine-runtime", "engine", "segment-log", "registry", "net-amqp", "net-http", "net-mqtt"]),
    ("loadgen", &["net-amqp", "net-http", "net-mqtt"]),
];
const ANYTHING: [&str; 3] = ["bench", "fuzz", "tests"];

/// Where glommio may be named.
const GLOMMIO_FENCE: [&str; 2] = ["engine/runtime/", "net/src/io/"];
/// Where unsafe code may stand.
const UNSAFE_FENCE: [&str; 4] = [
    "segment-log/src/storage/disk",
    "engine/runtime/src/freed_memory.rs",
    "engine/runtime/src/ring_setup.rs",
    "net/src/io/handoff.rs",
];
/// Crates whose root denies unsafe code instead of forbidding it, because of that.
const UNSAFE_CRATES: [&str; 3] = ["segment-log/src/lib.rs", "engine/runtime/src/lib.rs", "net/src/lib.rs"];
/// Executors and reactors, none of which `engine` may bring along: that is what makes it embeddable.
const ASYNC_RUNTIMES: [&str; 8] =
    ["glommio", "tokio", "async-std", "smol", "async-executor", "async-io", "mio", "futures-executor"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").to_owned()
}

/// The workspace and what it is built from on this platform.
fn metadata() -> Metadata {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc built this");
    let version = String::from_utf8(version.stdout).expect("rustc prints text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    MetadataCommand::new()
        .current_dir(root())
        .other_options(["--filter-platform".to_owned(), host.to_owned()])
        .exec()
        .expect("the workspace is sound")
}

/// Our sources by their path from the root, with their text.
fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(directory).expect("a directory of ours") {
            let path = entry.expect("a directory of ours").path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    walk(&path, root, found);
                }
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).expect("sources are text");
                let path = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &root(), &mut found);
    assert!(found.len() > 50, "the sources were not found");
    found
}

/// The lines of a source without its comments and the texts in it, as far as a line shows them.
fn code_lines(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().map(|line| {
        let code = line.split("//").next().unwrap_or_default();
        code.split('"').step_by(2).collect()
    })
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(is_part) && !line[start + word.len()..].starts_with(is_part)
    })
}

/// Paths of sources whose code has a word, outside a fence.
fn outside(word: &str, fence: &[&str]) -> Vec<String> {
    let sources = sources();
    let outside = sources.iter().filter(|(path, _)| !fence.iter().any(|allowed| path.starts_with(allowed)));
    outside
        .filter(|(_, text)| code_lines(text).any(|line| has_word(&line, word)))
        .map(|(path, _)| path.clone())
        .collect()
}

#[test]
fn arrows_point_down() {
    let metadata = metadata();
    let ours: BTreeSet<&str> =
        metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let known: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).chain(ANYTHING).collect();
    assert_eq!(ours, known, "say here what a new crate may name");
    for package in metadata.workspace_packages() {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name.as_str()) else {
            continue;
        };
        for dependency in
            package.dependencies.iter().filter(|dependency| ours.contains(dependency.name.as_str()))
        {
            let fine = allowed.contains(&dependency.name.as_str());
            assert!(fine, "{} must not name {}", package.name, dependency.name);
        }
    }
}

#[test]
fn glommio_stays_behind_its_fence() {
    assert_eq!(outside("glommio", &GLOMMIO_FENCE), [""; 0]);
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let names = package.dependencies.iter().any(|dependency| dependency.name == "glommio");
        let may = ["engine-runtime", "net", "bench"].contains(&package.name.as_str());
        assert!(may || !names, "{} must not depend on glommio", package.name);
    }
}

#[test]
fn the_engine_brings_no_runtime() {
    let metadata = metadata();
    let brought = built_from(&metadata, &["engine"]);
    let runtimes: Vec<_> =
        brought.iter().filter(|package| ASYNC_RUNTIMES.contains(&package.name.as_str())).collect();
    assert!(runtimes.is_empty(), "{:?}", runtimes.iter().map(|package| &package.name).collect::<Vec<_>>());
    assert!(brought.iter().any(|package| package.name.as_str() == "crc32fast"), "the tree was not walked");
}

#[test]
fn unsafe_code_stays_where_it_belongs() {
    assert_eq!(outside("unsafe", &UNSAFE_FENCE), [""; 0]);
    let metadata = metadata();
    for target in metadata.workspace_packages().iter().flat_map(|package| &package.targets) {
        let path = target.src_path.strip_prefix(root()).expect("our crates lie in the workspace").as_str();
        let text = std::fs::read_to_string(&target.src_path).expect("sources are text");
        let wanted =
            if UNSAFE_CRATES.contains(&path) { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        assert!(text.lines().any(|line| line == wanted), "{path} lacks {wanted}");
    }
}

#[test]
fn no_file_is_too_long() {
    let sources = sources();
    let long = sources
        .iter()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| *lines > LINES_MAX);
    assert_eq!(long.collect::<Vec<_>>(), [], "a file of more than {LINES_MAX} lines hides a second noun");
}

#[test]
fn nothing_is_left_undone() {
    let sources = sources();
    for (path, text) in &sources {
        // The macros that leave something undone are clippy's to refuse.
        for mark in [concat!("#[ig", "nore"), concat!("FIX", "ME"), concat!("XX", "X")] {
            assert!(!text.contains(mark), "{path} has {mark}");
        }
    }
}

/// The example of a further protocol is an example only while it costs the others nothing (decision 0012).
#[test]
fn further_protocols_touch_no_file_of_the_others() {
    let (mine, word) = ("net/src/binding/stomp", "stomp");
    let others = [
        "net/amqp/",
        "net/http/",
        "net/mqtt/",
        "net/src/binding/amqp",
        "net/src/binding/http",
        "net/src/binding/mqtt",
        "net/src/binding/websocket",
    ];
    let sources = sources();
    let has = |path: &str, text: &str| path.contains(word) || text.to_lowercase().contains(word);
    assert!(sources.iter().any(|(path, text)| path.starts_with(mine) && has(path, text)), "it was renamed");
    for other in others {
        let theirs: Vec<_> = sources.iter().filter(|(path, _)| path.starts_with(other)).collect();
        assert!(!theirs.is_empty(), "{other} was renamed");
        for (path, text) in theirs {
            assert!(!has(path, text), "{path} names {word}");
        }
    }
}

/// `dependencies.toml`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Rules {
    licences: Vec<String>,
    licence_exception: Vec<LicenceException>,
    ban: Vec<Ban>,
    ban_in_hub: Vec<Ban>,
    advisory: Vec<Advisory>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LicenceException {
    package: String,
    licence: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    package: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advisory {
    id: String,
    package: String,
    reason: String,
}

fn rules() -> Rules {
    toml::from_str(include_str!("../dependencies.toml")).expect("dependencies.toml is as described here")
}

#[test]
fn licences_are_permissive() {
    let (metadata, rules) = (metadata(), rules());
    let mut used = BTreeSet::new();
    for package in &metadata.packages {
        let licence = package.license.as_deref().unwrap_or("none");
        let is_exception = |exception: &&LicenceException| {
            exception.package == package.name.as_str() && exception.licence == licence
        };
        if let Some(exception) = rules.licence_exception.iter().find(is_exception) {
            used.insert(exception.package.as_str());
            continue;
        }
        let allowed = |name: &str| rules.licences.iter().any(|licence| licence == name);
        assert!(permits(licence, &allowed), "{} {} has licence {licence}", package.name, package.version);
    }
    let idle = rules.licence_exception.iter().filter(|exception| !used.contains(exception.package.as_str()));
    assert_eq!(idle.map(|exception| &exception.package).collect::<Vec<_>>(), [""; 0], "take them out");
}

/// Whether a licence expression can be met with allowed licences: any side of an OR, both sides of an AND.
fn permits(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let expression = expression.trim();
    // Before SPDX a slash meant "or".
    for (operator, needs_all) in [(" OR ", false), ("/", false), (" AND ", true)] {
        let parts = split_outside_parentheses(expression, operator);
        if parts.len() > 1 {
            let mut met = parts.iter().map(|part| permits(part, allowed));
            return if needs_all { met.all(|met| met) } else { met.any(|met| met) };
        }
    }
    if let Some(inner) = expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        return permits(inner, allowed);
    }
    // An exception only adds rights.
    allowed(expression.split(" WITH ").next().unwrap_or(expression))
}

fn split_outside_parentheses<'a>(expression: &'a str, operator: &str) -> Vec<&'a str> {
    let mut depth = 0;
    let mut parts = Vec::new();
    let mut start = 0;
    for (index, character) in expression.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && index >= start && expression[index..].starts_with(operator) => {
                parts.push(&expression[start..index]);
                start = index + operator.len();
            }
            _ => {}
        }
    }
    parts.push(&expression[start..]);
    parts
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = |name: &str| ["MIT", "ISC"].contains(&name);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("(ISC OR MIT) AND GPL-3.0", false),
        ("MIT WITH LLVM-exception", true),
        ("none", false),
    ] {
        assert_eq!(permits(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn bans_hold_and_advisories_are_known() {
    let (metadata, rules) = (metadata(), rules());
    let all: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let hub: BTreeSet<&str> =
        built_from(&metadata, &["net"]).iter().map(|package| package.name.as_str()).collect();
    for (bans, names) in [(&rules.ban, &all), (&rules.ban_in_hub, &hub)] {
        for ban in bans {
            assert!(!names.contains(ban.package.as_str()), "{} is here: {}", ban.package, ban.reason);
        }
    }
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is committed");
    for advisory in &rules.advisory {
        let locked = lock.contains(&format!("name = \"{}\"", advisory.package));
        assert!(locked, "{} concerns {}, which is gone: take it out", advisory.id, advisory.package);
    }
    let reasons = rules.licence_exception.iter().map(|rule| &rule.reason);
    let reasons = reasons.chain(rules.ban.iter().chain(&rules.ban_in_hub).map(|rule| &rule.reason));
    assert!(reasons.chain(rules.advisory.iter().map(|rule| &rule.reason)).all(|reason| reason.len() > 20));
}

/// Everything that goes into crates of ours when they are built to run, themselves included; not what only tests use.
fn built_from<'a>(metadata: &'a Metadata, names: &[&str]) -> Vec<&'a Package> {
    let packages: BTreeMap<&PackageId, &Package> =
        metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let nodes = &metadata.resolve.as_ref().expect("metadata resolves").nodes;
    let start =
        metadata.workspace_packages().into_iter().filter(|package| names.contains(&package.name.as_str()));
    let mut waiting: Vec<&PackageId> = start.map(|package| &package.id).collect();
    let mut seen: BTreeSet<&PackageId> = waiting.iter().copied().collect();
    while let Some(id) = waiting.pop() {
        let node = nodes.iter().find(|node| node.id == *id).expect("every package is resolved");
        for dependency in &node.deps {
            let is_built = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if is_built && seen.insert(&dependency.pkg) {
                waiting.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().map(|id| packages[id]).collect()
}
