//! The program `loadgen`, built again so that Cargo puts it beside the hub that the tests run.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    loadgen::main()
}
