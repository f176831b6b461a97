//! What a partition's snapshot carries besides the registry.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 3 |
//! | 8 | the journal's mark: the snapshot holds everything before this record |
//! | 4 | number of checkpoints; of each the group (8) and the sequence number (8) |
//! | 8 | the number that the next command or batch gets |
//! | 4 | number of receipts in no batch; each a receipt |
//! | 4 | number of batches; of each number (8), made at (8), delivery count (1), number of receipts (4), each a receipt |
//! | 4 | number of devices with commands; of each device (text), generation (8), number of commands (4) |
//! | | of each command number (8), enqueued at (8), expires at (8), delivery count (1), ack (1), message id (text), length of the message (4), the bare message |
//! | 4 | number of subscriptions; of each device (text), what (1), length of the address (4), the address |
//!
//! A receipt is device (text), generation (8), outcome (1), at (8), message id (text). Version 1 ends behind the checkpoints,
//! version 2 behind the commands.

use registry::{ConsumerGroupId, GenerationId};
use segment_log::Now;

use super::fields::{Fields, ack_code, put_count, put_number, put_receipt, put_text, subscription};
use super::{Enqueued, EntryError};
use crate::checkpoints::Checkpoints;
use crate::command_queue::Command;
use crate::commands::{Commands, FrozenCommands};
use crate::request::SequenceNumber;

const VERSION_1: u8 = 1;
const VERSION_2: u8 = 2;
const VERSION_3: u8 = 3;

/// The state at one moment, to be written down on any thread.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// The journal's mark.
    pub mark: u64,
    /// Checkpoints.
    pub checkpoints: Checkpoints,
    /// Commands and receipts.
    pub commands: FrozenCommands,
}

impl Frozen {
    /// Append the blob to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION_3);
        put_number(out, self.mark);
        put_count(out, self.checkpoints.iter().len());
        for (group, number) in self.checkpoints.iter() {
            put_number(out, group.0);
            put_number(out, number.0);
        }
        let FrozenCommands { next_number, pending, batches, queues, subscriptions } = &self.commands;
        put_number(out, *next_number);
        put_count(out, pending.len());
        pending.iter().for_each(|receipt| put_receipt(out, receipt));
        put_count(out, batches.len());
        for batch in batches {
            put_number(out, batch.number.0);
            put_number(out, batch.enqueued_ms);
            out.push(batch.delivery_count);
            put_count(out, batch.content.receipts.len());
            batch.content.receipts.iter().for_each(|receipt| put_receipt(out, receipt));
        }
        put_count(out, queues.len());
        for (device, queue) in queues {
            put_text(out, device.as_str());
            put_number(out, queue.generation.0);
            put_count(out, queue.commands.len());
            for item in queue.commands.iter() {
                put_number(out, item.number.0);
                put_number(out, item.enqueued_ms);
                put_number(out, item.content.expires_ms);
                out.push(item.delivery_count);
                out.push(ack_code(item.content.ack));
                put_text(out, &item.content.message_id);
                put_count(out, item.content.message.len());
                out.extend_from_slice(&item.content.message);
            }
        }
        put_count(out, subscriptions.len());
        for (device, subscription) in subscriptions.iter() {
            put_text(out, device.as_str());
            out.push(1 + u8::from(subscription.needs_ack));
            put_count(out, subscription.address.len());
            out.extend_from_slice(subscription.address.as_bytes());
        }
    }
}

/// What a snapshot's blob says.
#[derive(Debug)]
pub(crate) struct Blob {
    /// The journal's mark.
    pub mark: u64,
    /// Checkpoints.
    pub checkpoints: Checkpoints,
}

