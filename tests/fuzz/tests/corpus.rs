//! Every target over its kept corpus, and over seeded damage of each entry.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fuzz::corpus::{read, to_hex};
use fuzz::mutate::mutate;

/// Run a target over its corpus. Whoever sees it fail sees what to put into a regression test.
fn check(name: &str) {
    let target = fuzz::target(name).expect("a target");
    let entries = read(name).expect("each target has a corpus");
    assert!(entries.len() > 3, "the corpus of {name} is nearly empty");
    let run = |what: &str, bytes: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))) {
            eprintln!("{name} fails at {what}: {}", to_hex(bytes));
            resume_unwind(panic);
        }
    };
    run("nothing", &[]);
    for (index, entry) in entries.iter().enumerate() {
        run(&format!("entry {index}"), entry);
        for number in 0..target.mutation_count {
            let seed = (index as u64) << 32 | u64::from(number);
            let other = &entries[seed.wrapping_mul(0x9e37_79b9) as usize % entries.len()];
            run(&format!("entry {index} with seed {seed:#x}"), &mutate(entry, other, seed));
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        #[test]
        fn no_target_is_left_out() {
            let names: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets! {
    amqp_server amqp_client amqp_value amqp_message http websocket mqtt mqtt_packet sas
    hub_amqp hub_http hub_mqtt hub_stomp node mqtt_text rest query log journal snapshot
}
