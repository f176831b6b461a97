//! What stands in front of a stored message when it goes to a reader: the hub's annotations. The message itself follows
//! byte for byte.

use std::sync::LazyLock;

use engine::event::{AuthMethod, Source, StoredEvent};
use engine::request::PartitionStatus;
use net_amqp::symbol_constant;
use net_amqp::value::{Descriptor, encode};

const DELIVERY_ANNOTATIONS: u64 = 0x71;
const MESSAGE_ANNOTATIONS: u64 = 0x72;

/// Entries that every event has.
const ENTRY_COUNT: u32 = 8;

/// Append the message annotations of `event` [IoT Hub: iot-hub-devguide-messages-read-builtin].
pub fn encode_annotations(event: &StoredEvent<'_>, out: &mut Vec<u8>) {
    encode::descriptor(out, Descriptor::Code(MESSAGE_ANNOTATIONS));
    let map = encode::begin_map(out);
    let stamps = match (event.source, event.auth) {
        (Source::Telemetry, AuthMethod::HubSas) => &STAMPS[0],
        (Source::Telemetry, AuthMethod::DeviceSas) => &STAMPS[1],
        (source, auth) => &Stamps::new(source, auth),
    };
    stamps.put(event.sequence.0, event.enqueued_ms, out);
    let mut decimal = itoa::Buffer::new();
    out.extend_from_slice(symbol_constant!("x-opt-offset"));
    encode::string(out, decimal.format(event.sequence.0));
    out.extend_from_slice(symbol_constant!("iothub-connection-auth-generation-id"));
    encode::string(out, decimal.format(event.generation.0));
    out.extend_from_slice(symbol_constant!("iothub-connection-device-id"));
    encode::string(out, event.device);
    out.extend_from_slice(event.annotations);
    map.end(out, 2 * ENTRY_COUNT + u32::from(event.annotation_value_count));
}

/// The entries whose length is known beforehand, encoded once: they are copied whole, and only numbers are written into the
/// copy.
struct Stamps {
    bytes: Vec<u8>,
    number_at: usize,
    times_at: [usize; 2],
}

static STAMPS: LazyLock<[Stamps; 2]> = LazyLock::new(|| {
    [AuthMethod::HubSas, AuthMethod::DeviceSas].map(|auth| Stamps::new(Source::Telemetry, auth))
});

impl Stamps {
    fn new(source: Source, auth: AuthMethod) -> Self {
        let mut bytes = Vec::new();
        encode::symbol(&mut bytes, "iothub-connection-auth-method");
        encode::string(&mut bytes, auth_method(auth));
        encode::symbol(&mut bytes, "iothub-message-source");
        encode::string(&mut bytes, source_name(source));
        let times_at = ["x-opt-enqueued-time", "iothub-enqueuedtime"].map(|name| {
            encode::symbol(&mut bytes, name);
            encode::timestamp(&mut bytes, 0);
            bytes.len() - size_of::<i64>()
        });
        encode::symbol(&mut bytes, "x-opt-sequence-number");
        // In its long form, into which each number fits.
        encode::long(&mut bytes, i64::MAX);
        let number_at = bytes.len() - size_of::<i64>();
        Self { bytes, number_at, times_at }
    }

    fn put(&self, number: u64, enqueued_ms: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let mut write = |at: usize, value: u64| {
            out[start + at..start + at + size_of::<u64>()].copy_from_slice(&value.to_be_bytes());
        };
        write(self.number_at, number);
        self.times_at.iter().for_each(|at| write(*at, enqueued_ms));
    }
}

/// Append the delivery annotations of a reader that asked for runtime metrics.
pub fn encode_metrics(status: &PartitionStatus, now_ms: u64, out: &mut Vec<u8>) {
    encode::descriptor(out, Descriptor::Code(DELIVERY_ANNOTATIONS));
    let map = encode::begin_map(out);
    encode::symbol(out, "last_enqueued_sequence_number");
    encode::long(out, last_number(status));
    encode::symbol(out, "last_enqueued_offset");
    encode::string(out, &last_number(status).to_string());
    encode::symbol(out, "last_enqueued_time_utc");
    encode::timestamp(out, status.last_enqueued_ms as i64);
    encode::symbol(out, "runtime_info_retrieval_time_utc");
    encode::timestamp(out, now_ms as i64);
    map.end(out, 8);
}

