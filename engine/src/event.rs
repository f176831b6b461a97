//! The stored form of an event: a fixed header with the stamps, and the AMQP bare message behind it, opaque.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | source |
//! | 1 | authentication |
//! | 1 | length of the device id |
//! | 2 | number of AMQP values in the extra annotations |
//! | 2 | reserved, 0 |
//! | 4 | length of the extra annotations |
//! | 8 | generation of the device |
//! | | device id, extra annotations, message |
//!
//! Integers are little-endian. The sequence number and the enqueued time are those of the log's record.

use registry::GenerationId;

use crate::request::SequenceNumber;

/// Bytes of the fixed part of the header.
pub const EVENT_HEADER_BYTES: usize = 20;

const VERSION: u8 = 1;

/// What an event is, for `iothub-message-source`. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Source {
    /// A device sent it.
    Telemetry = 0,
}

impl Source {
    fn from_code(code: u8) -> Option<Self> {
        (code == Self::Telemetry as u8).then_some(Self::Telemetry)
    }
}

/// How the sender proved who it is, for `iothub-connection-auth-method`. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum AuthMethod {
    /// By a key of the device itself: scope `device`, type `sas`.
    DeviceSas = 1,
    /// By a key of a hub policy: scope `hub`, type `sas`.
    HubSas = 2,
}

impl AuthMethod {
    fn from_code(code: u8) -> Option<Self> {
        [Self::DeviceSas, Self::HubSas].into_iter().find(|method| *method as u8 == code)
    }
}

/// What the hub itself says about an event; it comes from the sender's session and never from the sender's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// The device's id.
    pub device: &'a str,
    /// Which of the identities that ever had this id.
    pub generation: GenerationId,
    /// How it proved that.
    pub auth: AuthMethod,
    /// What kind of event this is.
    pub source: Source,
}

impl Stamp<'_> {
    /// The fixed part of the header of an event with this stamp; the device id, the annotations and the message follow it.
    pub fn encode_header(
        &self,
        annotations_bytes: u32,
        annotation_value_count: u16,
    ) -> [u8; EVENT_HEADER_BYTES] {
        let mut header = [0; EVENT_HEADER_BYTES];
        header[0] = VERSION;
        header[1] = self.source as u8;
        header[2] = self.auth as u8;
        header[3] = u8::try_from(self.device.len()).expect("a device id has at most 128 bytes");
        header[4..6].copy_from_slice(&annotation_value_count.to_le_bytes());
        header[8..12].copy_from_slice(&annotations_bytes.to_le_bytes());
        header[12..20].copy_from_slice(&self.generation.0.to_le_bytes());
        header
    }
}

/// An event as it is stored, borrowed from its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredEvent<'a> {
    /// Its place in the partition.
    pub sequence: SequenceNumber,
    /// When it was appended, milliseconds since 1970; never smaller than that of an event before it.
    pub enqueued_ms: u64,
    /// The sending device's id.
    pub device: &'a str,
    /// The sender's generation: tells it from earlier devices of the same id.
    pub generation: GenerationId,
    /// How the sender proved who it is.
    pub auth: AuthMethod,
    /// What kind of event this is.
    pub source: Source,
    /// Further message annotations as AMQP map entries without the map's head.
    pub annotations: &'a [u8],
    /// Number of AMQP values in `annotations`, twice the number of entries.
    pub annotation_value_count: u16,
    /// The AMQP bare message, as the device sent it.
    pub message: &'a [u8],
}

impl<'a> StoredEvent<'a> {
    /// Read a record of an event log.
    ///
    /// # Errors
    ///
    /// [`EventError`] when the record is none of ours: another version wrote it, or it is damaged in a way that its
    /// checksum agrees with.
    pub fn decode(sequence: SequenceNumber, enqueued_ms: u64, record: &'a [u8]) -> Result<Self, EventError> {
        let (header, rest) = record.split_at_checked(EVENT_HEADER_BYTES).ok_or(EventError::Cut)?;
        if header[0] != VERSION {
            return Err(EventError::Version(header[0]));
        }
        let source = Source::from_code(header[1]).ok_or(EventError::Code(header[1]))?;
        let auth = AuthMethod::from_code(header[2]).ok_or(EventError::Code(header[2]))?;
        let annotation_value_count = u16::from_le_bytes([header[4], header[5]]);
        let annotations_bytes = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        let generation =
            u64::from_le_bytes(header[12..20].try_into().expect("eight bytes of a header that has twenty"));
        let (device, rest) = rest.split_at_checked(usize::from(header[3])).ok_or(EventError::Cut)?;
        let (annotations, message) =
            rest.split_at_checked(annotations_bytes as usize).ok_or(EventError::Cut)?;
        Ok(Self {
            sequence,
            enqueued_ms,
            device: std::str::from_utf8(device).map_err(|_| EventError::DeviceId)?,
            generation: GenerationId(generation),
            auth,
            source,
            annotations,
            annotation_value_count,
            message,
        })
    }
}

