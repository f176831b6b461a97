//! Seeded damage of an entry, for runs without libFuzzer.

use crate::input::Choices;

/// Bytes that mean something in one of the protocols.
const TELLING: [u8; 16] =
    [0x00, 0x01, 0x40, 0x45, 0x53, 0x7f, 0x80, 0xa1, 0xc0, 0xd0, 0xf0, 0xff, b'%', b'/', b'\r', b'\n'];

/// A damaged form of `entry`, with pieces of `other`; the same for the same seed.
pub fn mutate(entry: &[u8], other: &[u8], seed: u64) -> Vec<u8> {
    let mut choices = Choices::new(seed);
    let mut bytes = entry.to_vec();
    for _ in 0..1 + choices.below(4) {
        if bytes.is_empty() {
            bytes.push(choices.next() as u8);
        }
        let at = choices.below(bytes.len());
        let end = (at + 1 + choices.below(16)).min(bytes.len());
        match choices.below(8) {
            0 => bytes[at] = choices.next() as u8,
            1 => bytes[at] ^= 1 << choices.below(8),
            2 => bytes.insert(at, TELLING[choices.below(TELLING.len())]),
            3 => bytes[at] = TELLING[choices.below(TELLING.len())],
            4 => drop(bytes.drain(at..end)),
            5 => bytes.truncate(at),
            6 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ if !other.is_empty() => {
                let from = choices.below(other.len());
                let to = (from + 1 + choices.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => {}
        }
    }
    bytes
}
