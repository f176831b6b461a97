//! A process of a run: it is told its job, says when it is ready, and reports what it found.

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::client::storm::Storm;
use crate::client::{AFTERMATH, Run};
use crate::io::{Reactor, pin};
use crate::job::{Job, Until};
use crate::ledger::Ledger;
use crate::record::{KINDS, Kind, Record, Recorder};

/// How long a run may stand still while something is still to come. Receipts of commands are gathered for 15 s.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often the user's process hears how far this one is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Longest time that the loop waits for the network.
const TURN: Duration = Duration::from_millis(10);
/// The word that starts the work.
pub const GO: &str = "go";

/// What a process says, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// All connections stand.
    Ready,
    /// How far it is.
    Progress(Progress),
    /// It is done.
    Done(Box<Outcome>),
    /// It has failed.
    Failed(String),
}

/// How far a process is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Of how many connections.
    pub connection_count: usize,
    /// How many are ready.
    pub ready_count: usize,
    /// How many of each kind were done.
    pub totals: [u64; KINDS.len()],
}

/// What a process found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What was acknowledged and read.
    pub ledger: Ledger,
    /// What was measured.
    pub records: Vec<Record>,
    /// How long the work took, seconds.
    pub elapsed_s: f64,
    /// Bytes that all sockets brought, as they travelled.
    pub received_bytes: u64,
    /// Events that readers got which check nothing.
    pub unchecked_count: u64,
    /// Commands that were delivered once and in order, completed and, where that was asked for, told of by a receipt.
    pub command_count: u64,
    /// How long each storm took, seconds.
    pub storms_s: Vec<f64>,
}

/// Be such a process: job and words from standard input, lines to standard output.
///
/// # Errors
///
/// Only what keeps it from saying so to the other process.
pub fn main() -> Result<(), String> {
    let said = match work() {
        Ok(outcome) => Said::Done(Box::new(outcome)),
        Err(error) => Said::Failed(error),
    };
    say(&said)
}

fn say(said: &Said) -> Result<(), String> {
    let line = serde_json::to_string(said).map_err(|error| error.to_string())?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(|error| error.to_string())
}

/// Words from the other process. When that is gone, so is this one.
fn listen() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
        std::process::exit(1);
    });
    receiver
}

struct Worker {
    reactor: Reactor,
    run: Run,
    said_at: Instant,
    /// What had been done when something was last done, and when that was.
    last: (u64, Instant),
}

impl Worker {
    /// One turn of the network, and a word now and then.
    fn turn(&mut self, until: Option<Instant>) -> Result<(), String> {
        let end = Instant::now() + TURN;
        self.reactor.turn(&mut self.run, until.map_or(end, |until| until.min(end)))?;
        if self.run.is_working() && self.run.storm.advance(self.run.now) {
            self.reactor.wake_all(&mut self.run)?;
        }
        if self.run.now - self.said_at > PROGRESS_INTERVAL {
            self.said_at = self.run.now;
            say(&Said::Progress(self.progress()))?;
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress {
            connection_count: self.reactor.count(),
            ready_count: self.reactor.ready_count(),
            totals: KINDS.map(|kind| self.run.recorder.total(kind)),
        }
    }

    /// Turns until `is_done`; as long as [`PATIENCE`] in which nothing was done ends the run.
    fn until(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) -> Result<(), String> {
        self.last.1 = Instant::now();
        while !is_done(self) {
            self.turn(None)?;
            let Progress { ready_count, totals, .. } = self.progress();
            // What earlier runs left is work, too.
            let others = self.run.ledger.foreign_count;
            let done =
                (ready_count + self.reactor.finished_count()) as u64 + totals.iter().sum::<u64>() + others;
            if done != self.last.0 {
                self.last = (done, self.run.now);
            } else if self.run.now - self.last.1 > PATIENCE {
                return Err(format!("waited {} s for {what}, in vain", PATIENCE.as_secs()));
            }
        }
        Ok(())
    }

    fn pause(&mut self, end: Instant) -> Result<(), String> {
        while Instant::now() < end {
            self.turn(Some(end))?;
        }
        Ok(())
    }
}

fn work() -> Result<Outcome, String> {
    let words = listen();
    let job = words.recv().map_err(|_| "no job was given")?;
    let job: Job = serde_json::from_str(&job).map_err(|error| format!("the job cannot be read: {error}"))?;
    if let Some(cpu) = job.cpu {
        pin(cpu)?;
    }
    let now = Instant::now();
    let run = Run {
        now,
        commands: Ledger::new(job.run, job.ledger.device_count()),
        storm: Storm::default(),
        unchecked_count: 0,
        ledger: job.ledger,
        recorder: Recorder::default(),
        begins_at: None,
        ends_at: None,
    };
    let mut worker = Worker { reactor: Reactor::new()?, run, said_at: now, last: (0, now) };
    job.parts.iter().try_for_each(|part| part.start(&mut worker.reactor))?;
    worker.run.storm.device_count = worker.reactor.count();
    worker
        .until("connections to be ready", |worker| worker.reactor.ready_count() == worker.reactor.count())?;
    say(&Said::Ready)?;
    while words.try_recv().is_err() {
        worker.turn(None)?;
    }

    let begin = Instant::now();
    let mut from = begin;
    worker.run.now = begin;
    worker.run.begins_at = Some(begin);
    match job.until {
        Until::Time { warm_up_s, window_s } => {
            from = begin + Duration::from_secs_f64(warm_up_s);
            let to = from + Duration::from_secs_f64(window_s);
            worker.run.recorder.open(from, to);
            worker.run.ends_at = Some(to);
            worker.run.storm.begin();
            worker.reactor.wake_all(&mut worker.run)?;
            worker.pause(to)?;
        }
        Until::AllRead => {
            worker.run.recorder.open_end(begin);
            worker.reactor.wake_all(&mut worker.run)?;
            let readers = job.parts.iter().filter(|part| part.is_unchecked_reader()).count() as u64;
            worker.until("events to be read back", |worker| {
                let Run { ledger, unchecked_count, .. } = &worker.run;
                ledger.missing_count() == 0 && *unchecked_count >= readers * ledger.read_count()
            })?;
            worker.run.recorder.close(Instant::now());
        }
        Until::Ready => {}
    }
    let elapsed_s = begin.elapsed().as_secs_f64();
    if matches!(job.until, Until::AllRead) {
        worker.pause(Instant::now() + AFTERMATH)?;
    }
    worker.run.now = Instant::now();
    worker.run.ends_at.get_or_insert(worker.run.now);
    worker.reactor.wake_all(&mut worker.run)?;
    worker.until("the last answers", |worker| worker.reactor.finished_count() == worker.reactor.count())?;
    let Run { ledger, commands, storm, recorder, unchecked_count, .. } = worker.run;
    commands.verify().map_err(|error| format!("commands: {error}"))?;
    Ok(Outcome {
        ledger,
        records: recorder.records(),
        elapsed_s,
        received_bytes: worker.reactor.received_bytes(),
        unchecked_count,
        command_count: commands.read_count(),
        storms_s: storm
            .over
            .iter()
            .filter(|(at, _)| *at >= from)
            .map(|(_, took)| took.as_secs_f64())
            .collect(),
    })
}

/// How many of a kind all processes have done.
pub fn total(progress: &[Progress], kind: Kind) -> u64 {
    progress.iter().map(|progress| progress.totals[kind as usize]).sum()
}
