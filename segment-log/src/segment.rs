//! One segment: its header, tail slots and footer as bytes, and what the log knows of it while it is open.

use crate::Offset;
use crate::index::{self, Index};
use crate::limits::MAIN_START;
use crate::record::{Epoch, read_u32, read_u64};
use crate::storage::{BLOCK_BYTES, Buffer, SegmentNumber};

/// The version that this crate writes, and the only one that it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

const HEADER_MAGIC: [u8; 8] = *b"CHSEGMNT";
const FOOTER_MAGIC: [u8; 8] = *b"CHFOOTER";
const SLOT_HEADER_BYTES: usize = 40;
const TRAILER_BYTES: usize = 96;

/// Most bytes of a partial block that a tail slot holds; a fuller block is padded and goes to its place.
pub(crate) const SLOT_CONTENT_MAX: usize = BLOCK_BYTES - SLOT_HEADER_BYTES;

/// Where the two tail slots lie.
pub(crate) const SLOT_POSITIONS: [u64; 2] = [BLOCK_BYTES as u64, 2 * BLOCK_BYTES as u64];

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: SegmentNumber,
    pub(crate) epoch: Epoch,
    /// Length of the prepared file.
    pub(crate) bytes: u64,
}

/// Why a header was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// It is not one, or not whole.
    Damaged,
    /// It is whole and of another version of the format.
    Version(u32),
}

impl Header {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block[..BLOCK_BYTES].fill(0);
        block[..8].copy_from_slice(&HEADER_MAGIC);
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..24].copy_from_slice(&self.number.0.to_le_bytes());
        block[24..32].copy_from_slice(&self.epoch.bits().to_le_bytes());
        block[32..40].copy_from_slice(&self.bytes.to_le_bytes());
        let checksum = header_checksum(block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Header, HeaderError> {
        if block.len() < BLOCK_BYTES
            || block[..8] != HEADER_MAGIC
            || read_u32(block, 12) != header_checksum(block)
        {
            return Err(HeaderError::Damaged);
        }
        let version = read_u32(block, 8);
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        Ok(Header {
            number: SegmentNumber(read_u64(block, 16)),
            epoch: Epoch::new(read_u64(block, 24)),
            bytes: read_u64(block, 32),
        })
    }
}

/// Covers the whole block but the checksum itself; later versions keep magic, version and checksum where they are.
fn header_checksum(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..12]);
    hasher.update(&block[16..BLOCK_BYTES]);
    hasher.finalize()
}

/// A tail slot: the filled part of the block that is not full yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot<'a> {
    /// Counts the slots written in this segment.
    pub(crate) sequence: u64,
    /// Where the block belongs.
    pub(crate) position: u64,
    /// Everything before this was durable when the slot was written.
    pub(crate) mark: Offset,
    pub(crate) content: &'a [u8],
}

