//! Random operations against a plain model, with segments that roll every few records, actions that take their time and
//! come back in any order, and reopening after a close, a kill and a power cut.
#![forbid(unsafe_code)]

mod common;

use common::{Buffer, DIRECTORY, Model, open, tiny};
use proptest::prelude::*;
use segment_log::storage::sim::{PowerCut, SimDisk, SimStorage};
use segment_log::{AppendError, Log, LogConfig, Now, Offset, ReadError, ReadLimit, RetentionConfig, drive};

#[derive(Clone, Debug)]
enum Step {
    /// Append a batch of such sizes, so much time after the last.
    Append(Vec<usize>, u64),
    /// End the turn: ask for what is to be done.
    Turn,
    /// Let so many of the waiting actions happen, then end the turn.
    Pass(usize),
    /// Let everything happen.
    Settle,
    /// Read from so many 256ths of the log on, and seek the time of the record there.
    Read(u8),
    /// Let so much time pass.
    Tick(u64),
    /// Declare all before so many 256ths of the log useless.
    Cut(u8),
    Close,
    Kill,
    PowerCut(u64, bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![6 => 0..300usize, 2 => 300..5000usize, 1 => Just(8 << 10)];
    prop_oneof![
        12 => (prop::collection::vec(size, 1..5), 0..50u64).prop_map(|(sizes, time_ms)| Step::Append(sizes, time_ms)),
        6 => Just(Step::Turn),
        8 => (1..6usize).prop_map(Step::Pass),
        2 => Just(Step::Settle),
        5 => any::<u8>().prop_map(Step::Read),
        2 => (1..20_000u64).prop_map(Step::Tick),
        1 => any::<u8>().prop_map(Step::Cut),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        2 => (any::<u64>(), any::<bool>(), any::<bool>()).prop_map(|(seed, small, bad)| Step::PowerCut(seed, small, bad)),
    ]
}

fn config() -> impl Strategy<Value = LogConfig> {
    let tail = prop_oneof![Just(0), Just(8 << 10), Just(1 << 20)];
    let load = prop_oneof![Just(4096), Just(16 << 10)];
    let bytes = prop_oneof![2 => Just(None), 1 => Just(Some(150 << 10))];
    let roll = prop_oneof![2 => Just(None), 1 => Just(Some(10_000))];
    (tail, load, bytes, roll, any::<bool>()).prop_map(
        |(tail_bytes_max, load_bytes, bytes, roll_age_ms, keep_prepared)| LogConfig {
            tail_bytes_max,
            load_bytes,
            keep_prepared,
            roll_age_ms,
            retention: RetentionConfig { age_ms: None, bytes },
            ..tiny()
        },
    )
}

struct World {
    disk: SimDisk,
    storage: SimStorage,
    log: Log<Buffer>,
    model: Model,
    config: LogConfig,
    now: Now,
    opened: u64,
    /// Nothing at or behind this may be removed, unless for its size.
    cut: u64,
}

impl World {
    fn new(config: LogConfig) -> World {
        let disk = SimDisk::new(11);
        let (log, storage, _) = open(&disk, &config, 0);
        disk.set_delayed(true);
        let (model, now) = (Model::default(), Now { wall_ms: 1_000_000, mono_ms: 0 });
        World { disk, storage, log, model, config, now, opened: 0, cut: 0 }
    }

    fn turn(&mut self) {
        drive(&mut self.log, &mut self.storage);
        self.model.acknowledge(&mut self.log);
        assert_eq!(self.log.latched(), None);
    }

    fn settle(&mut self) {
        loop {
            self.turn();
            if !self.disk.step() {
                break;
            }
        }
        assert_eq!(self.log.committed(), self.log.next());
    }

    fn reopen(&mut self, disk: SimDisk) {
        self.disk = disk;
        self.opened += 1;
        let (log, storage, report) = open(&self.disk, &self.config, self.opened);
        assert!(!report.is_damaged(), "{:?}", report.findings);
        (self.log, self.storage) = (log, storage);
        self.disk.set_delayed(true);
        self.model.survive(&self.log);
        self.check();
    }

    fn check(&mut self) {
        let disk = self.disk.clone();
        let turn = move || {
            disk.step();
        };
        self.model.check(&mut self.log, &mut self.storage, turn);
        self.model.acknowledge(&mut self.log);
    }

    fn at(&self, part: u8) -> u64 {
        self.model.records.len() as u64 * u64::from(part) / 256
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Append(sizes, time_ms) => {
                // Times of the wall clock may go back; those of records do not.
                self.now.wall_ms = (self.now.wall_ms + time_ms).saturating_sub(20);
                match self.model.append(&mut self.log, &sizes, self.now.wall_ms) {
                    Ok(_) | Err(AppendError::Busy) => {}
                    Err(AppendError::TooLarge { bytes, bytes_max }) => assert!(bytes > bytes_max),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Turn => self.turn(),
            Step::Pass(count) => {
                for _ in 0..count {
                    self.disk.step();
                }
                self.turn();
            }
            Step::Settle => self.settle(),
            Step::Read(part) => self.read(self.at(part)),
            Step::Tick(passed_ms) => {
                self.now.mono_ms += passed_ms;
                self.now.wall_ms += passed_ms;
                self.log.tick(self.now);
            }
            Step::Cut(part) => {
                self.cut = self.cut.max(self.at(part));
                self.log.remove_before(Offset(self.cut));
            }
            Step::Close => {
                self.log.close();
                self.settle();
                assert!(self.log.is_closed());
                self.reopen(self.disk.after_kill(self.opened));
            }
            Step::Kill => self.reopen(self.disk.after_kill(self.opened)),
            Step::PowerCut(seed, small, garbage) => {
                let sector_bytes = if small { 512 } else { 4096 };
                self.reopen(self.disk.after_power_cut(PowerCut { seed, sector_bytes, garbage }));
            }
        }
        assert!(self.log.first() <= self.log.committed());
        if self.config.retention.bytes.is_none() {
            assert!(self.log.first().0 <= self.cut, "no more is removed than was asked for");
        }
        assert!(self.log.tail_bytes() <= self.config.tail_bytes_max + (128 << 10), "the tail is bounded");
    }

    fn read(&mut self, from: u64) {
        let first = self.log.first();
        if from < first.0 {
            let error = self.log.read(Offset(from), ReadLimit::default()).unwrap_err();
            assert_eq!(error, ReadError::BeforeFirst { first });
            return;
        }
        let disk = self.disk.clone();
        let turn = move || {
            disk.step();
        };
        let (log, storage) = (&mut self.log, &mut self.storage);
        self.model.check_from(log, storage, Offset(from), &turn);
        if let Some(known) = self.model.records.get(from as usize) {
            self.model.check_seek(log, storage, known.time_ms, &turn);
            self.model.check_seek(log, storage, known.time_ms + 1, &turn);
        }
        self.model.acknowledge(log);
    }
}

/// As many as `PROPTEST_CASES` says, or what takes a second or two.
fn cases() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    ProptestConfig {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { 192 },
        ..config
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_log_does_what_the_model_says(config in config(), steps in prop::collection::vec(step(), 1..160)) {
        let mut world = World::new(config);
        for step in steps {
            world.take(step);
        }
        world.settle();
        world.check();
        // What is removed is removed in the end, and nothing else lies about.
        world.settle();
        let files = world.disk.files(DIRECTORY);
        let segments = files.iter().filter(|(name, _)| name.ends_with(".segment")).count();
        prop_assert!(files.len() <= segments + 1, "{files:?}");
    }
}