/// Why a record is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// It is shorter than its header says.
    #[error("the record is shorter than its header says")]
    Cut,
    /// Written by a version that this one does not know.
    #[error("the event's version {0} is not known")]
    Version(u8),
    /// A source or authentication that this version does not know.
    #[error("the event's code {0} is not known")]
    Code(u8),
    /// The device id is no text.
    #[error("the event's device id is no text")]
    DeviceId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    fn stored(annotations: &[u8], message: &[u8]) -> Vec<u8> {
        let stamp = Stamp {
            device: "pump-1",
            generation: GenerationId(638_000_000_000_000_001),
            auth: AuthMethod::HubSas,
            source: Source::Telemetry,
        };
        let header = stamp.encode_header(annotations.len() as u32, 4);
        [&header, stamp.device.as_bytes(), annotations, message].concat()
    }

    #[test]
    fn what_was_stored_comes_back() {
        let record = stored(b"annotations", b"message");
        let event = StoredEvent::decode(SequenceNumber(7), 1_700_000_000_000, &record).unwrap();
        assert_eq!(event.sequence, SequenceNumber(7));
        assert_eq!(event.enqueued_ms, 1_700_000_000_000);
        assert_eq!(event.device, "pump-1");
        assert_eq!(event.generation, GenerationId(638_000_000_000_000_001));
        assert_eq!((event.auth, event.source), (AuthMethod::HubSas, Source::Telemetry));
        assert_eq!((event.annotations, event.annotation_value_count), (&b"annotations"[..], 4));
        assert_eq!(event.message, b"message");
    }

    /// The bytes are on disk: they must never change without a new version.
    #[test]
    fn the_form_is_frozen() {
        let record = stored(b"\x01\x02\x03", b"m");
        let expected = [
            &[1, 0, 2, 6, 4, 0, 0, 0, 3, 0, 0, 0][..],
            &638_000_000_000_000_001_u64.to_le_bytes(),
            b"pump-1\x01\x02\x03m",
        ]
        .concat();
        assert_eq!(record, expected);
    }

    #[test]
    fn foreign_bytes_are_errors() {
        let good = stored(b"annotations", b"");
        let decode = |record: &[u8]| StoredEvent::decode(SequenceNumber(0), 0, record).map(|_| ());
        for length in 0..good.len() {
            assert_eq!(decode(&good[..length]), Err(EventError::Cut), "cut to {length}");
        }
        let with = |at: usize, byte: u8| {
            let mut record = good.clone();
            record[at] = byte;
            record
        };
        assert_eq!(decode(&with(0, 2)), Err(EventError::Version(2)));
        assert_eq!(decode(&with(1, 9)), Err(EventError::Code(9)));
        assert_eq!(decode(&with(2, 0)), Err(EventError::Code(0)));
        assert_eq!(decode(&with(EVENT_HEADER_BYTES, 0xff)), Err(EventError::DeviceId));
        assert_eq!(decode(&with(11, 0xff)), Err(EventError::Cut));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_decoding_panic(
            mut record in prop::collection::vec(any::<u8>(), 0..64),
            is_plausible in any::<bool>(),
        ) {
            if is_plausible && record.len() >= 4 {
                record[..3].copy_from_slice(&[VERSION, 0, 1]);
                record[3] %= 32;
            }
            if let Ok(event) = StoredEvent::decode(SequenceNumber(1), 2, &record) {
                let parts = event.device.len() + event.annotations.len() + event.message.len();
                prop_assert_eq!(EVENT_HEADER_BYTES + parts, record.len());
            }
        }
    }
}