impl<'a> Slot<'a> {
    pub(crate) fn encode(&self, epoch: Epoch, block: &mut [u8]) {
        let end = SLOT_HEADER_BYTES + self.content.len();
        block[4..8].copy_from_slice(&(self.content.len() as u32).to_le_bytes());
        block[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        block[16..24].copy_from_slice(&self.position.to_le_bytes());
        block[24..32].copy_from_slice(&self.mark.0.to_le_bytes());
        block[32..40].copy_from_slice(&epoch.bits().to_le_bytes());
        block[SLOT_HEADER_BYTES..end].copy_from_slice(self.content);
        block[end..BLOCK_BYTES].fill(0);
        let checksum = epoch.checksum(&block[4..end]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
    }

    pub(crate) fn decode(block: &'a [u8], epoch: Epoch) -> Option<Slot<'a>> {
        if block.len() < BLOCK_BYTES || read_u64(block, 32) != epoch.bits() {
            return None;
        }
        let length = read_u32(block, 4) as usize;
        let position = read_u64(block, 16);
        let content = block.get(SLOT_HEADER_BYTES..SLOT_HEADER_BYTES.checked_add(length)?)?;
        let whole = epoch.checksum(&block[4..SLOT_HEADER_BYTES + length]) == read_u32(block, 0);
        let placed = position >= MAIN_START && position.is_multiple_of(BLOCK_BYTES as u64);
        (whole && placed).then(|| Slot {
            sequence: read_u64(block, 8),
            position,
            mark: Offset(read_u64(block, 24)),
            content,
        })
    }

    /// The epoch that a block would be a slot of; worth only what its checksum then says.
    pub(crate) fn epoch_bits(block: &[u8]) -> u64 {
        read_u64(block, 32)
    }
}

/// What a sealed segment says of itself at the end of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) number: SegmentNumber,
    pub(crate) epoch: Epoch,
    pub(crate) first: Offset,
    pub(crate) end: Offset,
    pub(crate) first_time_ms: u64,
    pub(crate) last_time_ms: u64,
    /// Position behind the last record.
    pub(crate) data_end: u64,
    pub(crate) footer_bytes: u32,
    pub(crate) entry_count: u32,
    pub(crate) entries_checksum: u32,
    pub(crate) file_bytes: u64,
}

impl Trailer {
    /// Decode the trailer at the end of `block`, the last one of a file of `file_bytes` bytes.
    pub(crate) fn decode(block: &[u8], file_bytes: u64) -> Option<Trailer> {
        let at = block.len().checked_sub(TRAILER_BYTES)?;
        let bytes = &block[at..];
        if bytes[..8] != FOOTER_MAGIC || read_u32(bytes, 8) != FORMAT_VERSION {
            return None;
        }
        let trailer = Trailer {
            number: SegmentNumber(read_u64(bytes, 16)),
            epoch: Epoch::new(read_u64(bytes, 24)),
            first: Offset(read_u64(bytes, 32)),
            end: Offset(read_u64(bytes, 40)),
            first_time_ms: read_u64(bytes, 48),
            last_time_ms: read_u64(bytes, 56),
            data_end: read_u64(bytes, 64),
            footer_bytes: read_u32(bytes, 72),
            entry_count: read_u32(bytes, 76),
            entries_checksum: read_u32(bytes, 80),
            file_bytes: read_u64(bytes, 88),
        };
        let footer = u64::from(trailer.footer_bytes);
        let sane = trailer.file_bytes == file_bytes
            && trailer.first <= trailer.end
            && trailer.first_time_ms <= trailer.last_time_ms
            && trailer.data_end >= MAIN_START
            && footer.is_multiple_of(BLOCK_BYTES as u64)
            && u64::from(trailer.entry_count) * index::ENTRY_BYTES as u64 + TRAILER_BYTES as u64 <= footer
            && trailer.data_end.checked_add(footer).is_some_and(|end| end <= file_bytes);
        (sane && trailer_checksum(bytes, trailer.epoch) == read_u32(bytes, 12)).then_some(trailer)
    }

    /// A block ends in a trailer, be it damaged.
    pub(crate) fn is_likely(block: &[u8]) -> bool {
        block.len().checked_sub(TRAILER_BYTES).is_some_and(|at| block[at..at + 8] == FOOTER_MAGIC)
    }

    fn encode(&self, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&FOOTER_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.epoch.bits().to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.end.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first_time_ms.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.last_time_ms.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.data_end.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.footer_bytes.to_le_bytes());
        bytes[76..80].copy_from_slice(&self.entry_count.to_le_bytes());
        bytes[80..84].copy_from_slice(&self.entries_checksum.to_le_bytes());
        bytes[84..88].fill(0);
        bytes[88..96].copy_from_slice(&self.file_bytes.to_le_bytes());
        let checksum = trailer_checksum(bytes, self.epoch);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The index in a footer whose trailer this is; `None` where it does not match.
    pub(crate) fn index(&self, footer: &[u8]) -> Option<Index> {
        let entries = footer.get(..self.entry_count as usize * index::ENTRY_BYTES)?;
        (self.epoch.checksum(entries) == self.entries_checksum).then(|| Index::decode(entries))?
    }
}

fn trailer_checksum(bytes: &[u8], epoch: Epoch) -> u32 {
    let mut covered = [0; TRAILER_BYTES - 4];
    covered[..12].copy_from_slice(&bytes[..12]);
    covered[12..].copy_from_slice(&bytes[16..TRAILER_BYTES]);
    epoch.checksum(&covered)
}

/// Bytes of the footer of an index with so many entries, whole blocks.
pub(crate) fn footer_bytes(entry_count: usize) -> usize {
    (entry_count * index::ENTRY_BYTES + TRAILER_BYTES).next_multiple_of(BLOCK_BYTES)
}

/// Where records must end in a segment of `bytes` bytes, so that the footer has room behind them: a block's start.
pub(crate) fn data_limit(bytes: u64, index_stride_bytes: u64) -> u64 {
    let entries_max = usize::try_from(bytes / index_stride_bytes + 1).unwrap_or(usize::MAX / 64);
    bytes.saturating_sub(footer_bytes(entries_max) as u64)
}

/// How far a segment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Takes appends.
    Active,
    /// Takes none any more; its last commit or its seal is still to be asked or told.
    Closing,
    /// Its seal was asked.
    Sealing,
    /// Never written again; has a footer.
    Sealed,
    /// Takes none any more and could not be sealed: read like one that is still written.
    Unsealed,
    /// Nothing in it can be trusted; it stays until retention takes it.
    Unreadable,
}

/// What the log knows of one of its segments.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: SegmentNumber,
    pub(crate) epoch: Epoch,
    pub(crate) state: State,
    /// Length of the file: as prepared, or as sealed.
    pub(crate) file_bytes: u64,
    pub(crate) first: Offset,
    /// Behind the last record that was appended.
    pub(crate) end: Offset,
    pub(crate) first_time_ms: u64,
    pub(crate) last_time_ms: u64,
    /// Position behind the last entry that was appended.
    pub(crate) data_end: u64,
    /// What lies before this position is in its place on the medium, durable.
    pub(crate) placed: u64,
    /// At least one commit of this segment is durable.
    pub(crate) committed: bool,
    pub(crate) footer_bytes: u64,
    /// In memory for each segment that is not sealed, and for some that are.
    pub(crate) index: Option<Index>,
    /// The trailer to check a footer against that is loaded later.
    pub(crate) trailer: Option<Trailer>,
    /// For the choice of which index to drop.
    pub(crate) index_used: u64,
    /// It was loaded for a reader that has not come yet; not dropped before.
    pub(crate) index_awaited: bool,
}

