//! Another process: what it prints is kept, its end is waited for with a deadline.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What a process has printed so far, both streams in the order in which their lines arrived.
#[derive(Clone, Debug, Default)]
pub struct Printed(Arc<Mutex<String>>);

impl Printed {
    /// Keep what arrives on a stream until it ends, on a thread of its own.
    pub fn collect(&self, stream: impl Read + Send + 'static) {
        let printed = self.clone();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                printed.text_mut().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.text_mut().clone()
    }

    /// Wait until a line satisfies `wanted`; the line.
    pub fn wait_for(&self, wanted: impl Fn(&str) -> bool, patience: Duration) -> Option<String> {
        wait_until(patience, || self.text().lines().find(|line| wanted(line)).map(str::to_owned))
    }

    fn text_mut(&self) -> std::sync::MutexGuard<'_, String> {
        self.0.lock().expect("no reader of a stream panics")
    }
}

/// Try until there is something or patience ends.
pub fn wait_until<T>(patience: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = attempt() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Wait for a child to end.
pub fn wait_for_exit(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    wait_until(patience, || child.try_wait().expect("a child can be waited for"))
}

/// Send a signal to a child that has not been waited for.
pub fn signal(child: &Child, signal: Signal) {
    signal_process(child.id(), signal);
}

/// Send a signal to a process that is there.
pub fn signal_process(process_id: u32, signal: Signal) {
    let id = i32::try_from(process_id).expect("a process id fits");
    kill_process(Pid::from_raw(id).expect("a process has an id"), signal).expect("a child can be signalled");
}

/// Resident memory of a process in bytes that no file backs: mapped segments do not count, the kernel may drop them.
pub fn anonymous_bytes(process_id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a living process has memory");
    let kibibytes: u64 =
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("RssAnon is a number");
    kibibytes * 1024
}

/// Processor time that a process has used, all its threads.
pub fn processor_time(process_id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).expect("the process lives");
    // The second field, a name in parentheses, may hold blanks; user and system time are the 12th and 13th behind it.
    let fields = stat.rsplit_once(')').expect("stat has a name").1;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("ticks are numbers"))
        .sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
