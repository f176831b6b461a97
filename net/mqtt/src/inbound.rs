//! The buffer that puts packets together which arrive in pieces.

use crate::error::Fault;
use crate::limits::{HEADER_BYTES_MAX, KEPT_BUFFER_BYTES_MAX};
use crate::packet::Header;

/// The beginning of a packet whose end has not arrived. Lies beside the [`Connection`](crate::Connection), so that the
/// connection's methods can be called while an event borrows from it.
#[derive(Debug, Default)]
pub struct Inbound {
    kept: Vec<u8>,
    /// The packet in `kept` was given out whole.
    is_given: bool,
}

impl Inbound {
    /// Bytes that are held.
    pub fn kept_bytes(&self) -> usize {
        if self.is_given { 0 } else { self.kept.len() }
    }

    /// The next whole packet, in place where it lies whole in `input`; otherwise all input is taken and kept. `input`
    /// moves on by what was taken. Never keeps more than one packet.
    pub(crate) fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
        bytes_max: usize,
    ) -> Result<Option<(Header, &'a [u8])>, Fault> {
        if std::mem::take(&mut self.is_given) {
            self.kept.clear();
            self.kept.shrink_to(KEPT_BUFFER_BYTES_MAX);
        }
        if self.kept.is_empty() {
            return match whole(input, bytes_max)? {
                Some(header) if header.packet_bytes() <= input.len() => {
                    let (packet, rest) = input.split_at(header.packet_bytes());
                    *input = rest;
                    Ok(Some((header, &packet[header.header_bytes..])))
                }
                _ => {
                    self.kept.extend_from_slice(input);
                    *input = &[];
                    Ok(None)
                }
            };
        }
        // First enough to know the size, then the rest.
        while self.kept.len() < HEADER_BYTES_MAX
            && !input.is_empty()
            && whole(&self.kept, bytes_max)?.is_none()
        {
            self.fill(input, 1);
        }
        let Some(header) = whole(&self.kept, bytes_max)? else { return Ok(None) };
        self.fill(input, header.packet_bytes() - self.kept.len());
        if self.kept.len() < header.packet_bytes() {
            return Ok(None);
        }
        self.is_given = true;
        Ok(Some((header, &self.kept[header.header_bytes..])))
    }

    fn fill(&mut self, input: &mut &[u8], count_max: usize) {
        let (taken, rest) = input.split_at(count_max.min(input.len()));
        self.kept.extend_from_slice(taken);
        *input = rest;
    }
}

/// The header at the front of `bytes`, if it is whole and its packet is taken.
fn whole(bytes: &[u8], bytes_max: usize) -> Result<Option<Header>, Fault> {
    let Some(header) = Header::decode(bytes)? else { return Ok(None) };
    match header.packet_bytes() {
        bytes if bytes > bytes_max => Err(Fault::TooLarge { bytes, bytes_max }),
        _ => Ok(Some(header)),
    }
}
