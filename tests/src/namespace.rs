//! Gives a test what an ordinary user may not have: low ports, mounts.
//!
//! The hub's clients insist on port 443, and some tests mount a file system. Where this process may do it, the test runs
//! here; otherwise the test runs itself again, alone, in a user, network and mount namespace where it may.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::{clients, skip};

/// Says to the inner process that it is in its namespace.
const INSIDE: &str = "COREHUB_TESTS_INSIDE";

/// What a test needs beyond an ordinary process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// To bind port 443 of a loopback address.
    LowPorts,
    /// To mount file systems that nobody else sees. Always in a namespace of its own.
    Mounts,
}

/// Run a test's body where it has what it needs. Call it as the only statement of the test, with a closure written there:
/// the closure's name tells which test is to run again.
pub fn run<Body: FnOnce()>(needs: Needs, body: Body) {
    if std::env::var_os(INSIDE).is_some() {
        raise_loopback();
        return body();
    }
    if needs == Needs::LowPorts && low_ports_are_open() {
        return body();
    }
    let Some(entry) = entries(needs).into_iter().find(|entry| enters(entry)) else {
        return skip("this host gives neither the right nor a user namespace for low ports and mounts");
    };
    if needs == Needs::LowPorts {
        // There is no network in there.
        clients::install();
    }
    run_again(&entry, test_name::<Body>());
}

fn low_ports_are_open() -> bool {
    // An address that no hub of a test uses; another test may be asking the same question right now.
    match TcpListener::bind(("127.255.255.254", 443)) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::AddrInUse,
    }
}

/// Ways into a namespace, best first. As root a mount namespace alone is enough.
fn entries(needs: Needs) -> Vec<Vec<&'static str>> {
    let mut entries = Vec::new();
    if needs == Needs::Mounts && rustix::process::geteuid().is_root() && low_ports_are_open() {
        entries.push(vec!["--mount"]);
    }
    entries.push(vec!["--user", "--map-root-user", "--net", "--mount"]);
    entries
}

fn enters(entry: &[&str]) -> bool {
    let status =
        Command::new("unshare").args(entry).arg("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// `crate::module::test::{{closure}}` without the crate and the closure.
fn test_name<Body>() -> &'static str {
    let path = std::any::type_name::<Body>();
    let path = path.strip_suffix("::{{closure}}").expect("the body is a closure in the test");
    path.split_once("::").expect("a test is in a crate").1
}

fn run_again(entry: &[&str], test: &str) {
    let output = Command::new("unshare")
        .args(entry)
        .arg("--")
        .arg(std::env::current_exe().expect("a test knows its own path"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare ran a moment ago");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed in its namespace");
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(ran, "{test} did not run in its namespace");
}

/// Switch `lo` on, which a new network namespace has switched off: one netlink message, `RTM_NEWLINK` with `IFF_UP`.
fn raise_loopback() {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};
    if TcpListener::bind(("127.0.0.1", 0)).is_ok_and(|listener| loopback_answers(&listener)) {
        return;
    }
    const REQUEST_BYTES: u32 = 32;
    let mut request = Vec::with_capacity(REQUEST_BYTES as usize);
    request.extend(REQUEST_BYTES.to_ne_bytes());
    request.extend(16_u16.to_ne_bytes()); // RTM_NEWLINK
    request.extend(5_u16.to_ne_bytes()); // NLM_F_REQUEST | NLM_F_ACK
    request.extend([0; 8]); // sequence, port
    request.extend([0; 4]); // family, padding, device type
    request.extend(1_i32.to_ne_bytes()); // lo is always the first interface
    request.extend(1_u32.to_ne_bytes()); // IFF_UP
    request.extend(1_u32.to_ne_bytes()); // and nothing else changes
    let netlink = socket(AddressFamily::NETLINK, SocketType::RAW, None).expect("netlink is there");
    send(&netlink, &request, SendFlags::empty()).expect("netlink takes a request");
    let mut answer = [0_u8; 256];
    recv(&netlink, answer.as_mut_slice(), RecvFlags::empty()).expect("netlink answers");
    let error = i32::from_ne_bytes(answer[16..20].try_into().expect("four bytes"));
    assert_eq!(error, 0, "the loopback interface of the namespace cannot be switched on");
}

fn loopback_answers(listener: &TcpListener) -> bool {
    listener.local_addr().and_then(std::net::TcpStream::connect).is_ok()
}
