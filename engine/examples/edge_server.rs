//! An edge server in one process: it appends what its machines say, reads it back from where it stopped last time, and
//! remembers how far it came; it leaves commands for its machines, carries them out and reads what became of them. Run it
//! twice, or kill it in between: nothing is lost, nothing is read twice but what had not been checkpointed.
//!
//! `cargo run -p engine --example edge_server -- ./edge-data`
#![forbid(unsafe_code)]

use std::path::PathBuf;

use engine::embed::{Hub, data_key};
use engine::request::{Ack, CommandDraft, EngineError, EventView, Settlement, Start};
use engine::shard::ShardConfig;
use registry::{DeviceDraft, DeviceId};

const GROUP: &str = "$Default";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("edge-data"), PathBuf::from);
    let config = ShardConfig::new(2, data_key(&directory)?);
    let (mut hub, reports) = Hub::open(&directory, config)?;
    for report in &reports {
        println!("partition {} holds {} devices", report.partition.0, report.device_count);
    }

    for name in ["press-1", "press-2"] {
        let device = DeviceId::parse(name)?;
        match hub.find_device(&device) {
            Err(EngineError::DeviceNotFound) => hub.create_device(DeviceDraft::new(device.clone()))?,
            found => found?,
        };
        let session = hub.open_session(&device)?;
        let bodies: Vec<String> = (0..3).map(|number| format!("{name}: stroke {number}")).collect();
        let events: Vec<EventView<'_>> = bodies
            .iter()
            .map(|body| EventView { message: body.as_bytes(), annotations: b"", annotation_value_count: 0 })
            .collect();
        // Durable when this returns: all three, or none.
        let first = hub.append(session, &events)?;
        println!(
            "{name}: {} events from number {} of partition {}",
            events.len(),
            first.0,
            session.partition.0
        );
    }

    for report in &reports {
        let reader = hub.open_reader(report.partition, GROUP, Start::Checkpoint)?;
        loop {
            let batch = hub.read(reader, 100)?;
            let Some(last) = batch.records.iter().last().map(|event| event.sequence) else { break };
            for event in batch.records.iter() {
                println!(
                    "partition {} number {}: {}",
                    report.partition.0,
                    event.sequence.0,
                    String::from_utf8_lossy(event.message)
                );
            }
            hub.put_checkpoint(report.partition, GROUP, last)?;
        }
    }

    let device = DeviceId::parse("press-1")?;
    hub.enqueue_command(CommandDraft {
        device: device.clone(),
        message: b"stop".to_vec(),
        message_id: "stop-1".to_owned(),
        ack: Ack::Full,
        expires_ms: None,
    })?;
    while let Some(command) = hub.receive_command(&device)? {
        println!("press-1 is told to {}", String::from_utf8_lossy(&command.message));
        hub.settle_command(&device, command.token, Settlement::Complete)?;
    }
    // Those of the last run, for instance: receipts wait up to 15 seconds for others.
    let receiver = hub.open_receipts(hub.partition(&device))?;
    for batch in hub.receive_receipts(receiver, 10)? {
        for receipt in batch.receipts.iter() {
            println!("{} of {}: {}", receipt.message_id, receipt.device, receipt.outcome.word());
        }
        hub.settle_receipts(receiver, batch.token, Settlement::Complete)?;
    }
    hub.close();
    Ok(())
}
