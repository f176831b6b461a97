//! A broker that is not a hub: a small one over AMQP 1.0, which can be told to break its word. What it loses, doubles or
//! moves after it has acknowledged it must make the run fail.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loadgen::worker::PATIENCE;
use net_amqp::sasl::{PlainResponse, SaslCode};
use net_amqp::{
    AttachReply, Config, Connection, DeliveryState, Event, Inbound, LinkId, LinkRole, Role, SaslRole,
    SendDelivery,
};

const CREDIT: u32 = 1000;
/// Which message the broker breaks its word about.
const VICTIM: usize = 20;

/// Between two of the first messages of a broker that hesitates; all of them take longer than a run may stand still.
const HESITATION: Duration = Duration::from_secs(2);
const HESITATION_COUNT: u32 = 11;

/// What a broker does with message [`VICTIM`], which it has acknowledged, or with the first ones that are asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Loses,
    Doubles,
    Moves,
    Hesitates,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Vec<u8>>,
    taken_count: usize,
    moved: Option<Vec<u8>>,
}

impl Queue {
    fn take(&mut self, message: &[u8], fault: Fault) {
        self.taken_count += 1;
        let is_victim = self.taken_count == VICTIM;
        match fault {
            Fault::Loses if is_victim => return,
            Fault::Doubles if is_victim => self.messages.push_back(message.to_vec()),
            Fault::Moves if is_victim => {
                self.moved = Some(message.to_vec());
                return;
            }
            _ => {}
        }
        self.messages.push_back(message.to_vec());
        // Behind later ones of its own device.
        if self.taken_count == VICTIM + 40 {
            self.messages.extend(self.moved.take());
        }
    }
}

/// Serve one queue on a port of its own until the test ends.
fn broker(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let queue = Arc::new(Mutex::new(Queue::default()));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let queue = queue.clone();
            std::thread::spawn(move || serve(stream, &queue, fault));
        }
    });
    address
}

fn serve(mut stream: TcpStream, queue: &Mutex<Queue>, fault: Fault) {
    stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let config = Config { sasl: SaslRole::Offer(vec!["PLAIN", "ANONYMOUS"]), ..Config::default() };
    let mut connection = Connection::new(Role::Server, Arc::new(config), 0);
    let (mut inbound, mut output, mut consumers) = (Inbound::default(), Vec::new(), Vec::<LinkId>::new());
    let (began, mut bytes, mut tag) = (Instant::now(), vec![0; 65536], 0u32);
    let mut sent_at = began;
    loop {
        let count = match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(_) => return,
        };
        let (mut input, now_ms) = (&bytes[..count], began.elapsed().as_millis() as u64);
        loop {
            let Ok(event) = connection.handle(&mut inbound, &mut input, &mut output, now_ms) else { return };
            match event {
                None => break,
                Some(Event::SaslInit { mechanism, response, .. }) => {
                    let plain = PlainResponse::parse(response);
                    let is_good = mechanism == "ANONYMOUS"
                        || plain.is_some_and(|plain| (plain.user, plain.password) == ("guest", "s3cret"));
                    let code = if is_good { SaslCode::Ok } else { SaslCode::Auth };
                    connection.sasl_outcome(code, &mut output);
                }
                Some(Event::Attached { link, .. }) => {
                    connection.accept_link(link, &AttachReply::default(), &mut output);
                    match connection.role_of(link) {
                        Some(LinkRole::Receiver) => drop(connection.grant(link, CREDIT, &mut output)),
                        _ => consumers.push(link),
                    }
                }
                Some(Event::Transfer { link, delivery_id, payload, .. }) => {
                    queue.lock().unwrap().take(payload, fault);
                    connection.settle(
                        link,
                        delivery_id,
                        delivery_id,
                        &DeliveryState::Accepted,
                        true,
                        &mut output,
                    );
                    if connection.credit(link) < CREDIT / 2 {
                        connection.grant(link, CREDIT, &mut output);
                    }
                }
                Some(_) => {}
            }
        }
        for link in &consumers {
            let mut queue = queue.lock().unwrap();
            let hesitates = fault == Fault::Hesitates && tag < HESITATION_COUNT;
            while connection.sendable(*link) > 0
                && (!hesitates || sent_at.elapsed() >= HESITATION)
                && let Some(message) = queue.messages.pop_front()
            {
                tag += 1;
                sent_at = Instant::now();
                let tag = tag.to_le_bytes();
                let delivery =
                    SendDelivery { tag: &tag, message_format: 0, settled: false, payload: &[&message] };
                if connection.send(*link, &delivery, &mut output).is_err() {
                    queue.messages.push_front(message);
                    break;
                }
            }
        }
        if stream.write_all(&output).is_err() {
            return;
        }
        output.clear();
    }
}

