//! The program `loadgen`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    loadgen::main()
}
