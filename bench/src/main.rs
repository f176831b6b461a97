//! Prints the figures of durable appends, for commits of several sizes.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use bench::log_ingest::{Size, run};

const PAYLOAD_BYTES: usize = 256;
/// Records per commit, and how many in all.
const ROWS: [(u64, u64); 4] = [(1, 20_000), (64, 1_000_000), (1024, 8_000_000), (4096, 16_000_000)];

fn main() -> ExitCode {
    println!(
        "{PAYLOAD_BYTES} B records; records per commit, durable records/s, CPU ns/record, commit us p50, p99"
    );
    for (commit_record_count, record_count) in ROWS {
        let size = Size { record_count, commit_record_count, payload_bytes: PAYLOAD_BYTES };
        let figures = tempfile::tempdir_in(".")
            .map_err(|error| error.to_string())
            .and_then(|directory| run(directory.path(), size));
        match figures {
            Ok(figures) => println!(
                "{commit_record_count:>6} {:>12.0} {:>8.0} {:>8} {:>8}",
                figures.records_per_s,
                figures.cpu_ns_per_record,
                figures.commit_us_p50,
                figures.commit_us_p99
            ),
            Err(error) => {
                eprintln!("bench: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
