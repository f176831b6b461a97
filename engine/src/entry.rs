//! What stands in a partition's journal.
//!
//! A journal record is one byte for the kind, then the kind's fields; integers are little-endian, a text is its length (1)
//! and its bytes.
//!
//! | kind | fields |
//! |---|---|
//! | 1 registry | a change in the registry's own form |
//! | 2 checkpoint | group (8), sequence number (8) |
//! | 3 checkpoint dropped | group (8) |
//! | 4 command enqueued | device (text), generation (8), number (8), enqueued at (8), expires at (8), ack (1), message id (text), then the bare message to the end |
//! | 5 commands removed | device (text), outcome (1), at (8), how many (4), then number (8) and whether a receipt was gathered (1) of each |
//! | 6 command given back | device (text), number (8), delivery count (1) |
//! | 7 receipts batched | number (8), at (8), how many of the oldest (4) |
//! | 8 batch given back | number (8), delivery count (1) |
//! | 9 batch removed | number (8) |
//! | 10 subscribed | device (text), what (1): 0 no longer, 1 without acknowledgements, 2 with them; then the address to the end |
//!
//! Times are milliseconds since 1970. Ack: 0 none, 1 positive, 2 negative, 3 full. Outcome: 0 success, 1 expired, 2 delivery count
//! exceeded, 3 rejected, 4 purged. The deletion of a device (kind 1) ends its commands and the receipts that were gathered of
//! it and are in no batch, and its subscription; no record says so once more.

mod blob;
mod fields;

use registry::{Change, ChangeError, ConsumerGroupId, DeviceId, GenerationId, KeySealer};

use crate::command_queue::Command;
use crate::request::{Outcome, SequenceNumber, Subscription};
pub(crate) use blob::{Blob, Frozen};
use fields::{
    Fields, ack_code, outcome_code, put_count, put_number, put_subscription, put_text, subscription,
};

const REGISTRY: u8 = 1;
const CHECKPOINT: u8 = 2;
const CHECKPOINT_DROPPED: u8 = 3;
const COMMAND_ENQUEUED: u8 = 4;
const COMMANDS_REMOVED: u8 = 5;
const COMMAND_GIVEN_BACK: u8 = 6;
const RECEIPTS_BATCHED: u8 = 7;
const BATCH_GIVEN_BACK: u8 = 8;
const BATCH_REMOVED: u8 = 9;
const SUBSCRIBED: u8 = 10;

/// One change to what a partition knows besides its events. Each says what is the case afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Identities, policies, consumer groups.
    Registry(Change),
    /// A group's checkpoint.
    Checkpoint {
        /// Whose.
        group: ConsumerGroupId,
        /// Its new place.
        number: SequenceNumber,
    },
    /// The group has no checkpoint.
    CheckpointDropped {
        /// Whose.
        group: ConsumerGroupId,
    },
    /// A command waits.
    CommandEnqueued(Enqueued),
    /// Commands of one device left their queue.
    CommandsRemoved(Removed),
    /// A command was given back by its device.
    CommandGivenBack(GivenBack),
    /// The oldest receipts became a batch.
    ReceiptsBatched(BatchMade),
    /// A batch was given back by its receiver.
    BatchGivenBack {
        /// Which.
        number: SequenceNumber,
        /// How often by now.
        delivery_count: u8,
    },
    /// A batch is done with.
    BatchRemoved {
        /// Which.
        number: SequenceNumber,
    },
    /// A device's standing subscription is another one now, or none.
    Subscribed {
        /// Whose.
        device: DeviceId,
        /// To what.
        subscription: Option<Subscription>,
    },
}

/// A command that was enqueued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Enqueued {
    /// For which device.
    pub device: DeviceId,
    /// Which of the identities of that id.
    pub generation: GenerationId,
    /// Its number.
    pub number: SequenceNumber,
    /// When, milliseconds since 1970.
    pub enqueued_ms: u64,
    /// The rest.
    pub command: Command,
}