/// The number of the newest event that ever was; -1 before the first.
pub fn last_number(status: &PartitionStatus) -> i64 {
    status.next.0 as i64 - 1
}

fn auth_method(auth: AuthMethod) -> &'static str {
    match auth {
        AuthMethod::HubSas => {
            r#"{"scope":"hub","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#
        }
        _ => r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#,
    }
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Telemetry => "Telemetry",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use engine::request::{PartitionId, SequenceNumber};
    use net_amqp::value::{Decoder, Value};
    use registry::GenerationId;

    use super::*;

    fn entry<'a>(section: &'a [u8], name: &str) -> Value<'a> {
        let mut decoder = Decoder::new(section);
        decoder.descriptor().unwrap();
        let Value::Map(map) = decoder.value().unwrap() else { panic!("a map") };
        assert!(decoder.is_empty());
        map.check().unwrap();
        map.find(name).unwrap_or(Value::Null)
    }

    #[test]
    fn the_stamps_have_the_types_that_clients_cast_to() {
        let mut extra = Vec::new();
        encode::symbol(&mut extra, "dt-subject");
        encode::string(&mut extra, "pump");
        let mut event = StoredEvent {
            sequence: SequenceNumber(1234),
            enqueued_ms: 1_795_294_683_001,
            device: "dev-1",
            generation: GenerationId(638_000_000_000_000_001),
            auth: AuthMethod::DeviceSas,
            source: Source::Telemetry,
            annotations: &extra,
            annotation_value_count: 2,
            message: b"",
        };
        let mut bytes = Vec::new();
        encode_annotations(&event, &mut bytes);
        assert_eq!(&bytes[..3], [0x00, 0x53, 0x72]);
        let get = |name| entry(&bytes, name);
        assert_eq!(get("x-opt-sequence-number"), Value::Long(1234));
        assert_eq!(get("x-opt-offset"), Value::String("1234"));
        assert_eq!(get("x-opt-enqueued-time"), Value::Timestamp(1_795_294_683_001));
        assert_eq!(get("iothub-enqueuedtime"), Value::Timestamp(1_795_294_683_001));
        assert_eq!(get("iothub-connection-device-id"), Value::String("dev-1"));
        assert_eq!(get("iothub-connection-auth-generation-id"), Value::String("638000000000000001"));
        assert_eq!(get("iothub-message-source"), Value::String("Telemetry"));
        assert_eq!(get("dt-subject"), Value::String("pump"));
        let Value::String(method) = get("iothub-connection-auth-method") else { panic!("a string") };
        assert_eq!(serde_json::from_str::<serde_json::Value>(method).unwrap()["scope"], "device");

        event.auth = AuthMethod::HubSas;
        event.sequence = SequenceNumber(u64::from(u32::MAX) + 7);
        let mut bytes = Vec::new();
        encode_annotations(&event, &mut bytes);
        assert_eq!(entry(&bytes, "x-opt-sequence-number"), Value::Long(i64::from(u32::MAX) + 7));
        assert_eq!(entry(&bytes, "x-opt-offset"), Value::String("4294967302"));
        let Value::String(method) = entry(&bytes, "iothub-connection-auth-method") else {
            panic!("a string")
        };
        assert_eq!(serde_json::from_str::<serde_json::Value>(method).unwrap()["scope"], "hub");
    }

    #[test]
    fn metrics_of_an_empty_partition() {
        let status = PartitionStatus {
            partition: PartitionId(0),
            first: SequenceNumber(0),
            next: SequenceNumber(0),
            last_enqueued_ms: 0,
        };
        let mut bytes = Vec::new();
        encode_metrics(&status, 7, &mut bytes);
        assert_eq!(&bytes[..3], [0x00, 0x53, 0x71]);
        assert_eq!(entry(&bytes, "last_enqueued_sequence_number"), Value::Long(-1));
        assert_eq!(entry(&bytes, "last_enqueued_offset"), Value::String("-1"));
        assert_eq!(entry(&bytes, "runtime_info_retrieval_time_utc"), Value::Timestamp(7));
    }
}
