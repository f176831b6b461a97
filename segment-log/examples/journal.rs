//! A durable journal on the command line: each line of standard input is kept before the next one is read, and what was kept
//! before is printed first.
//!
//! ```text
//! $ printf 'first\nsecond\n' | cargo run -p segment-log --example journal -- /tmp/journal
//! kept 0
//! kept 1
//! $ echo third | cargo run -p segment-log --example journal -- /tmp/journal
//! 0 first
//! 1 second
//! kept 2
//! ```
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use segment_log::storage::disk::{DiskConfig, DiskStorage};
use segment_log::{Log, LogConfig, Now, Read, ReadLimit, drive};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: journal DIRECTORY")?;
    let started = Instant::now();
    let now = || -> Result<Now, Box<dyn Error>> {
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().try_into()?;
        Ok(Now { wall_ms, mono_ms: started.elapsed().as_millis().try_into()? })
    };
    let mut storage = DiskStorage::open(Path::new(&path), DiskConfig::default())?;
    // The seed only has to be one that a sender of records cannot guess.
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()) << 32
        | u64::from(std::process::id());
    let (mut log, report) = Log::open(&mut storage, LogConfig::default(), now()?, seed)?;
    for finding in &report.findings {
        eprintln!("{finding}");
    }

    let mut offset = log.first();
    loop {
        match log.read(offset, ReadLimit::default())? {
            Read::Records(slice) => {
                for record in &slice {
                    println!("{} {}", record.offset, String::from_utf8_lossy(record.payload));
                }
                offset = slice.next();
            }
            // Not in memory: it has been asked for.
            Read::Pending => drive(&mut log, &mut storage),
            Read::End => break,
        }
    }

    for line in std::io::stdin().lock().lines() {
        let offset = log.append(&[&[line?.as_bytes()]], now()?.wall_ms)?;
        drive(&mut log, &mut storage);
        if let Some(error) = log.latched() {
            return Err(error.into());
        }
        println!("kept {offset}");
        log.tick(now()?);
    }
    log.close();
    drive(&mut log, &mut storage);
    Ok(())
}