/// Commands that left their queue, all for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Whose queue.
    pub device: DeviceId,
    /// Why.
    pub outcome: Outcome,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Which, and whether its sender is told.
    pub numbers: Vec<(SequenceNumber, bool)>,
}

/// A command that was given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GivenBack {
    /// Whose.
    pub device: DeviceId,
    /// Which.
    pub number: SequenceNumber,
    /// How often by now.
    pub delivery_count: u8,
}

/// A batch of receipts that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchMade {
    /// Its number.
    pub number: SequenceNumber,
    /// When, milliseconds since 1970.
    pub made_ms: u64,
    /// How many of the receipts that had been gathered, the oldest first.
    pub receipt_count: u32,
}

impl Entry {
    /// Append the stored form to `out`, but for [`Entry::body`], which follows it.
    pub fn encode_head(&self, sealer: &KeySealer, out: &mut Vec<u8>) {
        match self {
            Entry::Registry(change) => {
                out.push(REGISTRY);
                change.encode(sealer, out);
            }
            Entry::Checkpoint { group, number } => {
                out.push(CHECKPOINT);
                put_number(out, group.0);
                put_number(out, number.0);
            }
            Entry::CheckpointDropped { group } => {
                out.push(CHECKPOINT_DROPPED);
                put_number(out, group.0);
            }
            Entry::CommandEnqueued(enqueued) => {
                out.push(COMMAND_ENQUEUED);
                put_text(out, enqueued.device.as_str());
                put_number(out, enqueued.generation.0);
                put_number(out, enqueued.number.0);
                put_number(out, enqueued.enqueued_ms);
                put_number(out, enqueued.command.expires_ms);
                out.push(ack_code(enqueued.command.ack));
                put_text(out, &enqueued.command.message_id);
            }
            Entry::CommandsRemoved(removed) => {
                out.push(COMMANDS_REMOVED);
                put_text(out, removed.device.as_str());
                out.push(outcome_code(removed.outcome));
                put_number(out, removed.at_ms);
                put_count(out, removed.numbers.len());
                for (number, has_receipt) in &removed.numbers {
                    put_number(out, number.0);
                    out.push(u8::from(*has_receipt));
                }
            }
            Entry::CommandGivenBack(given) => {
                out.push(COMMAND_GIVEN_BACK);
                put_text(out, given.device.as_str());
                put_number(out, given.number.0);
                out.push(given.delivery_count);
            }
            Entry::ReceiptsBatched(made) => {
                out.push(RECEIPTS_BATCHED);
                put_number(out, made.number.0);
                put_number(out, made.made_ms);
                out.extend_from_slice(&made.receipt_count.to_le_bytes());
            }
            Entry::BatchGivenBack { number, delivery_count } => {
                out.push(BATCH_GIVEN_BACK);
                put_number(out, number.0);
                out.push(*delivery_count);
            }
            Entry::BatchRemoved { number } => {
                out.push(BATCH_REMOVED);
                put_number(out, number.0);
            }
            Entry::Subscribed { device, subscription } => {
                out.push(SUBSCRIBED);
                put_text(out, device.as_str());
                put_subscription(out, subscription.as_ref());
            }
        }
    }

    /// The end of the stored form that is copied from where it lies: a command's message.
    pub fn body(&self) -> &[u8] {
        match self {
            Entry::CommandEnqueued(enqueued) => &enqueued.command.message,
            _ => &[],
        }
    }

