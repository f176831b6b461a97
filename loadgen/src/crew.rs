//! The processes of a run, and the line that says how far they are.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::job::Job;
use crate::record::Kind;
use crate::worker::{GO, Outcome, Progress, Said, total};

/// The argument by which this program becomes such a process.
pub const WORKER: &str = "--worker";

/// Longest time without a word from any process; each gives up by itself before that.
const PATIENCE: Duration = Duration::from_secs(120);

/// Processes at work. Dropped, they are killed.
#[derive(Debug)]
pub struct Crew {
    workers: Vec<(Child, ChildStdin)>,
    said: Receiver<(usize, Said)>,
    progress: Vec<Progress>,
    done: Vec<Option<Outcome>>,
    ready_count: usize,
    line: Line,
}

impl Crew {
    /// Start a process for each job and wait until all their connections stand.
    pub fn start(jobs: &[Job], what: &'static str) -> Result<Self, String> {
        let program =
            std::env::current_exe().map_err(|error| format!("this program is not found: {error}"))?;
        let (sender, said) = channel();
        let mut crew = Self {
            workers: Vec::new(),
            said,
            progress: vec![Progress::default(); jobs.len()],
            done: jobs.iter().map(|_| None).collect(),
            ready_count: 0,
            line: Line::new(what),
        };
        for (index, job) in jobs.iter().enumerate() {
            let mut child = Command::new(&program)
                .arg(WORKER)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| format!("a process cannot be started: {error}"))?;
            let (mut input, output) =
                (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let said = serde_json::from_str(&line).unwrap_or_else(|error| {
                        Said::Failed(format!("a process speaks in riddles: {error}"))
                    });
                    if sender.send((index, said)).is_err() {
                        return;
                    }
                }
                // Whoever has said that it is done is not waited for any more.
                let _ = sender.send((index, Said::Failed("a process has ended before its work".to_owned())));
            });
            let mut job = serde_json::to_vec(job).map_err(|error| error.to_string())?;
            job.push(b'\n');
            input.write_all(&job).map_err(|error| format!("a process takes no work: {error}"))?;
            crew.workers.push((child, input));
        }
        while crew.ready_count < jobs.len() {
            crew.hear(Instant::now() + PATIENCE)?.then_some(()).ok_or("no process says anything")?;
        }
        Ok(crew)
    }

    /// Let them work.
    pub fn go(&mut self) -> Result<(), String> {
        self.workers.iter_mut().try_for_each(|(_, input)| {
            writeln!(input, "{GO}").and_then(|()| input.flush()).map_err(|error| error.to_string())
        })
    }

    /// Wait, but no longer than until the first error. Those that are done before `end` have nothing more to say.
    pub fn pause(&mut self, end: Instant) -> Result<(), String> {
        while !self.is_done() {
            if !self.hear(end)? {
                return Ok(());
            }
        }
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        Ok(())
    }

    /// Wait until all are done.
    pub fn finish(mut self) -> Result<Vec<Outcome>, String> {
        while !self.is_done() {
            self.hear(Instant::now() + PATIENCE)?.then_some(()).ok_or("no process says anything")?;
        }
        self.line.bar.finish_and_clear();
        Ok(self.done.drain(..).flatten().collect())
    }

    fn is_done(&self) -> bool {
        self.done.iter().all(Option::is_some)
    }

    /// Take one word, until `end` at the latest. False: none came.
    fn hear(&mut self, end: Instant) -> Result<bool, String> {
        match self.said.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => return Err("all processes have ended".to_owned()),
            Ok((_, Said::Ready)) => self.ready_count += 1,
            Ok((index, Said::Progress(progress))) => {
                self.progress[index] = progress;
                self.line.show(&self.progress);
            }
            Ok((index, Said::Done(outcome))) => self.done[index] = Some(*outcome),
            Ok((index, Said::Failed(_))) if self.done[index].is_some() => {}
            Ok((_, Said::Failed(error))) => return Err(error),
        }
        Ok(true)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for (child, _) in &mut self.workers {
            // Those that are done have ended or are about to; of the others nothing is wanted any more.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The line that lives on the terminal while a run goes on; nothing where there is no terminal.
#[derive(Debug)]
struct Line {
    bar: ProgressBar,
    last: (Instant, u64),
    per_s: f64,
}

impl Line {
    fn new(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_prefix(what);
        bar.set_style(
            ProgressStyle::with_template("{spinner} {elapsed_precise} {prefix}: {msg}")
                .expect("it is a template"),
        );
        Self { bar, last: (Instant::now(), 0), per_s: 0.0 }
    }

    fn show(&mut self, progress: &[Progress]) {
        let shown = [
            (Kind::Event, "acknowledged"),
            (Kind::Connect, "connects"),
            (Kind::Command, "commands"),
            (Kind::Read, "read"),
        ];
        let parts = shown.map(|(kind, what)| (total(progress, kind), what));
        let all: u64 = parts.iter().map(|(count, _)| count).sum();
        let (at, before) = self.last;
        let passed_s = at.elapsed().as_secs_f64();
        if passed_s >= 0.5 {
            self.per_s = all.saturating_sub(before) as f64 / passed_s;
            self.last = (Instant::now(), all);
        }
        let (ready, count) = progress.iter().fold((0, 0), |(ready, count), progress| {
            (ready + progress.ready_count, count + progress.connection_count)
        });
        let done: Vec<_> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!(", {count} {what}"))
            .collect();
        self.bar.set_message(format!("{ready}/{count} connections{}, {:.0}/s", done.concat(), self.per_s));
        self.bar.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;

    #[test]
    fn processes_that_are_done_before_the_window_ends_are_no_error() {
        let outcome = Outcome {
            ledger: Ledger::new(0, 1),
            records: Vec::new(),
            elapsed_s: 0.0,
            received_bytes: 0,
            unchecked_count: 0,
            command_count: 7,
            storms_s: Vec::new(),
        };
        let (sender, said) = channel();
        sender.send((0, Said::Done(Box::new(outcome)))).unwrap();
        sender.send((0, Said::Failed("ended".to_owned()))).unwrap();
        drop(sender);
        let (progress, done) = (vec![Progress::default()], vec![None]);
        let mut crew =
            Crew { workers: Vec::new(), said, progress, done, ready_count: 1, line: Line::new("test") };
        let end = Instant::now() + Duration::from_millis(50);
        crew.pause(end).unwrap();
        assert!(Instant::now() >= end);
        assert_eq!(crew.finish().unwrap()[0].command_count, 7);
    }
}