impl Segment {
    /// A prepared segment that begins to take records.
    pub(crate) fn activated(header: &Header, first: Offset, time_ms: u64) -> Segment {
        Segment {
            number: header.number,
            epoch: header.epoch,
            state: State::Active,
            file_bytes: header.bytes,
            first,
            end: first,
            first_time_ms: time_ms,
            last_time_ms: time_ms,
            data_end: MAIN_START,
            placed: MAIN_START,
            committed: false,
            footer_bytes: 0,
            index: Some(Index::default()),
            trailer: None,
            index_used: 0,
            index_awaited: false,
        }
    }

    /// A sealed segment, by its trailer alone.
    pub(crate) fn sealed(trailer: &Trailer) -> Segment {
        Segment {
            number: trailer.number,
            epoch: trailer.epoch,
            state: State::Sealed,
            file_bytes: trailer.file_bytes,
            first: trailer.first,
            end: trailer.end,
            first_time_ms: trailer.first_time_ms,
            last_time_ms: trailer.last_time_ms,
            data_end: trailer.data_end,
            placed: trailer.data_end,
            committed: true,
            footer_bytes: u64::from(trailer.footer_bytes),
            index: None,
            trailer: Some(*trailer),
            index_used: 0,
            index_awaited: false,
        }
    }

    /// A file of which nothing can be trusted, standing for the offsets from `first` to `end`.
    pub(crate) fn unreadable(
        number: SegmentNumber,
        file_bytes: u64,
        first: Offset,
        end: Offset,
        time_ms: u64,
    ) -> Segment {
        Segment {
            number,
            epoch: Epoch::new(0),
            state: State::Unreadable,
            file_bytes,
            first,
            end,
            first_time_ms: time_ms,
            last_time_ms: time_ms,
            data_end: MAIN_START,
            placed: MAIN_START,
            committed: true,
            footer_bytes: 0,
            index: None,
            trailer: None,
            index_used: 0,
            index_awaited: false,
        }
    }

    /// The segment holds records.
    pub(crate) fn has_records(&self) -> bool {
        self.first < self.end
    }

    /// Bytes that the segment takes: of its file once it is closed, of its records before.
    pub(crate) fn used_bytes(&self) -> u64 {
        match self.state {
            State::Active | State::Closing | State::Sealing => self.data_end,
            State::Sealed | State::Unsealed | State::Unreadable => self.file_bytes,
        }
    }

