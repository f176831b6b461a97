//! What stands in a partition's journal, and what its snapshot carries besides the registry.
//!
//! A journal record is one byte for the kind, then the kind's fields; integers are little-endian.
//!
//! | kind | fields |
//! |---|---|
//! | 1 registry | a change in the registry's own form |
//! | 2 checkpoint | group (8), sequence number (8) |
//! | 3 checkpoint dropped | group (8) |
//!
//! The snapshot's blob is: version 1 (1), the journal's mark (8), number of checkpoints (4), then group (8) and sequence
//! number (8) of each.

use registry::{Change, ChangeError, ConsumerGroupId, KeySealer};

use crate::checkpoints::Checkpoints;
use crate::request::SequenceNumber;

const REGISTRY: u8 = 1;
const CHECKPOINT: u8 = 2;
const CHECKPOINT_DROPPED: u8 = 3;

const EXTRA_VERSION: u8 = 1;

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
}

impl Entry {
    /// Append the stored form to `out`.
    pub fn encode(&self, sealer: &KeySealer, out: &mut Vec<u8>) {
        match self {
            Entry::Registry(change) => {
                out.push(REGISTRY);
                change.encode(sealer, out);
            }
            Entry::Checkpoint { group, number } => {
                out.push(CHECKPOINT);
                out.extend_from_slice(&group.0.to_le_bytes());
                out.extend_from_slice(&number.0.to_le_bytes());
            }
            Entry::CheckpointDropped { group } => {
                out.push(CHECKPOINT_DROPPED);
                out.extend_from_slice(&group.0.to_le_bytes());
            }
        }
    }

    /// Read what [`Entry::encode`] wrote. An unknown kind is an error: who skips a change could let somebody in.
    pub fn decode(bytes: &[u8], sealer: &KeySealer) -> Result<Self, EntryError> {
        let mut fields = Fields(bytes);
        let entry = match fields.byte()? {
            REGISTRY => return Ok(Entry::Registry(Change::decode(fields.0, sealer)?)),
            CHECKPOINT => Entry::Checkpoint {
                group: ConsumerGroupId(fields.number()?),
                number: SequenceNumber(fields.number()?),
            },
            CHECKPOINT_DROPPED => Entry::CheckpointDropped { group: ConsumerGroupId(fields.number()?) },
            kind => return Err(EntryError::Kind(kind)),
        };
        fields.end()?;
        Ok(entry)
    }
}

/// The blob for a snapshot that holds everything before the journal's record `mark`.
pub(crate) fn encode_extra(mark: u64, checkpoints: &Checkpoints) -> Vec<u8> {
    let mut out = vec![EXTRA_VERSION];
    out.extend_from_slice(&mark.to_le_bytes());
    let count = u32::try_from(checkpoints.iter().len()).expect("the number of checkpoints has a limit");
    out.extend_from_slice(&count.to_le_bytes());
    for (group, number) in checkpoints.iter() {
        out.extend_from_slice(&group.0.to_le_bytes());
        out.extend_from_slice(&number.0.to_le_bytes());
    }
    out
}

/// Read what [`encode_extra`] wrote; no bytes at all are those of a partition that never had a snapshot.
pub(crate) fn decode_extra(bytes: &[u8]) -> Result<(u64, Checkpoints), EntryError> {
    let mut checkpoints = Checkpoints::default();
    if bytes.is_empty() {
        return Ok((0, checkpoints));
    }
    let mut fields = Fields(bytes);
    match fields.byte()? {
        EXTRA_VERSION => {}
        version => return Err(EntryError::Version(version)),
    }
    let mark = fields.number()?;
    for _ in 0..fields.count()? {
        checkpoints.put(ConsumerGroupId(fields.number()?), SequenceNumber(fields.number()?));
    }
    fields.end()?;
    Ok((mark, checkpoints))
}

/// Why stored bytes are no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Shorter or longer than its fields.
    #[error("an entry has the wrong length")]
    Length,
    /// A kind that this version does not know.
    #[error("an entry has the unknown kind {0}")]
    Kind(u8),
    /// A version that this one does not know.
    #[error("the snapshot's blob has the unknown version {0}")]
    Version(u8),
    /// The registry cannot read its part.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn byte(&mut self) -> Result<u8, EntryError> {
        let (first, rest) = self.0.split_first().ok_or(EntryError::Length)?;
        self.0 = rest;
        Ok(*first)
    }

    fn count(&mut self) -> Result<u32, EntryError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(EntryError::Length)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*first))
    }

    fn number(&mut self) -> Result<u64, EntryError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(EntryError::Length)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*first))
    }

    fn end(&self) -> Result<(), EntryError> {
        if self.0.is_empty() { Ok(()) } else { Err(EntryError::Length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use registry::{DataKey, DeviceId};

    fn sealer() -> KeySealer {
        KeySealer::new(&DataKey::from_bytes([7; 32]))
    }

    fn encode(entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        entry.encode(&sealer(), &mut bytes);
        bytes
    }

    fn examples() -> [Entry; 3] {
        let group = ConsumerGroupId(0x0102);
        [
            Entry::Registry(Change::DeleteDevice { device: DeviceId::parse("pump-1").unwrap() }),
            Entry::Checkpoint { group, number: SequenceNumber(9) },
            Entry::CheckpointDropped { group },
        ]
    }

    #[test]
    fn entries_survive_and_foreign_ones_are_errors() {
        for entry in examples() {
            let bytes = encode(&entry);
            assert_eq!(Entry::decode(&bytes, &sealer()), Ok(entry));
            for length in 0..bytes.len() {
                assert!(Entry::decode(&bytes[..length], &sealer()).is_err());
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(Entry::decode(&longer, &sealer()).is_err());
        }
        assert_eq!(Entry::decode(&[9], &sealer()), Err(EntryError::Kind(9)));
    }

    /// The bytes are on disk: they must never change without a new kind.
    #[test]
    fn the_form_is_frozen() {
        assert_eq!(encode(&examples()[1]), [2, 2, 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(&examples()[2]), [3, 2, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_snapshot_carries_mark_and_checkpoints() {
        let mut checkpoints = Checkpoints::default();
        checkpoints.put(ConsumerGroupId(1), SequenceNumber(5));
        checkpoints.put(ConsumerGroupId(u64::MAX), SequenceNumber(6));
        let bytes = encode_extra(77, &checkpoints);
        assert_eq!(decode_extra(&bytes), Ok((77, checkpoints)));
        assert_eq!(decode_extra(&[]), Ok((0, Checkpoints::default())));
        assert_eq!(decode_extra(&bytes[..bytes.len() - 1]), Err(EntryError::Length));
        assert_eq!(decode_extra(&[3]), Err(EntryError::Version(3)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in 0..5_u8) {
            let _ = decode_extra(&bytes);
            let entry = [&[kind], &bytes[..]].concat();
            if let Ok(decoded) = Entry::decode(&entry, &sealer()) {
                prop_assert_eq!(encode(&decoded), entry);
            }
        }
    }
}
