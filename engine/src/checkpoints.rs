//! How far each consumer group has read a partition.

use std::collections::{BTreeMap, VecDeque};

use registry::ConsumerGroupId;

use crate::limits::{CHECKPOINT_COUNT_MAX, DROPPED_GROUP_COUNT_MAX};
use crate::request::{EngineError, SequenceNumber};

/// The checkpoints of one partition: for each group the last event that needs no more reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoints {
    numbers: BTreeMap<ConsumerGroupId, SequenceNumber>,
    dropped: VecDeque<ConsumerGroupId>,
}

impl Checkpoints {
    /// The group's checkpoint.
    pub fn find(&self, group: ConsumerGroupId) -> Option<SequenceNumber> {
        self.numbers.get(&group).copied()
    }

    /// Whether a checkpoint may be put, and whether that changes anything: without `force` it only goes forward. `next` is
    /// the end of the durable events.
    pub fn check(
        &self,
        group: ConsumerGroupId,
        number: SequenceNumber,
        force: bool,
        next: SequenceNumber,
    ) -> Result<bool, EngineError> {
        if self.is_dropped(group) {
            return Err(EngineError::ConsumerGroupNotFound);
        }
        if number >= next {
            return Err(EngineError::CheckpointBeyondEnd { number: number.0, last: next.0.checked_sub(1) });
        }
        match self.find(group) {
            Some(present) => Ok(number > present || (force && number != present)),
            None if self.numbers.len() >= CHECKPOINT_COUNT_MAX => {
                Err(EngineError::ConsumerGroupInvalid("the partition has too many checkpoints"))
            }
            None => Ok(true),
        }
    }

    /// Set a checkpoint.
    pub fn put(&mut self, group: ConsumerGroupId, number: SequenceNumber) {
        self.numbers.insert(group, number);
    }

    /// Forget a group's checkpoint.
    pub fn drop_group(&mut self, group: ConsumerGroupId) {
        self.numbers.remove(&group);
    }

    /// Remember for a while that the group is gone, for requests that are on their way.
    pub fn mark_dropped(&mut self, group: ConsumerGroupId) {
        if self.is_dropped(group) {
            return;
        }
        if self.dropped.len() >= DROPPED_GROUP_COUNT_MAX {
            self.dropped.pop_front();
        }
        self.dropped.push_back(group);
    }

    /// Whether the group was deleted in this run.
    pub fn is_dropped(&self, group: ConsumerGroupId) -> bool {
        self.dropped.contains(&group)
    }

    /// All of them, by group.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ConsumerGroupId, SequenceNumber)> {
        self.numbers.iter().map(|(group, number)| (*group, *number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: ConsumerGroupId = ConsumerGroupId(4);

    #[test]
    fn checkpoints_go_forward_unless_forced() {
        let mut checkpoints = Checkpoints::default();
        let check = |checkpoints: &Checkpoints, number, force| {
            checkpoints.check(GROUP, SequenceNumber(number), force, SequenceNumber(10))
        };
        assert_eq!(check(&checkpoints, 5, false), Ok(true));
        checkpoints.put(GROUP, SequenceNumber(5));
        assert_eq!(check(&checkpoints, 5, false), Ok(false));
        assert_eq!(check(&checkpoints, 5, true), Ok(false));
        assert_eq!(check(&checkpoints, 4, false), Ok(false));
        assert_eq!(check(&checkpoints, 4, true), Ok(true));
        assert_eq!(check(&checkpoints, 9, false), Ok(true));
        let beyond = EngineError::CheckpointBeyondEnd { number: 10, last: Some(9) };
        assert_eq!(check(&checkpoints, 10, true), Err(beyond));
        let empty = checkpoints.check(GROUP, SequenceNumber(0), true, SequenceNumber(0));
        assert_eq!(empty, Err(EngineError::CheckpointBeyondEnd { number: 0, last: None }));
    }

    #[test]
    fn a_deleted_group_stays_known_for_a_while() {
        let mut checkpoints = Checkpoints::default();
        checkpoints.put(GROUP, SequenceNumber(1));
        checkpoints.drop_group(GROUP);
        checkpoints.mark_dropped(GROUP);
        let refused = checkpoints.check(GROUP, SequenceNumber(1), false, SequenceNumber(2));
        assert_eq!(refused, Err(EngineError::ConsumerGroupNotFound));
        for number in 100..100 + DROPPED_GROUP_COUNT_MAX as u64 {
            checkpoints.mark_dropped(ConsumerGroupId(number));
        }
        assert!(!checkpoints.is_dropped(GROUP));
    }

    #[test]
    fn there_is_a_limit() {
        let mut checkpoints = Checkpoints::default();
        for number in 0..CHECKPOINT_COUNT_MAX as u64 {
            checkpoints.put(ConsumerGroupId(number), SequenceNumber(0));
        }
        let next = SequenceNumber(10);
        assert!(checkpoints.check(ConsumerGroupId(u64::MAX), SequenceNumber(1), false, next).is_err());
        assert_eq!(checkpoints.check(ConsumerGroupId(3), SequenceNumber(1), false, next), Ok(true));
    }
}
