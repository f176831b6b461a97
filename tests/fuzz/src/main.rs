//! Corpora: what they begin with, the way between the one file that is kept and the directory that libFuzzer works on, and one input
//! alone.
#![forbid(unsafe_code)]

use std::panic::{catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use fuzz::corpus;
use fuzz::mutate::mutate;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["list"] => {
            fuzz::TARGETS.iter().for_each(|target| println!("{}", target.name));
            Ok(())
        }
        ["unpack", target, directory] => unpack(target, directory),
        ["pack", target, directory] => pack(target, directory),
        ["seed", target] => seed(target),
        ["run", target, file] => run(target, file),
        ["damage", target, seconds] => damage(target, seconds),
        _ => Err(io::Error::other(
            "list | seed TARGET | unpack TARGET DIRECTORY | pack TARGET DIRECTORY | run TARGET FILE | damage TARGET SECONDS",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Add what a corpus begins with.
fn seed(target: &str) -> io::Result<()> {
    let mut entries = if corpus::path(target).exists() { corpus::read(target)? } else { Vec::new() };
    entries.extend(fuzz::seeds::of(target));
    corpus::write(target, entries)
}

fn unpack(target: &str, directory: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let entries = if corpus::path(target).exists() { corpus::read(target)? } else { Vec::new() };
    for (number, entry) in entries.iter().enumerate() {
        fs::write(format!("{directory}/kept-{number:04}"), entry)?;
    }
    Ok(())
}

fn pack(target: &str, directory: &str) -> io::Result<()> {
    let files = fs::read_dir(directory)?;
    let entries: io::Result<Vec<_>> = files.map(|file| fs::read(file?.path())).collect();
    corpus::write(target, entries?)
}

/// Run a target over ever more damage of its corpus, other damage than the tests try. What fails is printed.
fn damage(target: &str, seconds: &str) -> io::Result<()> {
    let seconds = seconds.parse().map_err(|_| io::Error::other("no number of seconds"))?;
    let (target, entries) = (find(target)?, corpus::read(target)?);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut count = 0;
    for seed in (1 << 63).. {
        if Instant::now() >= end || entries.is_empty() {
            break;
        }
        let [entry, other] = [seed, seed / 7].map(|number: u64| &entries[number as usize % entries.len()]);
        let bytes = mutate(entry, other, seed);
        let result = catch_unwind(|| (target.run)(&bytes));
        if let Err(panic) = result {
            println!("{}", corpus::to_hex(&bytes));
            resume_unwind(panic);
        }
        count += 1;
    }
    println!("{count} runs");
    Ok(())
}

fn find(target: &str) -> io::Result<fuzz::Target> {
    fuzz::target(target).ok_or_else(|| io::Error::other("no such target"))
}

fn run(target: &str, file: &str) -> io::Result<()> {
    let target = find(target)?;
    let bytes = fs::read(file)?;
    println!("{}", corpus::to_hex(&bytes));
    (target.run)(&bytes);
    Ok(())
}