fn loadgen(address: SocketAddr, user: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["gateway", "--connections", "2", "--devices", "3", "--warm-up", "0", "--seconds", "0.5"])
        .args(["--rate", "400", "--target", &format!("amqp://{user}{address}/load")])
        .args(arguments)
        .output()
        .unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_amqp_broker_is_driven_and_read_back() {
    for user in ["", "guest:s3cret@"] {
        let output = loadgen(broker(Fault::None), user, &["--json"]);
        assert!(output.status.success(), "{}", complaint(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["verified"].as_u64().unwrap() >= 150, "{report}");
        assert_eq!((&report["loop"], &report["tls"]), (&"open".into(), &false.into()));
    }
}

#[test]
fn a_broker_that_breaks_its_word_is_found_out() {
    for fault in [Fault::Loses, Fault::Doubles, Fault::Moves] {
        let output = loadgen(broker(fault), "", &[]);
        assert!(!output.status.success(), "{fault:?} went unnoticed");
        let complaint = complaint(&output);
        assert!(complaint.contains("was read where"), "{fault:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
}

#[test]
fn what_an_earlier_run_left_is_passed_over_however_long_it_takes() {
    let address = broker(Fault::Hesitates);
    let earlier = loadgen(address, "", &["--unverified"]);
    assert!(earlier.status.success(), "{}", complaint(&earlier));
    let output = loadgen(address, "", &["--json"]);
    assert!(output.status.success(), "{}", complaint(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let hesitated = u64::from(HESITATION_COUNT);
    assert!(report["leftByEarlierRuns"].as_u64().unwrap() > hesitated, "{report}");
    assert!(report["readBackSeconds"].as_f64().unwrap() > PATIENCE.as_secs_f64(), "{report}");
    assert!(report["verified"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn whoever_is_not_let_in_is_told_so_in_a_line() {
    let output = loadgen(broker(Fault::None), "guest:wrong@", &[]);
    assert!(!output.status.success());
    assert!(complaint(&output).lines().count() == 1 && !complaint(&output).contains("wrong"));
    let nobody = "127.0.0.1:1".parse().unwrap();
    assert!(complaint(&loadgen(nobody, "", &[])).contains("cannot connect to 127.0.0.1:1"));
}

#[test]
fn bytes_of_no_protocol_are_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.write_all(&[0xff; 4096]).unwrap();
            held.push(stream);
        }
    });
    for scheme in ["amqp", "mqtt"] {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["telemetry", "--connections", "2", "--target", &format!("{scheme}://{address}/load")])
            .output()
            .unwrap();
        let complaint = complaint(&output);
        assert!(!output.status.success() && complaint.starts_with("loadgen: "), "{complaint}");
        assert!(!complaint.contains("panicked"), "{complaint}");
    }
}

#[test]
fn without_a_hub_it_says_how_to_build_one() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--hub-binary", "/nowhere/corehub"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(complaint(&output).contains("cargo build --release -p net"), "{}", complaint(&output));
}
