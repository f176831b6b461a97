//! Receipts for a back end that polls: a batch at a time, from whichever partition has one \[IoT Hub: REST API, Receive Feedback
//! Notification\].

use engine::request::{EngineError, LockToken, LockedReceipts, PartitionId, Reply, Request};

use super::answer::{Answer, confused};
use super::commands::read_lock;
use super::work::{Progress, Work};
use crate::binding::receipts;
use crate::binding::status::{Status, iso_time};

/// A search for a batch: one partition after the other, so that one batch at most is locked.
#[derive(Debug)]
pub(super) struct Search {
    next: u16,
    left: u16,
}

impl Search {
    /// Begin with the partition that the moment names: no partition's receipts wait for another's to run out.
    pub(super) fn begin(moment_ms: u64, partition_count: u16) -> (Self, Request) {
        let first = (moment_ms % u64::from(partition_count)) as u16;
        let mut search = Self { next: first, left: partition_count };
        let question = search.ask(partition_count);
        (search, question)
    }

    /// Take the reply of the partition that was asked.
    pub(super) fn take(mut self, reply: &Reply, partition_count: u16) -> Result<Progress, Status> {
        let Reply::Receipts(batches) = reply else { return Err(confused()) };
        Ok(match (batches.first(), self.left) {
            (Some(batch), _) => Progress::Answer(answer(batch)),
            (None, 0) => Progress::Answer(Answer::no_content()),
            (None, _) => {
                let question = self.ask(partition_count);
                Progress::Wait(Work::Receipts(self), vec![question])
            }
        })
    }

    fn ask(&mut self, partition_count: u16) -> Request {
        let partition = PartitionId(self.next);
        self.next = (self.next + 1) % partition_count;
        self.left -= 1;
        Request::ReceiveReceipts { partition }
    }
}

/// Read a batch's lock from a path.
pub(super) fn read_batch_lock(text: &str, partition_count: u16) -> Result<LockToken, Status> {
    let lock = read_lock(text)?;
    match lock.partition().0 < partition_count {
        true => Ok(lock),
        false => Err(Status::of(&EngineError::LockLost)),
    }
}

fn answer(batch: &LockedReceipts) -> Answer {
    Answer { status: 200, headers: Vec::new(), body: receipts::json(batch) }
        .with("ETag", format!("\"{}\"", batch.token))
        .with("Content-Type", receipts::CONTENT_TYPE)
        .with("iothub-messageid", receipts::message_id(batch))
        .with("iothub-to", receipts::ADDRESS)
        .with("iothub-enqueuedtime", iso_time(batch.enqueued_ms))
        .with("iothub-deliverycount", batch.delivery_count.to_string())
}
