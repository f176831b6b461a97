//! The work that is done for every event, command and login, each by itself, for counting its instructions.
//!
//! What is counted runs inside [`measured`]; everything around it is preparation. The disk is the real one, but only what
//! this process executes is counted, not what the kernel does for it.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use engine::embed::Hub;
use engine::request::{Ack, CommandDraft, EventView, Settlement, Start};
use engine::shard::ShardConfig;
use net_amqp::{
    AttachReply, AttachRequest, Config, Connection, DeliveryState, Event, Inbound, LinkId, MessageBuilder,
    Properties, Role, Sections, SendDelivery, Value,
};
use registry::sas::{KeyForm, SasToken, sign};
use registry::{DataKey, DeviceDraft, DeviceId, DeviceKey, DeviceKeys};

const BODY: [u8; 256] = [0x5a; 256];
/// Events per commit, and deliveries per disposition.
const RUN: usize = 64;

/// One path of work.
#[derive(Clone, Copy, Debug)]
pub struct HotPath {
    /// What it is called in tables.
    pub name: &'static str,
    /// How often it is done in a count.
    pub repetitions: usize,
    run: fn(&Path, usize) -> Result<(), String>,
}

/// All of them.
pub const HOT_PATHS: [HotPath; 6] = [
    HotPath { name: "decode-transfer", repetitions: 64 * 200, run: decode_transfers },
    HotPath { name: "encode-message", repetitions: 20_000, run: encode_messages },
    HotPath { name: "append-event", repetitions: 64 * 200, run: append_events },
    HotPath { name: "deliver-event", repetitions: 64 * 200, run: deliver_events },
    HotPath { name: "verify-token", repetitions: 2_000, run: verify_tokens },
    HotPath { name: "enqueue-complete", repetitions: 1_000, run: complete_commands },
];

impl HotPath {
    /// Do it `repetitions` times; `directory` must be empty and is left with what it stored.
    ///
    /// # Errors
    ///
    /// An answer that should not have come.
    pub fn run(&self, directory: &Path, repetitions: usize) -> Result<(), String> {
        (self.run)(directory, repetitions)
    }
}

/// What is counted. By this name the counter knows when to begin and to end.
#[inline(never)]
pub fn measured<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

fn message() -> Vec<u8> {
    let properties = Properties {
        message_id: Some(Value::String("11111111-2222-3333-4444-555555555555")),
        content_type: Some("application/json"),
        ..Properties::default()
    };
    MessageBuilder::default()
        .properties(properties)
        .application_property("colour", Value::String("green"))
        .application_property("level", Value::String("7"))
        .application_property("site", Value::String("north"))
        .data(&BODY)
        .encode()
}

/// A transfer frame through the server's machine, its message looked at, a run of them accepted at once.
fn decode_transfers(_: &Path, repetitions: usize) -> Result<(), String> {
    let (mut hub, mut client, link, hub_link) = attached()?;
    let message = message();
    let mut frames = Vec::new();
    for number in 0..repetitions as u32 {
        let tag = number.to_le_bytes();
        let delivery = SendDelivery { tag: &tag, message_format: 0, settled: false, payload: &[&message] };
        // The client's own limits are not the subject: what it holds back is let out at once.
        let mut bytes = Vec::new();
        client.connection.send(link, &delivery, &mut bytes).map_err(|refused| format!("{refused:?}"))?;
        frames.extend_from_slice(&bytes);
        if (number as usize + 1).is_multiple_of(RUN) {
            let run = std::mem::take(&mut frames);
            measured(|| accept_all(&mut hub, &run, hub_link))?;
            let answer = std::mem::take(&mut hub.output);
            client.take(&answer)?;
        }
    }
    Ok(())
}

fn accept_all(hub: &mut End, mut input: &[u8], link: LinkId) -> Result<(), String> {
    let mut ids = None;
    let mut count = 0;
    while let Some(event) = hub
        .connection
        .handle(&mut hub.inbound, &mut input, &mut hub.output, 0)
        .map_err(|closed| format!("{closed:?}"))?
    {
        if let Event::Transfer { delivery_id, payload, .. } = event {
            black_box(Sections::parse(payload).map_err(|error| format!("{error:?}"))?);
            let (first, _) = ids.unwrap_or((delivery_id, delivery_id));
            ids = Some((first, delivery_id));
            count += 1;
        }
    }
    let (first, last) = ids.ok_or("no transfer came")?;
    if count != RUN
        || !hub.connection.settle(link, first, last, &DeliveryState::Accepted, true, &mut hub.output)
    {
        return Err(format!("{count} transfers came"));
    }
    hub.connection.grant(link, RUN as u32, &mut hub.output);
    Ok(())
}

/// Properties, three application properties and the body, as they go out to a reader.
fn encode_messages(_: &Path, repetitions: usize) -> Result<(), String> {
    let properties = Properties { message_id: Some(Value::String("11111111-2222")), ..Properties::default() };
    let builder = MessageBuilder::default()
        .properties(properties)
        .application_property("colour", Value::String("green"))
        .application_property("level", Value::String("7"))
        .application_property("site", Value::String("north"))
        .data(&BODY);
    let mut out = Vec::with_capacity(1024);
    measured(|| {
        for _ in 0..repetitions {
            out.clear();
            builder.encode_to(black_box(&mut out));
        }
    });
    Ok(())
}

/// An event from the engine's door into the log, durable, [`RUN`] of them in a commit.
fn append_events(directory: &Path, repetitions: usize) -> Result<(), String> {
    let (mut hub, device) = hub(directory)?;
    measured(|| append(&mut hub, &device, repetitions))
}

