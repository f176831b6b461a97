//! Messages to the peer, in as many frames as its frame size asks for and as its window takes.

use super::{Connection, LinkId, SendDelivery, SendRefused};
use crate::frame::{self, FrameKind};
use crate::limits::DELIVERY_TAG_BYTES_MAX;
use crate::performative::{LinkRole, Transfer};
use crate::session::Waiting;

impl Connection {
    /// Sends a message and returns its delivery id. The payload's parts are copied once, into the output; only what does not
    /// fit the peer's session window is copied aside, and goes by itself when the window opens.
    ///
    /// # Errors
    ///
    /// [`SendRefused`]; nothing is written then, and the caller keeps the message until the event that the variant names.
    pub fn send(
        &mut self,
        link: LinkId,
        delivery: &SendDelivery<'_>,
        output: &mut Vec<u8>,
    ) -> Result<u32, SendRefused> {
        let entry = self.links.get_mut(link.slot, link.generation).ok_or(SendRefused::NotAttached)?;
        if !entry.is_attached() || entry.role != LinkRole::Sender {
            return Err(SendRefused::NotAttached);
        }
        if delivery.tag.len() > DELIVERY_TAG_BYTES_MAX {
            return Err(SendRefused::TagTooLong);
        }
        let message_bytes: usize = delivery.payload.iter().map(|part| part.len()).sum();
        if message_bytes as u64 > entry.message_bytes_max {
            let message_bytes_max = entry.message_bytes_max;
            return Err(SendRefused::TooLarge { message_bytes: message_bytes as u64, message_bytes_max });
        }
        if entry.credit == 0 {
            return Err(SendRefused::NoCredit);
        }
        let session = self.sessions.at_mut(entry.session).expect("links name sessions that stand");
        if !session.has_room() {
            return Err(SendRefused::WindowClosed);
        }
        if !delivery.settled && session.outgoing.count() >= self.config.unsettled_count_max {
            return Err(SendRefused::TooManyUnsettled);
        }
        if output.len() > self.config.output_bytes_max {
            return Err(SendRefused::OutputFull);
        }
        let delivery_id = session.next_delivery_id;
        if !delivery.settled && !session.outgoing.takes(delivery_id) {
            // Half the circle of ids went by while an old delivery stayed unsettled.
            return Err(SendRefused::TooManyUnsettled);
        }
        let transfer = Transfer {
            handle: entry.local_handle,
            delivery_id: Some(delivery_id),
            delivery_tag: Some(delivery.tag),
            message_format: Some(delivery.message_format),
            settled: Some(delivery.settled),
            ..Transfer::default()
        };
        let mut writer = TransferWriter {
            channel: entry.session as u16,
            max_frame_bytes: self.remote.max_frame_bytes as usize,
            transfer,
        };
        let mut parts = Parts { parts: delivery.payload, offset: 0, bytes: message_bytes };
        let start = output.len();
        let mut frame_count = 0;
        while frame_count < session.remote_incoming_window {
            frame_count += 1;
            if writer.write(&mut parts, output) {
                break;
            }
        }
        let is_cut = parts.bytes > 0;
        if is_cut {
            let held_bytes = self.held_bytes + parts.bytes;
            if held_bytes > self.config.held_bytes_max {
                output.truncate(start);
                return Err(SendRefused::WindowClosed);
            }
            self.held_bytes = held_bytes;
            let mut payload = Vec::with_capacity(parts.bytes);
            parts.copy(usize::MAX, &mut payload);
            session.waiting = Some(Box::new(Waiting {
                link: link.slot,
                delivery_id,
                tag: delivery.tag.to_vec(),
                message_format: delivery.message_format,
                settled: delivery.settled,
                payload,
                sent_bytes: 0,
            }));
        }
        session.remote_incoming_window -= frame_count;
        session.next_outgoing_id = session.next_outgoing_id.wrapping_add(frame_count);
        session.next_delivery_id = session.next_delivery_id.wrapping_add(1);
        entry.credit -= 1;
        entry.delivery_count = entry.delivery_count.wrapping_add(1);
        if !delivery.settled {
            session.outgoing.insert(delivery_id, link.slot);
            entry.unsettled_count += 1;
        }
        self.timers.wrote = true;
        Ok(delivery_id)
    }

    /// Goes on with the delivery that waits for the session's window.
    pub(super) fn send_waiting(&mut self, session_slot: u32, output: &mut Vec<u8>) {
        let Some(session) = self.sessions.at_mut(session_slot) else { return };
        let Some(waiting) = &mut session.waiting else { return };
        let Some(link) = self.links.at(waiting.link) else { return };
        let transfer = Transfer {
            handle: link.local_handle,
            delivery_id: Some(waiting.delivery_id),
            delivery_tag: Some(&waiting.tag),
            message_format: Some(waiting.message_format),
            settled: Some(waiting.settled),
            ..Transfer::default()
        };
        let max_frame_bytes = self.remote.max_frame_bytes as usize;
        let mut writer = TransferWriter { channel: session_slot as u16, max_frame_bytes, transfer };
        let rest = &waiting.payload[waiting.sent_bytes..];
        let mut parts = Parts { parts: &[rest], offset: 0, bytes: rest.len() };
        let mut frame_count = 0;
        while frame_count < session.remote_incoming_window {
            frame_count += 1;
            if writer.write(&mut parts, output) {
                break;
            }
        }
        session.remote_incoming_window -= frame_count;
        session.next_outgoing_id = session.next_outgoing_id.wrapping_add(frame_count);
        self.timers.wrote |= frame_count > 0;
        let left_bytes = parts.bytes;
        waiting.sent_bytes = waiting.payload.len() - left_bytes;
        if left_bytes == 0 {
            let held_bytes = waiting.payload.len();
            session.waiting = None;
            self.release(held_bytes);
        }
    }
}

/// Writes the frames of one delivery.
struct TransferWriter<'t> {
    channel: u16,
    max_frame_bytes: usize,
    transfer: Transfer<'t>,
}

impl TransferWriter<'_> {
    /// Writes one frame with as much of the payload as it takes. True when it was the last one.
    fn write(&mut self, parts: &mut Parts<'_>, output: &mut Vec<u8>) -> bool {
        let start = frame::begin(output, FrameKind::Amqp, self.channel);
        let body = output.len();
        self.transfer.more = false;
        self.transfer.encode(output);
        // The performative takes less than 100 bytes, a frame at least 512: there is always room for some payload.
        let room = self.max_frame_bytes - (output.len() - start);
        let is_last = parts.bytes <= room;
        if !is_last {
            output.truncate(body);
            self.transfer.more = true;
            self.transfer.encode(output);
        }
        parts.copy(room, output);
        frame::end(output, start);
        is_last
    }
}

/// What is left of a payload in parts.
struct Parts<'p> {
    parts: &'p [&'p [u8]],
    /// How much of the first part is gone.
    offset: usize,
    /// What is left in all.
    bytes: usize,
}

impl Parts<'_> {
    /// Moves at most `bytes_max` bytes to the end of `output`.
    fn copy(&mut self, bytes_max: usize, output: &mut Vec<u8>) {
        let mut left = bytes_max;
        while let [first, rest @ ..] = self.parts {
            let chunk = &first[self.offset..];
            if chunk.len() > left {
                output.extend_from_slice(&chunk[..left]);
                self.offset += left;
                self.bytes -= left;
                return;
            }
            output.extend_from_slice(chunk);
            left -= chunk.len();
            self.bytes -= chunk.len();
            (self.parts, self.offset) = (rest, 0);
        }
    }
}
