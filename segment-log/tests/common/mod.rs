//! What the tests share: a tiny configuration, and a plain model of a log that a real one is held against.
#![allow(dead_code, reason = "each test takes what it needs")]

use segment_log::storage::Storage;
use segment_log::storage::sim::{SimDisk, SimStorage};
use segment_log::{
    AppendError, Log, LogConfig, LogEvent, Now, Offset, Read, ReadError, ReadLimit, RecoveryReport, Seek,
    drive,
};

/// The memory that the simulated disk writes from.
pub type Buffer = <SimStorage as Storage>::Buffer;

/// The directory that the tests use.
pub const DIRECTORY: &str = "log";

/// Segments so small that they roll every few records.
pub fn tiny() -> LogConfig {
    LogConfig {
        segment_bytes_first: 32 << 10,
        segment_bytes_max: 64 << 10,
        commit_bytes_max: 16 << 10,
        record_bytes_max: 8 << 10,
        tail_bytes_max: 16 << 10,
        index_stride_bytes: 4096,
        load_bytes: 8192,
        ..LogConfig::default()
    }
}

/// One record of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub time_ms: u64,
    pub payload: Vec<u8>,
    /// The last one of its batch.
    pub ends_batch: bool,
}

/// What a log must hold: each record that was ever appended and not cut, by offset.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub records: Vec<Known>,
    /// Everything before this was acknowledged.
    pub acknowledged: u64,
    made: u64,
}

impl Model {
    /// A payload that no other record has.
    pub fn payload(&mut self, bytes: usize) -> Vec<u8> {
        self.made += 1;
        let mut payload = self.made.to_le_bytes().repeat(bytes / 8 + 1);
        payload.truncate(bytes.max(8));
        payload
    }

    /// Append a batch of records of these sizes, in two parts each, to the model and to the log, if that takes it.
    pub fn append(
        &mut self,
        log: &mut Log<Buffer>,
        sizes: &[usize],
        time_ms: u64,
    ) -> Result<Offset, AppendError> {
        let payloads: Vec<Vec<u8>> = sizes.iter().map(|bytes| self.payload(*bytes)).collect();
        let parts: Vec<[&[u8]; 2]> =
            payloads.iter().map(|payload| payload.split_at(payload.len() / 3).into()).collect();
        let batch: Vec<&[&[u8]]> = parts.iter().map(|parts| &parts[..]).collect();
        let last_time_ms = log.last_time_ms();
        let first = log.append(&batch, time_ms)?;
        assert_eq!(first.0, self.records.len() as u64, "offsets count records");
        for (at, payload) in payloads.iter().enumerate() {
            let time_ms = time_ms.max(last_time_ms);
            self.records.push(Known {
                time_ms,
                payload: payload.clone(),
                ends_batch: at + 1 == payloads.len(),
            });
        }
        Ok(first)
    }

    /// Take the log's events; what it says is committed is acknowledged from then on.
    pub fn acknowledge(&mut self, log: &mut Log<Buffer>) -> Vec<LogEvent> {
        self.acknowledged = log.committed().0;
        std::iter::from_fn(|| log.poll_event()).collect()
    }

    /// After a crash: nothing acknowledged is lost, batches are whole or absent. The model forgets what is.
    pub fn survive(&mut self, log: &Log<Buffer>) {
        let next = log.next().0;
        assert!(next >= self.acknowledged, "acknowledged to {} and lost from {next}", self.acknowledged);
        assert!(next <= self.records.len() as u64, "records were invented: {next} of {}", self.records.len());
        if let Some(last) = (next as usize).checked_sub(1) {
            assert!(self.records[last].ends_batch, "a batch is cut at {next}");
        }
        self.records.truncate(next as usize);
        self.acknowledged = next;
        assert_eq!(log.committed(), log.next());
    }