impl Blob {
    /// Read what [`Frozen::encode`] or an older version wrote, commands and receipts into `commands`. No bytes at all are those
    /// of a partition that never had a snapshot.
    pub fn decode(bytes: &[u8], commands: &mut Commands, now: Now) -> Result<Self, EntryError> {
        let mut blob = Self { mark: 0, checkpoints: Checkpoints::default() };
        if bytes.is_empty() {
            return Ok(blob);
        }
        let mut fields = Fields(bytes);
        let version = fields.byte()?;
        if !(VERSION_1..=VERSION_3).contains(&version) {
            return Err(EntryError::Version(version));
        }
        blob.mark = fields.number()?;
        for _ in 0..fields.count()? {
            blob.checkpoints.put(ConsumerGroupId(fields.number()?), SequenceNumber(fields.number()?));
        }
        if version >= VERSION_2 {
            decode_commands(&mut fields, commands, now)?;
        }
        if version >= VERSION_3 {
            for _ in 0..fields.count()? {
                let (device, code, length) = (fields.device()?, fields.byte()?, fields.count()? as usize);
                let subscription = subscription(code, fields.bytes(length)?)?;
                commands.subscriptions.put(&device, subscription);
            }
        }
        fields.end()?;
        Ok(blob)
    }
}

fn decode_commands(fields: &mut Fields<'_>, commands: &mut Commands, now: Now) -> Result<(), EntryError> {
    commands.go_on_from(fields.number()?);
    for _ in 0..fields.count()? {
        commands.feedback.gather(fields.receipt()?, now.mono_ms);
    }
    for _ in 0..fields.count()? {
        let (number, made_ms, delivery_count) = (fields.sequence()?, fields.number()?, fields.byte()?);
        let receipts = (0..fields.count()?).map(|_| fields.receipt()).collect::<Result<Vec<_>, _>>()?;
        commands.restore_batch(number, made_ms, delivery_count, receipts, now)?;
    }
    for _ in 0..fields.count()? {
        let (device, generation) = (fields.device()?, GenerationId(fields.number()?));
        for _ in 0..fields.count()? {
            let (number, enqueued_ms, expires_ms) = (fields.sequence()?, fields.number()?, fields.number()?);
            let (delivery_count, ack) = (fields.byte()?, fields.ack()?);
            let message_id = fields.text()?.into();
            let length = fields.count()? as usize;
            let message = fields.bytes(length)?.into();
            let command = Command { expires_ms, ack, message_id, message };
            let device = device.clone();
            let enqueued = Enqueued { device, generation, number, enqueued_ms, command };
            commands.restore_command(enqueued, delivery_count, now)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{BatchMade, GivenBack, Removed};
    use crate::request::{Ack, Outcome, Subscription};
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use registry::DeviceId;

    const NOW: Now = Now { wall_ms: 1000, mono_ms: 50 };

    fn enqueue(commands: &mut Commands, device: &str, number: u64, expires_ms: u64, ack: Ack) {
        let enqueued = Enqueued {
            device: DeviceId::parse(device).unwrap(),
            generation: GenerationId(4),
            number: SequenceNumber(number),
            enqueued_ms: 900,
            command: Command {
                expires_ms,
                ack,
                message_id: format!("m{number}").into(),
                message: b"hi"[..].into(),
            },
        };
        commands.enqueue(enqueued, NOW).unwrap();
    }

    fn remove(commands: &mut Commands, device: &str, number: u64) {
        let removed = Removed {
            device: DeviceId::parse(device).unwrap(),
            outcome: Outcome::Success,
            at_ms: 950,
            numbers: vec![(SequenceNumber(number), true)],
        };
        commands.remove(&removed, NOW).unwrap();
    }

    fn example() -> Commands {
        let mut commands = Commands::new(3_600_000);
        for number in 0..4 {
            enqueue(&mut commands, "a", number, 2000 + number, Ack::Full);
        }
        enqueue(&mut commands, "b", 5, 1500, Ack::None);
        remove(&mut commands, "a", 0);
        let made = BatchMade { number: SequenceNumber(6), made_ms: 960, receipt_count: 1 };
        commands.make_batch(&made, NOW).unwrap();
        commands.give_batch_back(SequenceNumber(6), 2).unwrap();
        remove(&mut commands, "a", 2);
        let (device, number) = (DeviceId::parse("a").unwrap(), SequenceNumber(3));
        commands.give_back(&GivenBack { device, number, delivery_count: 7 }).unwrap();
        let subscription = Subscription { address: "x/y".into(), needs_ack: true };
        commands.subscriptions.put(&DeviceId::parse("b").unwrap(), Some(subscription));
        commands
    }

    fn encode(commands: &Commands) -> Vec<u8> {
        let mut checkpoints = Checkpoints::default();
        checkpoints.put(ConsumerGroupId(1), SequenceNumber(5));
        let mut commands = commands.freeze();
        commands.queues.sort_by(|left, right| left.0.cmp(&right.0));
        let mut out = Vec::new();
        Frozen { mark: 77, checkpoints, commands }.encode(&mut out);
        out
    }

    #[test]
    fn the_blob_carries_everything_and_nothing_is_cut_off_quietly() {
        let bytes = encode(&example());
        let mut commands = Commands::new(3_600_000);
        let blob = Blob::decode(&bytes, &mut commands, NOW).unwrap();
        assert_eq!((blob.mark, blob.checkpoints.find(ConsumerGroupId(1))), (77, Some(SequenceNumber(5))));
        assert_eq!(encode(&commands), bytes);
        assert_eq!(commands.next_number(), SequenceNumber(7));
        let queue = commands.queues.find(&DeviceId::parse("a").unwrap()).unwrap();
        let shown: Vec<_> = queue
            .commands
            .iter()
            .map(|item| (item.number.0, item.expires_mono_ms, item.delivery_count))
            .collect();
        assert_eq!(shown, [(1, 50 + 1001, 0), (3, 50 + 1003, 7)]);
        assert_eq!((commands.queues.acked_count(), commands.feedback.receipt_count()), (2, 2));
        for length in 1..bytes.len() {
            let cut = Blob::decode(&bytes[..length], &mut Commands::new(1), NOW);
            assert_eq!(cut.err(), Some(EntryError::Length), "cut at {length}");
        }
        let newer = Blob::decode(&[4], &mut Commands::new(1), NOW);
        assert_eq!(newer.err(), Some(EntryError::Version(4)));
        assert_eq!(Blob::decode(&[], &mut Commands::new(1), NOW).unwrap().mark, 0);
    }

    /// The bytes are on disk: they must never change without a new version.
    #[test]
    fn the_form_is_frozen_and_older_versions_still_open() {
        let eight = |value: u16| [value.to_le_bytes()[0], value.to_le_bytes()[1], 0, 0, 0, 0, 0, 0];
        let four = |value: u8| [value, 0, 0, 0];
        let front = [&eight(77)[..], &four(1), &eight(1), &eight(5)].concat();
        let receipt = |id: u8| [&[1, b'a'], &eight(4)[..], &[0], &eight(950), &[2, b'm', id]].concat();
        let command = |number: u16, expires: u16, count: u8, ack: u8, id: &[u8]| {
            let times = [eight(number), eight(900), eight(expires)].concat();
            [&times[..], &[count, ack, id.len() as u8], id, &four(2), b"hi"].concat()
        };
        let version_2 = [
            &[2][..],
            &front,
            &eight(7),
            &four(1),
            &receipt(b'2'),
            &four(1),
            &eight(6),
            &eight(960),
            &[2],
            &four(1),
            &receipt(b'0'),
            &four(2),
            &[1, b'a'],
            &eight(4),
            &four(2),
            &command(1, 2001, 0, 3, b"m1"),
            &command(3, 2003, 7, 3, b"m3"),
            &[1, b'b'],
            &eight(4),
            &four(1),
            &command(5, 1500, 0, 0, b"m5"),
        ];
        let subscriptions = [&four(1)[..], &[1, b'b', 2], &four(3), b"x/y"].concat();
        let mut version_3 = version_2.concat();
        version_3[0] = 3;
        version_3.extend(subscriptions);
        assert_eq!(encode(&example()), version_3);

        let mut commands = Commands::new(1);
        Blob::decode(&version_2.concat(), &mut commands, NOW).unwrap();
        assert_eq!((commands.next_number(), commands.subscriptions.len()), (SequenceNumber(7), 0));

        let mut commands = Commands::new(1);
        let blob = Blob::decode(&[&[1][..], &front].concat(), &mut commands, NOW).unwrap();
        assert_eq!((blob.mark, blob.checkpoints.find(ConsumerGroupId(1))), (77, Some(SequenceNumber(5))));
        assert_eq!(commands.next_number(), SequenceNumber(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn damage_makes_no_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = encode(&example());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Blob::decode(&bytes, &mut Commands::new(1), NOW);
        }
    }
}
