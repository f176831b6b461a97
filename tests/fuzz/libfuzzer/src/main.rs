//! One target of the crate `fuzz`, named by `FUZZ_TARGET`, under libFuzzer. See `../run`.
#![no_main]

use std::sync::OnceLock;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<fuzz::Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
        fuzz::target(&name).expect("FUZZ_TARGET is none of the targets")
    });
    (target.run)(bytes);
});