    /// Read a stored form. An unknown kind is an error: who skips a change could let somebody in.
    pub fn decode(bytes: &[u8], sealer: &KeySealer) -> Result<Self, EntryError> {
        let mut fields = Fields(bytes);
        let entry = match fields.byte()? {
            REGISTRY => return Ok(Entry::Registry(Change::decode(fields.0, sealer)?)),
            CHECKPOINT => {
                Entry::Checkpoint { group: ConsumerGroupId(fields.number()?), number: fields.sequence()? }
            }
            CHECKPOINT_DROPPED => Entry::CheckpointDropped { group: ConsumerGroupId(fields.number()?) },
            COMMAND_ENQUEUED => Entry::CommandEnqueued(Enqueued {
                device: fields.device()?,
                generation: GenerationId(fields.number()?),
                number: fields.sequence()?,
                enqueued_ms: fields.number()?,
                command: Command {
                    expires_ms: fields.number()?,
                    ack: fields.ack()?,
                    message_id: fields.text()?.into(),
                    message: fields.rest().into(),
                },
            }),
            COMMANDS_REMOVED => Entry::CommandsRemoved(Removed {
                device: fields.device()?,
                outcome: fields.outcome()?,
                at_ms: fields.number()?,
                numbers: (0..fields.count()?)
                    .map(|_| Ok((fields.sequence()?, fields.flag()?)))
                    .collect::<Result<_, EntryError>>()?,
            }),
            COMMAND_GIVEN_BACK => Entry::CommandGivenBack(GivenBack {
                device: fields.device()?,
                number: fields.sequence()?,
                delivery_count: fields.byte()?,
            }),
            RECEIPTS_BATCHED => Entry::ReceiptsBatched(BatchMade {
                number: fields.sequence()?,
                made_ms: fields.number()?,
                receipt_count: fields.count()?,
            }),
            BATCH_GIVEN_BACK => {
                Entry::BatchGivenBack { number: fields.sequence()?, delivery_count: fields.byte()? }
            }
            BATCH_REMOVED => Entry::BatchRemoved { number: fields.sequence()? },
            SUBSCRIBED => {
                let (device, code) = (fields.device()?, fields.byte()?);
                Entry::Subscribed { device, subscription: subscription(code, fields.rest())? }
            }
            kind => return Err(EntryError::Kind(kind)),
        };
        fields.end()?;
        Ok(entry)
    }
}