    /// The footer that seals the segment, and the length of the file with it. `keep_bytes`: the file is not made shorter
    /// than this, because what lies behind the records may be wanted by someone who looks into damage.
    pub(crate) fn footer<B: Buffer>(&self, keep_bytes: u64) -> (B, Trailer) {
        let index = self.index.as_ref().expect("a segment that is not sealed has its index in memory");
        let mut entries = Vec::with_capacity(index.len() * index::ENTRY_BYTES);
        index.encode(&mut entries);
        let bytes = footer_bytes(index.len());
        let data_blocks = self.data_end.next_multiple_of(BLOCK_BYTES as u64);
        let file_bytes = (data_blocks + bytes as u64).max(keep_bytes.next_multiple_of(BLOCK_BYTES as u64));
        let trailer = Trailer {
            number: self.number,
            epoch: self.epoch,
            first: self.first,
            end: self.end,
            first_time_ms: self.first_time_ms,
            last_time_ms: self.last_time_ms,
            data_end: self.data_end,
            footer_bytes: bytes as u32,
            entry_count: index.len() as u32,
            entries_checksum: self.epoch.checksum(&entries),
            file_bytes,
        };
        let mut footer = B::allocate(bytes);
        footer.bytes_mut()[..entries.len()].copy_from_slice(&entries);
        trailer.encode(&mut footer.bytes_mut()[bytes - TRAILER_BYTES..]);
        (footer, trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::IndexEntry;
    use crate::storage::disk::AlignedBuffer;

    #[test]
    fn a_header_comes_back_and_notices_damage() {
        let header = Header { number: SegmentNumber(7), epoch: Epoch::new(99), bytes: 1 << 20 };
        let mut block = vec![0xAA; BLOCK_BYTES];
        header.encode(&mut block);
        assert_eq!(Header::decode(&block), Ok(header));
        for at in [0, 9, 13, 20, 30, 35, 4000] {
            let mut broken = block.clone();
            broken[at] ^= 1;
            assert_eq!(Header::decode(&broken), Err(HeaderError::Damaged), "byte {at}");
        }
    }

    #[test]
    fn a_header_of_another_version_says_so() {
        let mut block = vec![0; BLOCK_BYTES];
        Header { number: SegmentNumber(7), epoch: Epoch::new(99), bytes: 1 << 20 }.encode(&mut block);
        block[8] = 2;
        let checksum = header_checksum(&block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Header::decode(&block), Err(HeaderError::Version(2)));
    }

    #[test]
    fn a_slot_comes_back_in_its_epoch_alone() {
        let content = vec![3; SLOT_CONTENT_MAX];
        let slot = Slot { sequence: 4, position: MAIN_START, mark: Offset(9), content: &content };
        let mut block = vec![0xAA; BLOCK_BYTES];
        slot.encode(Epoch::new(5), &mut block);
        assert_eq!(Slot::decode(&block, Epoch::new(5)), Some(slot));
        assert_eq!(Slot::decode(&block, Epoch::new(6)), None);
        block[4095] ^= 1;
        assert_eq!(Slot::decode(&block, Epoch::new(5)), None);
    }

    #[test]
    fn a_footer_comes_back_at_its_place_alone() {
        let header = Header { number: SegmentNumber(7), epoch: Epoch::new(99), bytes: 1 << 20 };
        let mut segment = Segment::activated(&header, Offset(10), 5);
        segment.end = Offset(20);
        segment.data_end = MAIN_START + 9000;
        let mut index = Index::default();
        index.note(IndexEntry { offset: Offset(10), time_ms: 5, position: MAIN_START + 32 }, 4096);
        segment.index = Some(index.clone());
        let (footer, trailer) = segment.footer::<AlignedBuffer>(0);
        assert_eq!(trailer.file_bytes, MAIN_START + 3 * 4096 + 4096);
        assert_eq!(Trailer::decode(footer.bytes(), trailer.file_bytes), Some(trailer));
        assert_eq!(Trailer::decode(footer.bytes(), trailer.file_bytes + 4096), None);
        assert_eq!(trailer.index(footer.bytes()), Some(index));
        let mut broken = footer.bytes().to_vec();
        broken[3] ^= 1;
        assert_eq!(trailer.index(&broken), None);
        broken[4090] ^= 1;
        assert_eq!(Trailer::decode(&broken, trailer.file_bytes), None);
    }
}
