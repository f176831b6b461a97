//! One entry of a segment: a record, the start of a commit, or padding; encoded in place, decoded borrowed.
//!
//! | bytes | record and commit | padding |
//! |---|---|---|
//! | 0..4 | checksum | checksum |
//! | 4..8 | kind, `more`, length of the payload | kind, length of the whole entry |
//! | 8..16 | offset | zeros up to the end of the block |
//! | 16..24 | time, ms since 1970 | |
//! | 24.. | payload, zeros up to a multiple of 8 | |
//!
//! Integers are little-endian. Each checksum is seeded with the segment's epoch, so that bytes from elsewhere do not
//! validate. A commit's payload is the epoch itself (recovery searches for it), and its checksum covers its position.

use crate::Offset;
use crate::limits::COMMIT_BYTES_MAX_RANGE;
use crate::storage::BLOCK_BYTES;

/// Bytes in front of a record's payload.
pub(crate) const HEADER_BYTES: usize = 24;
/// Bytes of the entry that begins a commit.
pub(crate) const COMMIT_BYTES: usize = HEADER_BYTES + 8;
/// Bytes of the smallest padding: every entry is aligned to this.
pub(crate) const ALIGN: usize = 8;
/// Longest payload; a header that says more is damaged. No commit takes more.
pub(crate) const LENGTH_MAX: usize = *COMMIT_BYTES_MAX_RANGE.end();

const KIND_RECORD: u32 = 1 << 30;
const KIND_COMMIT: u32 = 2 << 30;
const KIND_PADDING: u32 = 3 << 30;
const KIND_MASK: u32 = 3 << 30;
const MORE: u32 = 1 << 29;
const LENGTH_MASK: u32 = MORE - 1;

const _: () = assert!(LENGTH_MAX <= LENGTH_MASK as usize);

/// A segment's epoch: 64 random bits, new each time a file is taken into use, and the checksum's state behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    bits: u64,
    seed: u32,
}

impl Epoch {
    pub(crate) fn new(bits: u64) -> Epoch {
        Epoch { bits, seed: crc32fast::hash(&bits.to_le_bytes()) }
    }

    pub(crate) fn bits(self) -> u64 {
        self.bits
    }

    /// Checksum of some bytes of this epoch.
    pub(crate) fn checksum(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(bytes);
        hasher.finalize()
    }

    /// Checksum that also says where the bytes lie.
    fn checksum_at(self, bytes: &[u8], position: u64) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(bytes);
        hasher.update(&position.to_le_bytes());
        hasher.finalize()
    }
}

/// Bytes that a record with such a payload takes in a segment.
pub(crate) fn encoded_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGN)
}

/// What stands in front of a record's payload.
pub(crate) struct RecordHead {
    pub(crate) offset: Offset,
    pub(crate) time_ms: u64,
    /// The batch goes on with the next record.
    pub(crate) more: bool,
}

