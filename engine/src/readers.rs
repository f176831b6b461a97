//! Who reads a partition: the rules of epochs, of stealing, and of five readers at a time [Event Hubs: event consumers, epoch].

use registry::ConsumerGroupId;

use crate::limits::{READER_NAME_BYTES_MAX, READERS_PER_GROUP_MAX};
use crate::request::{Caller, ConnectionId, EngineError, PartitionId, ReaderId, SequenceNumber};
use crate::slots::{SlotKey, Slots};

/// A reader of the partition.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    /// Whose it is; no other may read with it.
    pub connection: ConnectionId,
    /// For which group.
    pub group: ConsumerGroupId,
    /// Its owner level; none: it shares the group with up to four others like it.
    pub epoch: Option<i64>,
    /// Its own name.
    pub name: Option<String>,
    /// What it does.
    pub stage: Stage,
}

/// What a reader does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its start is looked up; the opener has no answer yet.
    Seeking {
        /// Who opens it.
        opener: Caller,
        /// The time looked for, milliseconds since 1970.
        time_ms: u64,
    },
    /// It has a place, and perhaps asks for events.
    At {
        /// What it reads next.
        next: SequenceNumber,
        /// The read that waits.
        waiting: Option<WaitingRead>,
    },
}

/// A read without an answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitingRead {
    /// Whom to answer.
    pub caller: Caller,
    /// Most events.
    pub event_count_max: u32,
    /// Most bytes.
    pub bytes_max: u32,
}

/// The readers of one partition.
#[derive(Debug)]
pub(crate) struct Readers {
    partition: PartitionId,
    slots: Slots<Reader, ()>,
}

impl Readers {
    /// None yet, and at most `reader_count_max` over all groups.
    pub fn new(partition: PartitionId, reader_count_max: u32) -> Self {
        Self { partition, slots: Slots::new(reader_count_max) }
    }

    /// Whether a newcomer may read, and which readers it takes the place of.
    ///
    /// With an epoch it wins over readers without one and over one of the same or a lower epoch. Without one it needs a
    /// group without an epoch reader and with less than five others.
    ///
    /// # Errors
    ///
    /// [`EngineError::EpochHeld`], [`EngineError::ReadersExhausted`].
    pub fn admit(&self, group: ConsumerGroupId, epoch: Option<i64>) -> Result<Vec<ReaderId>, EngineError> {
        let of_group = || self.slots.iter().filter(move |(_, reader)| reader.group == group);
        let holder = of_group().find_map(|(_, reader)| reader.epoch.map(|live_epoch| (live_epoch, reader)));
        match (epoch, holder) {
            (Some(epoch), Some((live_epoch, _))) if epoch >= live_epoch => {}
            (Some(_), None) => {}
            (_, Some((live_epoch, reader))) => {
                return Err(EngineError::EpochHeld { live_epoch, live_name: reader.name.clone() });
            }
            (None, None) => {
                return match of_group().count() >= READERS_PER_GROUP_MAX as usize {
                    true => Err(EngineError::ReadersExhausted { reader_count_max: READERS_PER_GROUP_MAX }),
                    false => Ok(Vec::new()),
                };
            }
        }
        Ok(of_group().map(|(key, _)| self.id(key)).collect())
    }

    /// Put a reader in. None: the table is full.
    pub fn open(&mut self, mut reader: Reader) -> Option<ReaderId> {
        if let Some(name) = &mut reader.name {
            name.truncate(name.floor_char_boundary(READER_NAME_BYTES_MAX));
        }
        let key = self.slots.insert(reader).ok()?;
        Some(self.id(key))
    }

    /// A reader, whoever asks.
    pub fn find_mut(&mut self, id: ReaderId) -> Option<&mut Reader> {
        self.slots.find_mut(key(id))
    }

    /// A reader, if it is this connection's.
    pub fn owned_mut(&mut self, id: ReaderId, connection: ConnectionId) -> Option<&mut Reader> {
        self.find_mut(id).filter(|reader| reader.connection == connection)
    }

