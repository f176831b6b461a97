//! Random operations on commands and receipts, held against the plain model: every answer, every queue, every token, over
//! restarts and power cuts.

mod operation;
mod run;
mod seen;

use engine::shard::CommandRules;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use operation::op;
use run::Run;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn commands_and_receipts_are_what_the_model_says(
        ops in prop::collection::vec(op(), 1..150),
        counts_every_lock in any::<bool>(),
    ) {
        let mut run = Run::new(CommandRules {
            queue_depth_max: 5,
            command_bytes_max: 4096,
            delivery_count_max: 3,
            receipt_delivery_count_max: 2,
            counts_every_lock,
            ..CommandRules::default()
        });
        for op in ops {
            run.apply(op);
        }
    }
}