    /// Read everything that is committed and compare it.
    pub fn check<S: Storage<Buffer = Buffer>>(
        &self,
        log: &mut Log<Buffer>,
        storage: &mut S,
        turn: impl Fn(),
    ) {
        let from = log.first();
        let read = self.check_from(log, storage, from, &turn);
        assert_eq!(read, log.committed());
    }

    /// As [`Model::check`], from an offset; returns where reading ended.
    pub fn check_from<S: Storage<Buffer = Buffer>>(
        &self,
        log: &mut Log<Buffer>,
        storage: &mut S,
        from: Offset,
        turn: &impl Fn(),
    ) -> Offset {
        let mut at = from;
        loop {
            let limit = ReadLimit { bytes: 3000, records: 7 };
            let read = match log.read(at, limit) {
                // Retention went on meanwhile.
                Err(ReadError::BeforeFirst { first }) => {
                    at = first;
                    continue;
                }
                read => read.unwrap_or_else(|error| panic!("at {at}: {error}")),
            };
            match read {
                Read::Records(slice) => {
                    assert_eq!(slice.first(), at);
                    assert!(slice.records() <= 7 && slice.records() > 0);
                    for copy in [slice.shared().iter(), slice.iter()] {
                        let mut offset = at;
                        for record in copy {
                            let known = &self.records[offset.0 as usize];
                            assert_eq!(record.offset, offset);
                            assert_eq!(record.time_ms, known.time_ms, "time of {offset}");
                            assert!(record.payload == known.payload, "payload of {offset}");
                            offset.0 += 1;
                        }
                        assert_eq!(offset, slice.next());
                    }
                    at = slice.next();
                    assert!(at <= log.committed());
                }
                Read::Pending => {
                    turn();
                    drive(log, storage);
                }
                Read::End => return at,
            }
        }
    }

    /// Seek a time and compare.
    pub fn check_seek<S: Storage<Buffer = Buffer>>(
        &self,
        log: &mut Log<Buffer>,
        storage: &mut S,
        time_ms: u64,
        turn: &impl Fn(),
    ) {
        loop {
            // More may be committed while a load is waited for.
            let committed = log.committed().0 as usize;
            let first = log.first().0 as usize;
            let found = self.records[first..committed].iter().position(|known| known.time_ms >= time_ms);
            let expected = found.map_or(committed, |at| first + at);
            match log.seek_time(time_ms).expect("nothing is damaged") {
                Seek::At(offset) => return assert_eq!(offset.0 as usize, expected, "seek of {time_ms}"),
                Seek::Pending => {
                    turn();
                    drive(log, storage);
                }
            }
        }
    }
}

/// Open the log of a disk.
pub fn open(disk: &SimDisk, config: &LogConfig, seed: u64) -> (Log<Buffer>, SimStorage, RecoveryReport) {
    let mut storage = disk.storage(DIRECTORY);
    let (log, report) = Log::open(&mut storage, config.clone(), Now::default(), seed).expect("the log opens");
    (log, storage, report)
}

/// A record's offset and payload.
pub type Numbered = (u64, Vec<u8>);

/// Read all that can be read, skipping damage: the records with their offsets, and the damaged ranges.
pub fn read_around<S: Storage<Buffer = Buffer>>(
    log: &mut Log<Buffer>,
    storage: &mut S,
) -> (Vec<Numbered>, Vec<(u64, u64)>) {
    let (mut records, mut damage) = (Vec::new(), Vec::new());
    let mut at = log.first();
    loop {
        match log.read(at, ReadLimit::default()) {
            Ok(Read::Records(slice)) => {
                records.extend(slice.iter().map(|record| (record.offset.0, record.payload.to_vec())));
                at = slice.next();
            }
            Ok(Read::Pending) => drive(log, storage),
            Ok(Read::End) => return (records, damage),
            Err(ReadError::Damaged { first, resume }) => {
                assert_eq!(first, at);
                assert!(resume > first, "reading goes on behind damage");
                damage.push((first.0, resume.0));
                at = resume;
            }
            Err(error) => panic!("at {at}: {error}"),
        }
    }
}
