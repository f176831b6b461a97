//! The program `corehub`. Everything is in the library, so that the tests build the same program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    net::main()
}
