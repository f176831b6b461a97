//! Links programs so that `engine_runtime`'s `ring_setup` sets up the rings of io_uring.
#![forbid(unsafe_code)]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-Wl,--wrap=__sys_io_uring_setup");
}
