//! The program `loadgen`.
fn main() -> std::process::ExitCode {
    loadgen::main()
}