/// An event from the log to the reply that hands it to a reader.
fn deliver_events(directory: &Path, repetitions: usize) -> Result<(), String> {
    let (mut hub, device) = hub(directory)?;
    append(&mut hub, &device, repetitions)?;
    let partition = hub.partition(&device);
    let reader =
        hub.open_reader(partition, "$Default", Start::Earliest).map_err(|error| error.to_string())?;
    let count = measured(|| {
        let mut count = 0;
        while count < repetitions {
            let batch = hub.read(reader, RUN as u32).map_err(|error| error.to_string())?;
            for event in batch.records.iter() {
                black_box(event);
                count += 1;
            }
        }
        Ok::<_, String>(count)
    })?;
    if count == repetitions { Ok(()) } else { Err(format!("{count} events were read")) }
}

/// A token read and verified against the two keys of a device.
fn verify_tokens(_: &Path, repetitions: usize) -> Result<(), String> {
    let key = |byte: u8| DeviceKey::from_bytes(&[byte; 32]).map_err(|error| error.to_string());
    let keys = DeviceKeys { primary: key(1)?, secondary: key(2)? };
    let text = sign("localhost/devices/dev1", &keys.primary, KeyForm::Decoded, 2_000_000_000, None);
    measured(|| {
        for _ in 0..repetitions {
            let token = SasToken::parse(black_box(&text)).map_err(|error| error.to_string())?;
            token
                .verify_with_keys(&[&keys.primary, &keys.secondary], 1_900_000_000, 0)
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

/// A command enqueued, received and completed, each durable by itself.
fn complete_commands(directory: &Path, repetitions: usize) -> Result<(), String> {
    let (mut hub, device) = hub(directory)?;
    measured(|| {
        for number in 0..repetitions {
            let draft = CommandDraft {
                device: device.clone(),
                message: BODY.to_vec(),
                message_id: format!("{number:036}"),
                ack: Ack::None,
                expires_ms: None,
            };
            hub.enqueue_command(draft).map_err(|error| error.to_string())?;
            let command = hub.receive_command(&device).map_err(|error| error.to_string())?;
            let command = command.ok_or("the command does not come")?;
            hub.settle_command(&device, command.token, Settlement::Complete)
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

fn hub(directory: &Path) -> Result<(Hub, DeviceId), String> {
    let config = ShardConfig::new(1, DataKey::from_bytes([7; 32]));
    let (mut hub, _) = Hub::open(directory, config).map_err(|error| error.to_string())?;
    let device = DeviceId::parse("device-1").map_err(|error| error.to_string())?;
    hub.create_device(DeviceDraft::new(device.clone())).map_err(|error| error.to_string())?;
    Ok((hub, device))
}

fn append(hub: &mut Hub, device: &DeviceId, repetitions: usize) -> Result<(), String> {
    let session = hub.open_session(device).map_err(|error| error.to_string())?;
    let message = message();
    let event = EventView { message: &message, annotations: b"", annotation_value_count: 0 };
    let events = [event; RUN];
    for _ in 0..repetitions / RUN {
        hub.append(session, &events).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// One end of a connection in memory.
struct End {
    connection: Connection,
    inbound: Inbound,
    output: Vec<u8>,
}

impl End {
    fn new(role: Role) -> Self {
        // No window of the session and no limit on unsettled deliveries comes between: they are not the subject.
        let config = Config { incoming_window: 1 << 20, unsettled_count_max: 1 << 20, ..Config::default() };
        let connection = Connection::new(role, Arc::new(config), 0);
        Self { connection, inbound: Inbound::default(), output: Vec::new() }
    }

    /// Take in bytes that carry nothing that needs an answer of ours.
    fn take(&mut self, mut input: &[u8]) -> Result<(), String> {
        while self
            .connection
            .handle(&mut self.inbound, &mut input, &mut self.output, 0)
            .map_err(|closed| format!("{closed:?}"))?
            .is_some()
        {}
        Ok(())
    }
}

/// A hub and a client with one telemetry link: the client's id of it and the hub's.
fn attached() -> Result<(End, End, LinkId, LinkId), String> {
    let (mut hub, mut client) = (End::new(Role::Server), End::new(Role::Client));
    client.connection.start(&mut client.output);
    exchange(&mut hub, &mut client)?;
    let session = client.connection.begin(&mut client.output).ok_or("no room for a session")?;
    exchange(&mut hub, &mut client)?;
    let request = AttachRequest::sender("telemetry", "/devices/device-1/messages/events");
    let link = client.connection.attach(session, &request, &mut client.output).ok_or("no room for a link")?;
    let hub_link = exchange(&mut hub, &mut client)?.ok_or("no attach came")?;
    hub.connection.accept_link(hub_link, &AttachReply::default(), &mut hub.output);
    hub.connection.grant(hub_link, RUN as u32, &mut hub.output);
    exchange(&mut hub, &mut client)?;
    Ok((hub, client, link, hub_link))
}

/// Carry bytes to and fro until nobody has anything to say; the link that the client attached meanwhile.
fn exchange(hub: &mut End, client: &mut End) -> Result<Option<LinkId>, String> {
    let mut attached = None;
    while !hub.output.is_empty() || !client.output.is_empty() {
        let bytes = std::mem::take(&mut client.output);
        let mut input = &bytes[..];
        while let Some(event) = hub
            .connection
            .handle(&mut hub.inbound, &mut input, &mut hub.output, 0)
            .map_err(|closed| format!("{closed:?}"))?
        {
            if let Event::Attached { link, .. } = event {
                attached = Some(link);
            }
        }
        let bytes = std::mem::take(&mut hub.output);
        client.take(&bytes)?;
    }
    Ok(attached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_can_be_gone() {
        for path in HOT_PATHS {
            let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let done = path.run(directory.path(), 2 * RUN);
            assert_eq!(done, Ok(()), "{}", path.name);
        }
    }
}
