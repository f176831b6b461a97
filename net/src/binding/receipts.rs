//! A batch of receipts as back ends know it, by whatever protocol [IoT Hub: iot-hub-devguide-messages-c2d, message feedback].

use engine::request::{LockedReceipts, Receipt};
use serde::Serialize;

use crate::binding::status::iso_time;

/// Where receipts are received, as they say themselves.
pub const ADDRESS: &str = "/messages/serviceBound/feedback";

/// What receipts are.
pub const CONTENT_TYPE: &str = "application/vnd.microsoft.iothub.feedback.json";

/// One receipt as its readers know it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'r> {
    original_message_id: &'r str,
    enqueued_time_utc: String,
    status_code: &'static str,
    /// The only word there was in 2015.
    description: &'static str,
    device_id: &'r str,
    device_generation_id: String,
}

impl<'r> Record<'r> {
    fn new(receipt: &'r Receipt) -> Self {
        Self {
            original_message_id: &receipt.message_id,
            enqueued_time_utc: iso_time(receipt.at_ms),
            status_code: receipt.outcome.word(),
            description: receipt.outcome.word(),
            device_id: receipt.device.as_str(),
            device_generation_id: receipt.generation.0.to_string(),
        }
    }
}

/// The id of a batch as a message: the same at each delivery, and another in each partition.
pub fn message_id(batch: &LockedReceipts) -> String {
    format!("{}-{}", batch.token.partition().0, batch.number.0)
}

/// The body of a batch: a list of its receipts.
pub fn json(batch: &LockedReceipts) -> Vec<u8> {
    let records: Vec<Record<'_>> = batch.receipts.iter().map(Record::new).collect();
    serde_json::to_vec(&records).expect("text and numbers have a JSON form")
}