/// Write a record at the start of `into`, which is exactly [`encoded_bytes`] long: the one copy of the payload.
pub(crate) fn encode(
    into: &mut [u8],
    epoch: Epoch,
    head: &RecordHead,
    parts: &[&[u8]],
    payload_bytes: usize,
) {
    let word = KIND_RECORD | if head.more { MORE } else { 0 } | payload_bytes as u32;
    into[4..8].copy_from_slice(&word.to_le_bytes());
    into[8..16].copy_from_slice(&head.offset.0.to_le_bytes());
    into[16..24].copy_from_slice(&head.time_ms.to_le_bytes());
    let mut end = HEADER_BYTES;
    for part in parts {
        into[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    into[end..].fill(0);
    let checksum = epoch.checksum(&into[4..end]);
    into[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// Write the entry that begins a commit at `position`: `offset` is its first record's, and everything before that was
/// durable when the commit was written.
pub(crate) fn encode_commit(into: &mut [u8], epoch: Epoch, offset: Offset, time_ms: u64, position: u64) {
    let word = KIND_COMMIT | 8;
    into[4..8].copy_from_slice(&word.to_le_bytes());
    into[8..16].copy_from_slice(&offset.0.to_le_bytes());
    into[16..24].copy_from_slice(&time_ms.to_le_bytes());
    into[24..32].copy_from_slice(&epoch.bits().to_le_bytes());
    let checksum = epoch.checksum_at(&into[4..COMMIT_BYTES], position);
    into[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// Fill all of `into` with padding; it is at least [`ALIGN`] long and lies at `position`.
pub(crate) fn encode_padding(into: &mut [u8], epoch: Epoch, position: u64) {
    let word = KIND_PADDING | into.len() as u32;
    into[4..8].copy_from_slice(&word.to_le_bytes());
    let checksum = epoch.checksum_at(&into[4..8], position);
    into[..4].copy_from_slice(&checksum.to_le_bytes());
    into[ALIGN..].fill(0);
}

/// A decoded entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    Record { offset: Offset, time_ms: u64, more: bool, payload: &'a [u8] },
    Commit { offset: Offset, time_ms: u64 },
    Padding,
}

/// Why there is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// The bytes end before the entry does, if it is one; it needs this many.
    Short { needed: usize },
    /// These bytes are no entry of this segment at this position.
    Bad,
}

/// Decode the entry that `bytes` begin with and its length in the segment; `position` is where they lie.
pub(crate) fn decode(bytes: &[u8], epoch: Epoch, position: u64) -> Result<(Entry<'_>, usize), Invalid> {
    let (entry, length) = decode_trusted(bytes)?;
    let checksum = match entry {
        Entry::Record { payload, .. } => epoch.checksum(&bytes[4..HEADER_BYTES + payload.len()]),
        Entry::Commit { .. } => {
            if read_u64(bytes, 24) != epoch.bits() {
                return Err(Invalid::Bad);
            }
            epoch.checksum_at(&bytes[4..COMMIT_BYTES], position)
        }
        Entry::Padding => epoch.checksum_at(&bytes[4..8], position),
    };
    if checksum == read_u32(bytes, 0) { Ok((entry, length)) } else { Err(Invalid::Bad) }
}

/// As [`decode`], of bytes whose checksum was verified before, or that never left memory.
pub(crate) fn decode_trusted(bytes: &[u8]) -> Result<(Entry<'_>, usize), Invalid> {
    if bytes.len() < ALIGN {
        return Err(Invalid::Short { needed: ALIGN });
    }
    let word = read_u32(bytes, 4);
    let length = (word & LENGTH_MASK) as usize;
    match word & KIND_MASK {
        KIND_RECORD if length <= LENGTH_MAX => {
            let end = HEADER_BYTES + length;
            let encoded = end.next_multiple_of(ALIGN);
            if bytes.len() < encoded {
                return Err(Invalid::Short { needed: encoded });
            }
            let entry = Entry::Record {
                offset: Offset(read_u64(bytes, 8)),
                time_ms: read_u64(bytes, 16),
                more: word & MORE != 0,
                payload: &bytes[HEADER_BYTES..end],
            };
            Ok((entry, encoded))
        }
        KIND_COMMIT if length == 8 && word & MORE == 0 => {
            if bytes.len() < COMMIT_BYTES {
                return Err(Invalid::Short { needed: COMMIT_BYTES });
            }
            let entry = Entry::Commit { offset: Offset(read_u64(bytes, 8)), time_ms: read_u64(bytes, 16) };
            Ok((entry, COMMIT_BYTES))
        }
        KIND_PADDING
            if word & MORE == 0 && length.is_multiple_of(ALIGN) && (ALIGN..BLOCK_BYTES).contains(&length) =>
        {
            if bytes.len() < length {
                return Err(Invalid::Short { needed: length });
            }
            Ok((Entry::Padding, length))
        }
        _ => Err(Invalid::Bad),
    }
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(epoch: Epoch, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xAA; encoded_bytes(payload.len())];
        let head = RecordHead { offset: Offset(7), time_ms: 99, more: true };
        encode(
            &mut bytes,
            epoch,
            &head,
            &[&payload[..payload.len() / 2], &payload[payload.len() / 2..]],
            payload.len(),
        );
        bytes
    }

    #[test]
    fn a_record_decodes_to_what_was_encoded() {
        let epoch = Epoch::new(0x1234_5678_9abc_def0);
        for length in [0, 1, 7, 8, 9, 255, 4096] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let bytes = encoded(epoch, &payload);
            let (entry, taken) = decode(&bytes, epoch, 0).unwrap();
            assert_eq!(taken, bytes.len());
            assert_eq!(
                entry,
                Entry::Record { offset: Offset(7), time_ms: 99, more: true, payload: &payload }
            );
        }
    }

    #[test]
    fn a_record_of_another_epoch_and_zeros_never_validate() {
        let bytes = encoded(Epoch::new(1), b"payload");
        assert_eq!(decode(&bytes, Epoch::new(2), 0), Err(Invalid::Bad));
        assert_eq!(decode(&[0; 64], Epoch::new(2), 0), Err(Invalid::Bad));
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let epoch = Epoch::new(5);
        let bytes = encoded(epoch, b"twelve bytes");
        for bit in 0..(HEADER_BYTES + 12) * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&broken, epoch, 0).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_commit_and_padding_are_bound_to_their_position() {
        let epoch = Epoch::new(6);
        let mut commit = [0; COMMIT_BYTES];
        encode_commit(&mut commit, epoch, Offset(3), 4, 4096);
        assert_eq!(decode(&commit, epoch, 4096).unwrap().0, Entry::Commit { offset: Offset(3), time_ms: 4 });
        assert_eq!(decode(&commit, epoch, 8192), Err(Invalid::Bad));
        let mut padding = [1; 40];
        encode_padding(&mut padding, epoch, 4056);
        assert_eq!(decode(&padding, epoch, 4056), Ok((Entry::Padding, 40)));
        assert_eq!(decode(&padding, epoch, 8152), Err(Invalid::Bad));
    }

    #[test]
    fn a_cut_entry_says_how_much_it_needs() {
        let epoch = Epoch::new(6);
        let bytes = encoded(epoch, b"0123456789");
        assert_eq!(decode(&bytes[..4], epoch, 0), Err(Invalid::Short { needed: 8 }));
        assert_eq!(decode(&bytes[..16], epoch, 0), Err(Invalid::Short { needed: bytes.len() }));
    }
}
