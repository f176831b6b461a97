//! Those who read: where they start, whom they take the place of, their checkpoints, and the hub's consumer groups.

use registry::{Change, ConsumerGroup, ConsumerGroupId};
use segment_log::storage::Storage;

use super::{Partition, Turn, refused};
use crate::entry::Entry;
use crate::event_log::EventLog;
use crate::placement::HUB_PARTITION;
use crate::readers::{Reader, Stage};
use crate::request::{
    Caller, ConnectionId, ConsumerGroupView, EngineError, Notice, ReaderId, Reply, SequenceNumber, Start,
};

/// Where a reader starts.
enum Place {
    /// Here; `truncated` when what was asked for is not kept any more.
    At { next: SequenceNumber, truncated: bool },
    /// At the first event of this time or later.
    Time(u64),
}

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// A reader attaches, perhaps in the place of others.
    pub(super) fn open_reader(
        &mut self,
        caller: Caller,
        group: ConsumerGroupId,
        start: Start,
        epoch: Option<i64>,
        name: Option<String>,
        turn: &mut Turn<'_>,
    ) {
        if let Err(error) = self.try_open_reader(caller, group, &start, epoch, name, turn) {
            turn.out.fail(caller, error);
        }
    }

    fn try_open_reader(
        &mut self,
        caller: Caller,
        group: ConsumerGroupId,
        start: &Start,
        epoch: Option<i64>,
        name: Option<String>,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        self.check_group(group)?;
        // Everything that can refuse the newcomer comes before anybody has to go for it.
        let place = self.place(group, start)?;
        let stolen = self.reading.readers.admit(group, epoch)?;
        if let Some(by_epoch) = epoch {
            for reader in stolen {
                self.steal(reader, name.clone(), by_epoch, turn);
            }
        }
        let stage = match place {
            Place::At { next, .. } => Stage::At { next, waiting: None },
            Place::Time(time_ms) => Stage::Seeking { opener: caller, time_ms },
        };
        let reader = Reader { connection: caller.connection, group, epoch, name, stage };
        let id = self.reading.readers.open(reader).ok_or(EngineError::Busy)?;
        turn.out.counters.readers_opened += 1;
        match place {
            Place::At { next, truncated } => {
                turn.out.reply(caller, Reply::ReaderOpened { reader: id, next, truncated });
            }
            Place::Time(_) => self.reading.seek(id),
        }
        Ok(())
    }

    /// Where a start lies now.
    fn place(&self, group: ConsumerGroupId, start: &Start) -> Result<Place, EngineError> {
        let bounds = self.events.bounds();
        let at = |next| Ok(Place::At { next, truncated: false });
        let number_at = |number: u64, asked: u64| match SequenceNumber(number) {
            next if next > bounds.submitted => {
                Err(EngineError::PositionBeyondEnd { number: asked, next: bounds.next.0 })
            }
            next if next < bounds.first => Ok(Place::At { next: bounds.first, truncated: true }),
            next => Ok(Place::At { next, truncated: false }),
        };
        match start {
            Start::Earliest => at(bounds.first),
            // What is on its way to the disk was sent before now.
            Start::Latest => at(bounds.submitted),
            Start::Sequence { number, inclusive: true } => number_at(*number, *number),
            Start::Sequence { number, inclusive: false } => number_at(number.saturating_add(1), *number),
            Start::Time { ms, inclusive: true } => Ok(Place::Time(*ms)),
            Start::Time { ms, inclusive: false } => Ok(Place::Time(ms.saturating_add(1))),
            Start::Checkpoint => match self.checkpoints.find(group) {
                Some(number) => number_at(number.0.saturating_add(1), number.0),
                None => at(bounds.first),
            },
        }
    }

    fn steal(&mut self, id: ReaderId, by_name: Option<String>, by_epoch: i64, turn: &mut Turn<'_>) {
        let Some(reader) = self.reading.end(id) else { return };
        turn.out.counters.readers_stolen += 1;
        match reader.stage {
            // It never got to know its id: it loses the race for the place.
            Stage::Seeking { opener, .. } => {
                turn.out.fail(opener, EngineError::EpochHeld { live_epoch: by_epoch, live_name: by_name });
            }
            Stage::At { waiting, .. } => {
                turn.out.notify(reader.connection, Notice::ReaderStolen { reader: id, by_name, by_epoch });
                if let Some(read) = waiting {
                    turn.out.fail(read.caller, EngineError::ReaderEnded);
                }
            }
        }
    }

    /// The reader leaves.
    pub(super) fn close_reader(&mut self, connection: ConnectionId, id: ReaderId, turn: &mut Turn<'_>) {
        if self.reading.readers.owned_mut(id, connection).is_none() {
            return;
        }
        if let Some(Reader { stage: Stage::At { waiting: Some(read), .. }, .. }) = self.reading.end(id) {
            turn.out.fail(read.caller, EngineError::ReaderEnded);
        }
    }

    /// Move a group's checkpoint.
    pub(super) fn put_checkpoint(
        &mut self,
        group: ConsumerGroupId,
        number: SequenceNumber,
        force: bool,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        self.check_group(group)?;
        if self.checkpoints.check(group, number, force, self.events.bounds().next)? {
            self.journal.append(&Entry::Checkpoint { group, number }, turn.now)?;
            self.checkpoints.put(group, number);
            turn.out.counters.checkpoints += 1;
        }
        Ok(Reply::Done)
    }

    /// A group was deleted: its readers here end, its checkpoint is dropped.
    pub(super) fn drop_group(
        &mut self,
        group: ConsumerGroupId,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        if group == ConsumerGroupId::DEFAULT {
            return Err(EngineError::ConsumerGroupInvalid("$Default always exists"));
        }
        self.checkpoints.mark_dropped(group);
        for id in self.reading.readers.of_group(group) {
            let Some(reader) = self.reading.end(id) else { continue };
            match reader.stage {
                Stage::Seeking { opener, .. } => turn.out.fail(opener, EngineError::ConsumerGroupNotFound),
                Stage::At { waiting, .. } => {
                    turn.out.notify(reader.connection, Notice::ReaderGroupDeleted { reader: id });
                    if let Some(read) = waiting {
                        turn.out.fail(read.caller, EngineError::ReaderEnded);
                    }
                }
            }
        }
        if self.checkpoints.find(group).is_some() {
            self.journal.append(&Entry::CheckpointDropped { group }, turn.now)?;
            self.checkpoints.drop_group(group);
        }
        Ok(Reply::Done)
    }

    /// A group by its name.
    pub(super) fn find_group(&self, name: &str) -> Result<Reply, EngineError> {
        let group = self.store.consumer_group(name).ok_or(EngineError::ConsumerGroupNotFound)?;
        Ok(Reply::ConsumerGroup(view(group)))
    }

    /// Create a group.
    pub(super) fn create_group(&mut self, name: &str, turn: &mut Turn<'_>) -> Result<Reply, EngineError> {
        let change = self.store.plan_create_group(name, turn.now.wall_ms).map_err(refused)?;
        self.journal_change(change, turn)?;
        self.find_group(name)
    }

    /// Delete a group from the hub's list; what it left in the partitions is dropped by requests of their own.
    pub(super) fn delete_group(&mut self, name: &str, turn: &mut Turn<'_>) -> Result<Reply, EngineError> {
        let group = self.store.consumer_group(name).map(view).ok_or(EngineError::ConsumerGroupNotFound)?;
        let change: Change = self.store.plan_delete_group(name).map_err(refused)?;
        self.journal_change(change, turn)?;
        Ok(Reply::ConsumerGroup(group))
    }

    /// All groups.
    pub(super) fn list_groups(&self) -> Reply {
        Reply::ConsumerGroups(self.store.consumer_groups().iter().map(view).collect())
    }

    /// Refuse a group that is known to be gone. Only the hub's partition knows all that there are; the others are told of
    /// those that were deleted.
    fn check_group(&self, group: ConsumerGroupId) -> Result<(), EngineError> {
        let unknown = self.id == HUB_PARTITION && self.store.consumer_group_by_id(group).is_none();
        match unknown || self.checkpoints.is_dropped(group) {
            true => Err(EngineError::ConsumerGroupNotFound),
            false => Ok(()),
        }
    }
}

fn view(group: &ConsumerGroup) -> ConsumerGroupView {
    ConsumerGroupView { id: group.id, name: group.name.clone(), created_ms: group.created_ms }
}