/// Why stored bytes are no entry, or not one that fits what is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Shorter or longer than its fields.
    #[error("an entry has the wrong length")]
    Length,
    /// A kind that this version does not know.
    #[error("an entry has the unknown kind {0}")]
    Kind(u8),
    /// A field that cannot have the value that it has.
    #[error("a field of an entry has a value that it cannot have")]
    Value,
    /// It speaks of a command, a receipt or a batch that is not there.
    #[error("an entry does not fit what was recorded before it")]
    Unfitting,
    /// A version that this one does not know.
    #[error("the snapshot's blob has the unknown version {0}")]
    Version(u8),
    /// The registry cannot read its part.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use registry::DataKey;

    use crate::request::Ack;

    fn sealer() -> KeySealer {
        KeySealer::new(&DataKey::from_bytes([7; 32]))
    }

    fn encode(entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        entry.encode_head(&sealer(), &mut bytes);
        bytes.extend_from_slice(entry.body());
        bytes
    }

    fn examples() -> [Entry; 11] {
        let group = ConsumerGroupId(0x0102);
        let device = DeviceId::parse("p1").unwrap();
        let number = SequenceNumber(0x0304);
        [
            Entry::Registry(Change::DeleteDevice { device: device.clone() }),
            Entry::Checkpoint { group, number: SequenceNumber(9) },
            Entry::CheckpointDropped { group },
            Entry::CommandEnqueued(Enqueued {
                device: device.clone(),
                generation: GenerationId(5),
                number,
                enqueued_ms: 6,
                command: Command {
                    expires_ms: 7,
                    ack: Ack::Full,
                    message_id: "m".into(),
                    message: b"body"[..].into(),
                },
            }),
            Entry::CommandsRemoved(Removed {
                device: device.clone(),
                outcome: Outcome::Rejected,
                at_ms: 8,
                numbers: vec![(number, true), (SequenceNumber(1), false)],
            }),
            Entry::CommandGivenBack(GivenBack { device: device.clone(), number, delivery_count: 9 }),
            Entry::ReceiptsBatched(BatchMade { number, made_ms: 10, receipt_count: 64 }),
            Entry::BatchGivenBack { number, delivery_count: 11 },
            Entry::BatchRemoved { number },
            Entry::Subscribed { device: device.clone(), subscription: None },
            Entry::Subscribed {
                device,
                subscription: Some(Subscription { address: "a/b".into(), needs_ack: true }),
            },
        ]
    }

    #[test]
    fn entries_survive_and_foreign_ones_are_errors() {
        for entry in examples() {
            let bytes = encode(&entry);
            assert_eq!(Entry::decode(&bytes, &sealer()), Ok(entry.clone()));
            let has_open_end = matches!(entry, Entry::Subscribed { subscription: Some(_), .. });
            let open = if has_open_end { 3 } else { entry.body().len() };
            let head = bytes.len() - open;
            for length in 0..head {
                assert!(Entry::decode(&bytes[..length], &sealer()).is_err());
            }
            if open == 0 {
                let longer = [&bytes[..], &[0]].concat();
                assert!(Entry::decode(&longer, &sealer()).is_err());
            }
        }
        assert_eq!(Entry::decode(&[11], &sealer()), Err(EntryError::Kind(11)));
        let mut bytes = encode(&examples()[4]);
        bytes[4] = 5;
        assert_eq!(Entry::decode(&bytes, &sealer()), Err(EntryError::Value), "an unknown outcome");
    }

    /// The bytes are on disk: they must never change without a new kind.
    #[test]
    fn the_form_is_frozen() {
        let bytes = |index: usize| encode(&examples()[index]);
        assert_eq!(bytes(1), [2, 2, 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(2), [3, 2, 1, 0, 0, 0, 0, 0, 0]);
        let (device, number) = ([2, b'p', b'1'], [4, 3, 0, 0, 0, 0, 0, 0]);
        let eight = |value: u8| [value, 0, 0, 0, 0, 0, 0, 0];
        let enqueued = [&[4], &device[..], &eight(5), &number, &eight(6), &eight(7), &[3, 1, b'm'], b"body"];
        assert_eq!(bytes(3), enqueued.concat());
        let removed =
            [&[5], &device[..], &[3], &eight(8), &[2, 0, 0, 0], &number, &[1], &eight(1), &[0]].concat();
        assert_eq!(bytes(4), removed);
        assert_eq!(bytes(5), [&[6], &device[..], &number, &[9]].concat());
        assert_eq!(bytes(6), [&[7], &number[..], &eight(10), &[64, 0, 0, 0]].concat());
        assert_eq!(bytes(7), [&[8], &number[..], &[11]].concat());
        assert_eq!(bytes(8), [&[9], &number[..]].concat());
        assert_eq!(bytes(9), [&[10], &device[..], &[0]].concat());
        assert_eq!(bytes(10), [&[10], &device[..], &[2], b"a/b"].concat());
        let codes = [Outcome::Success, Outcome::Expired, Outcome::DeliveryCountExceeded, Outcome::Rejected];
        assert_eq!(codes.map(outcome_code), [0, 1, 2, 3]);
        assert_eq!(outcome_code(Outcome::Purged), 4);
        let acks = [Ack::None, Ack::Positive, Ack::Negative, Ack::Full];
        assert_eq!(acks.map(ack_code), [0, 1, 2, 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in 0..12_u8) {
            let entry = [&[kind], &bytes[..]].concat();
            if let Ok(decoded) = Entry::decode(&entry, &sealer()) {
                prop_assert_eq!(encode(&decoded), entry);
            }
        }

        #[test]
        fn damaged_entries_are_errors_or_others(example in 3..11_usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut entry = encode(&examples()[example]);
            let at = at.index(entry.len());
            entry[at] = byte;
            if let Ok(decoded) = Entry::decode(&entry, &sealer()) {
                prop_assert_eq!(encode(&decoded), entry);
            }
        }
    }
}
