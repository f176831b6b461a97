//! The program `corehub`, built again so that Cargo names its path to the tests.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    net::main()
}
