//! The power goes at every operation of a workload that changes the medium: what was acknowledged is never lost, a batch is
//! whole or absent, nothing is invented; and the same when it goes again while the log recovers.
#![forbid(unsafe_code)]

mod common;

use common::{Buffer, DIRECTORY, Model, open, tiny};
use segment_log::storage::Operation;
use segment_log::storage::sim::{PowerCut, SimDisk, SimStorage};
use segment_log::{AppendError, Log, LogConfig, Now, Offset, OpenError, drive};

/// Small, large and multi-record commits over several segments, a reopening, a cut of the front, a replaced file, a clean
/// close. Returns early when the power goes.
fn workload(disk: &SimDisk, config: &LogConfig, model: &mut Model) {
    let mut storage = disk.storage(DIRECTORY);
    for round in 0..2u64 {
        let now = Now { wall_ms: 1000 * round, mono_ms: 0 };
        let Ok((mut log, _)) = Log::open(&mut storage, config.clone(), now, 77 + round) else { return };
        if disk.is_power_off() {
            return;
        }
        model.survive(&log);
        for step in 0..24usize {
            let sizes: &[usize] = match step % 6 {
                0 => &[40],
                1 => &[100, 3000, 9],
                2 => &[700],
                3 => &[3600],
                4 => &[4000, 4000, 2000],
                _ => &[10, 20, 30],
            };
            append(&mut log, &mut storage, model, sizes, 10 * step as u64);
            if step % 3 == 1 {
                append(&mut log, &mut storage, model, &[300, 5], 10 * step as u64);
            }
            drive(&mut log, &mut storage);
            model.acknowledge(&mut log);
            if step == 12 {
                log.replace_file("snapshot", vec![round as u8 + 1; 5000]);
                log.remove_before(Offset(model.acknowledged.saturating_sub(15)));
                drive(&mut log, &mut storage);
            }
            if disk.is_power_off() {
                return;
            }
        }
        if round == 0 {
            log.close();
            drive(&mut log, &mut storage);
            assert!(log.is_closed() || disk.is_power_off());
        }
    }
}

fn append(log: &mut Log<Buffer>, storage: &mut SimStorage, model: &mut Model, sizes: &[usize], time_ms: u64) {
    match model.append(log, sizes, time_ms) {
        Ok(_) => {}
        Err(AppendError::Busy) => {
            drive(log, storage);
            model.acknowledge(log);
            // Without power it stays busy, and nothing was appended.
            let _ = model.append(log, sizes, time_ms);
        }
        Err(AppendError::Latched) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The log that a power cut left holds what it must.
fn check(disk: &SimDisk, config: &LogConfig, mut model: Model, seed: u64) {
    let (mut log, mut storage, report) = open(disk, config, seed);
    assert!(!report.is_damaged(), "a power cut damages nothing: {:?}", report.findings);
    model.survive(&log);
    model.check(&mut log, &mut storage, || ());
    // And it goes on.
    for sizes in [&[5][..], &[6000, 70], &[9]] {
        model.append(&mut log, sizes, 5000).expect("there is room");
        drive(&mut log, &mut storage);
    }
    assert_eq!(log.committed(), log.next());
    model.check(&mut log, &mut storage, || ());
    let snapshot = disk.file_bytes(DIRECTORY, "snapshot");
    let whole =
        snapshot.is_empty() || (snapshot.len() == 5000 && snapshot.iter().all(|byte| *byte == snapshot[0]));
    assert!(whole, "a replaced file is the old one or the new one");
}

fn cuts(seed: u64) -> [PowerCut; 3] {
    [
        PowerCut { seed, sector_bytes: 512, garbage: false },
        PowerCut { seed: seed + 1_000_000, sector_bytes: 512, garbage: true },
        PowerCut { seed: seed + 2_000_000, sector_bytes: 4096, garbage: true },
    ]
}

#[test]
fn a_power_cut_at_every_write_and_sync_loses_nothing_that_was_acknowledged() {
    let config = tiny();
    let disk = SimDisk::new(1);
    workload(&disk, &config, &mut Model::default());
    let operations = disk.operations();
    let count = |wanted: Operation| operations.iter().filter(|operation| **operation == wanted).count();
    assert!(count(Operation::Sync) > 60 && count(Operation::Write) > 80, "the workload is worth something");
    for at in 0..operations.len() as u64 {
        let disk = SimDisk::new(1);
        disk.cut_power_at(at);
        let mut model = Model::default();
        workload(&disk, &config, &mut model);
        assert!(disk.is_power_off());
        for cut in cuts(at) {
            let left = disk.after_power_cut(cut);
            let context = format!("cut at operation {at} ({:?}), {cut:?}", operations[at as usize]);
            let model = model.clone();
            let config = config.clone();
            with_context(&context, move || check(&left, &config, model, at));
        }
    }
}

#[test]
fn a_power_cut_at_every_step_of_a_recovery_loses_nothing_either() {
    let config = tiny();
    let whole = SimDisk::new(1);
    workload(&whole, &config, &mut Model::default());
    // A spread of first ends, by a power cut or by a kill that leaves unsynced writes to be found; then the power goes at each
    // step of the recovery.
    for at in (0..whole.operation_count()).step_by(7) {
        let disk = SimDisk::new(1);
        disk.cut_power_at(at);
        let mut model = Model::default();
        workload(&disk, &config, &mut model);
        let first_cut = PowerCut { seed: at, sector_bytes: 512, garbage: true };
        for killed in [false, true] {
            for second in 0.. {
                let disk = if killed { disk.after_kill(at) } else { disk.after_power_cut(first_cut) };
                disk.cut_power_at(second);
                let mut storage = disk.storage(DIRECTORY);
                match Log::open(&mut storage, config.clone(), Now::default(), second) {
                    Ok(_) if !disk.is_power_off() => break,
                    Ok(_) | Err(OpenError::Storage(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                for cut in cuts(second).into_iter().chain(cuts(at * 31 + second)) {
                    let left = disk.after_power_cut(cut);
                    let context = format!(
                        "ended at {at} (killed: {killed}), then at {second} of the recovery, {cut:?}"
                    );
                    let (model, config) = (model.clone(), config.clone());
                    with_context(&context, move || check(&left, &config, model, second + 500));
                }
            }
        }
    }
}

#[test]
fn what_recovery_found_is_durable_before_it_is_read() {
    // A process that is killed leaves writes that no sync has made durable; the next one finds them. What that one hands
    // out, and builds upon, must survive a power cut.
    let config = tiny();
    let whole = SimDisk::new(1);
    workload(&whole, &config, &mut Model::default());
    for at in (0..whole.operation_count()).step_by(5) {
        let disk = SimDisk::new(1);
        disk.cut_power_at(at);
        let mut model = Model::default();
        workload(&disk, &config, &mut model);
        let killed = disk.after_kill(at);
        let (log, storage, _) = open(&killed, &config, at);
        model.survive(&log);
        drop((log, storage));
        for cut in cuts(at) {
            let (model, config, left) = (model.clone(), config.clone(), killed.after_power_cut(cut));
            with_context(&format!("killed at {at}, {cut:?}"), move || check(&left, &config, model, at));
        }
    }
}

/// Say where it was, if it fails.
fn with_context(context: &str, check: impl FnOnce()) {
    struct Context<'a>(&'a str);
    impl Drop for Context<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{}", self.0);
            }
        }
    }
    let _context = Context(context);
    check();
}
