//! Receipts for a back end that polls: a batch at a time, from whichever partition has one \[IoT Hub: REST API, Receive Feedback
//! Notification\].

use engine::request::{EngineError, LockToken, LockedReceipts, PartitionId, Reply, Request};

use super::answer::{Answer, confused, refused};
use super::commands::read_lock;
use super::work::{Progress, Work};
use crate::binding::receipts;
use crate::binding::status::{Status, iso_time};

/// A search for a batch: one partition after the other, so that one batch at most is locked.
#[derive(Debug)]
pub(super) struct Search {
    next: u16,
    left: u16,
    /// Why a partition could not be searched: the answer, if no other has a batch.
    failed: Option<EngineError>,
}

impl Search {
    /// Begin with a partition that the moment picks: no partition's receipts wait for another's to run out.
    pub(super) fn begin(moment_ms: u64, partition_count: u16) -> (Self, Request) {
        // Multiplied by 2^64 / golden ratio: the high bits go round the partitions evenly whatever period a back end polls with.
        let spread = moment_ms.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let first = ((spread * u64::from(partition_count)) >> 32) as u16;
        let mut search = Self { next: first, left: partition_count, failed: None };
        let question = search.ask(partition_count);
        (search, question)
    }

    /// Take the reply of the partition that was asked.
    pub(super) fn take(mut self, reply: Reply, partition_count: u16) -> Result<Progress, Status> {
        match reply {
            Reply::Receipts(batches) => {
                if let Some(batch) = batches.first() {
                    return Ok(Progress::Answer(answer(batch)));
                }
            }
            Reply::Failed(error) => self.failed = Some(error),
            _ => return Err(confused()),
        }
        match (self.left, &self.failed) {
            (0, None) => Ok(Progress::Answer(Answer::no_content())),
            (0, Some(error)) => Err(refused(error)),
            _ => {
                let question = self.ask(partition_count);
                Ok(Progress::Wait(Work::Receipts(self), vec![question]))
            }
        }
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

#[cfg(test)]
mod tests {
    use engine::request::EngineError::StorageFailed;

    use super::*;

    /// Where back ends that poll every so often begin, for some hubs of several partitions: each partition is begun with about
    /// as often as the others.
    #[test]
    fn no_period_of_polls_prefers_a_partition() {
        for partition_count in [2_u16, 4, 7, 32] {
            for period_ms in [1_u64, 4, 100, 1_000, 15_000, 60_000] {
                let mut begun = vec![0_u32; usize::from(partition_count)];
                for poll in 0..1_000 * u64::from(partition_count) {
                    let moment_ms = 1_700_000_000_000 + poll * period_ms;
                    let (_, question) = Search::begin(moment_ms, partition_count);
                    let Request::ReceiveReceipts { partition } = question else { unreachable!() };
                    begun[usize::from(partition.0)] += 1;
                }
                assert!(
                    begun.iter().all(|count| (500..1_500).contains(count)),
                    "{partition_count} {period_ms} {begun:?}"
                );
            }
        }
    }

    #[test]
    fn a_partition_that_fails_is_passed_over() {
        let failed = || Reply::Failed(StorageFailed);
        let (search, _) = Search::begin(0, 2);
        let Ok(Progress::Wait(Work::Receipts(search), _)) = search.take(failed(), 2) else { unreachable!() };
        // Neither has a batch: what is wrong is said.
        assert_eq!(search.take(Reply::Receipts(Vec::new()), 2).err(), Some(refused(&StorageFailed)));
    }
}