    /// Take a reader out.
    pub fn end(&mut self, id: ReaderId) -> Option<Reader> {
        self.slots.remove(key(id), ())
    }

    /// The readers of a group.
    pub fn of_group(&self, group: ConsumerGroupId) -> Vec<ReaderId> {
        self.ids(|reader| reader.group == group)
    }

    /// The readers of a connection.
    pub fn of_connection(&self, connection: ConnectionId) -> Vec<ReaderId> {
        self.ids(|reader| reader.connection == connection)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    fn ids(&self, wanted: impl Fn(&Reader) -> bool) -> Vec<ReaderId> {
        self.slots.iter().filter(|(_, reader)| wanted(reader)).map(|(key, _)| self.id(key)).collect()
    }

    fn id(&self, key: SlotKey) -> ReaderId {
        ReaderId { partition: self.partition, slot: key.slot, generation: key.generation }
    }
}

fn key(id: ReaderId) -> SlotKey {
    SlotKey { slot: id.slot, generation: id.generation }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::CoreId;

    const GROUP: ConsumerGroupId = ConsumerGroupId(1);

    fn reader(group: ConsumerGroupId, epoch: Option<i64>, name: &str) -> Reader {
        Reader {
            connection: ConnectionId { core: CoreId(0), slot: 0, generation: 0 },
            group,
            epoch,
            name: Some(name.to_owned()),
            stage: Stage::At { next: SequenceNumber(0), waiting: None },
        }
    }

    fn open(readers: &mut Readers, epoch: Option<i64>, name: &str) -> Result<(ReaderId, usize), EngineError> {
        let stolen = readers.admit(GROUP, epoch)?;
        for id in &stolen {
            readers.end(*id).unwrap();
        }
        Ok((readers.open(reader(GROUP, epoch, name)).unwrap(), stolen.len()))
    }

    #[test]
    fn an_equal_or_higher_epoch_wins_and_a_lower_one_is_refused() {
        let mut readers = Readers::new(PartitionId(0), 100);
        assert_eq!(open(&mut readers, Some(5), "a").unwrap().1, 0);
        assert_eq!(open(&mut readers, Some(5), "b").unwrap().1, 1);
        assert_eq!(open(&mut readers, Some(7), "c").unwrap().1, 1);
        let held = EngineError::EpochHeld { live_epoch: 7, live_name: Some("c".to_owned()) };
        assert_eq!(open(&mut readers, Some(6), "d").unwrap_err(), held);
        assert_eq!(open(&mut readers, None, "e").unwrap_err(), held);
        assert_eq!(readers.len(), 1);
    }

    #[test]
    fn five_without_epoch_and_an_epoch_ends_them_all() {
        let mut readers = Readers::new(PartitionId(0), 100);
        for _ in 0..5 {
            open(&mut readers, None, "plain").unwrap();
        }
        let exhausted = EngineError::ReadersExhausted { reader_count_max: 5 };
        assert_eq!(open(&mut readers, None, "sixth").unwrap_err(), exhausted);
        assert!(
            readers.admit(ConsumerGroupId(2), None).unwrap().is_empty(),
            "other groups are not concerned"
        );
        readers.open(reader(ConsumerGroupId(2), None, "other")).unwrap();
        assert_eq!(open(&mut readers, Some(0), "owner").unwrap().1, 5);
        assert_eq!((readers.len(), readers.of_group(GROUP).len()), (2, 1));
    }

    #[test]
    fn names_are_cut_at_a_character() {
        let mut readers = Readers::new(PartitionId(0), 1);
        let id = readers.open(reader(GROUP, None, &"ä".repeat(1000))).unwrap();
        assert_eq!(readers.find_mut(id).unwrap().name.as_ref().unwrap().len(), READER_NAME_BYTES_MAX);
        assert!(readers.open(reader(GROUP, None, "")).is_none(), "the table is full");
    }
}
