//! What a hub may know after a crash, given what was asked and answered before it: what was acknowledged is there, what was
//! not is whole or absent, nothing is invented.

use std::collections::BTreeMap;
use std::fmt::Debug;

use engine::request::*;
use registry::{ConsumerGroupId, DeviceStatus};

use crate::world::{World, connection, device};

pub const DEVICES: usize = 5;
pub const GROUPS: usize = 3;

/// The states of one thing, oldest first; those up to `acknowledged` can never be seen again but for that one itself.
#[derive(Debug)]
pub struct History<T> {
    states: Vec<Option<T>>,
    acknowledged: usize,
}

impl<T: Clone + PartialEq + Debug> History<T> {
    fn new() -> Self {
        Self { states: vec![None], acknowledged: 0 }
    }

    pub fn latest(&self) -> Option<&T> {
        self.states[self.states.len() - 1].as_ref()
    }

    pub fn index(&self) -> usize {
        self.states.len() - 1
    }

    fn push(&mut self, state: Option<T>) -> usize {
        self.states.push(state);
        self.index()
    }

    /// The state that was found after a crash: one not older than the last acknowledged. From now on it is the only one.
    fn found(&mut self, what: &str, state: Option<T>) {
        let possible = &self.states[self.acknowledged..];
        assert!(possible.contains(&state), "{what}: found {state:?}, possible {possible:?}");
        *self = Self { states: vec![state], acknowledged: 0 };
    }
}

/// Which thing a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    Device(usize),
    Group(usize),
    Checkpoint(PartitionId, ConsumerGroupId),
    /// What a device has subscribed to.
    Subscription(usize),
}

/// A change on its way.
#[derive(Debug)]
struct Pending {
    thing: Thing,
    index: usize,
}

/// Events on their way.
#[derive(Debug)]
struct PendingAppend {
    partition: usize,
    first: usize,
    count: usize,
}

#[derive(Default)]
pub struct Checker {
    /// Identities by the mark in their status reason, groups by the moment of their creation, checkpoints by number, subscriptions by
    /// the mark that is their address.
    pub histories: BTreeMap<Thing, History<u64>>,
    /// For each partition what was submitted, in order: the device and the body.
    pub events: Vec<Vec<(String, Vec<u8>)>>,
    acknowledged: Vec<usize>,
    batch_ends: Vec<Vec<usize>>,
    pending: BTreeMap<u64, Vec<Pending>>,
    pending_appends: BTreeMap<u64, PendingAppend>,
}

impl Checker {
    pub fn new(partition_count: usize) -> Self {
        Self {
            events: vec![Vec::new(); partition_count],
            acknowledged: vec![0; partition_count],
            batch_ends: vec![vec![0]; partition_count],
            ..Self::default()
        }
    }

    pub fn history(&mut self, thing: Thing) -> &mut History<u64> {
        self.histories.entry(thing).or_insert_with(History::new)
    }

    /// A change was handed over, and is done unless the shard refused it at once. Whether it is. A request that changes several
    /// things is told once for each.
    pub fn changed(&mut self, world: &mut World, token: u64, thing: Thing, state: Option<u64>) -> bool {
        match world.replies.get(&token) {
            Some(Reply::Failed(
                EngineError::Busy | EngineError::StorageFailed | EngineError::StorageFull,
            )) => {
                world.take(token);
                false
            }
            _ => {
                let index = self.history(thing).push(state);
                self.pending.entry(token).or_default().push(Pending { thing, index });
                true
            }
        }
    }

    /// Events were handed over. The refusal, if they were refused at once.
    pub fn appended(
        &mut self,
        world: &mut World,
        token: u64,
        number: usize,
        bodies: Vec<Vec<u8>>,
    ) -> Option<EngineError> {
        match world.take(token) {
            Some(Reply::Failed(error)) => Some(error),
            Some(reply) => panic!("answered before the turn ended: {reply:?}"),
            None => {
                let partition = usize::from(world.partition_of(number).0);
                let first = self.events[partition].len();
                let count = bodies.len();
                let id = device(number).as_str().to_owned();
                self.events[partition].extend(bodies.into_iter().map(|body| (id.clone(), body)));
                self.batch_ends[partition].push(first + count);
                self.pending_appends.insert(token, PendingAppend { partition, first, count });
                None
            }
        }
    }

    /// Take the answers that have come: each acknowledges what it answers.
    pub fn take_answers(&mut self, world: &mut World) {
        let answered: Vec<u64> = world.replies.keys().copied().collect();
        for token in answered {
            if let Some(append) = self.pending_appends.remove(&token) {
                match world.take(token) {
                    Some(Reply::Appended { first, event_count }) => {
                        assert_eq!((first.0 as usize, event_count as usize), (append.first, append.count));
                        let acknowledged = &mut self.acknowledged[append.partition];
                        assert_eq!(*acknowledged, append.first, "acknowledged in order");
                        *acknowledged = append.first + append.count;
                    }
                    Some(Reply::Failed(EngineError::StorageFailed)) => {}
                    reply => panic!("{reply:?}"),
                }
            } else if let Some(pending) = self.pending.remove(&token) {
                match world.take(token) {
                    Some(Reply::Failed(EngineError::StorageFailed)) => {}
                    Some(Reply::Failed(error)) => panic!("{pending:?} was refused: {error}"),
                    _ => {
                        for Pending { thing, index } in pending {
                            let history = self.history(thing);
                            history.acknowledged = history.acknowledged.max(index);
                        }
                    }
                }
            }
        }
    }

    /// Hold a hub that was just opened after a crash against what it may know.
    pub fn verify(&mut self, world: &mut World) {
        world.assert_healthy();
        self.pending.clear();
        self.pending_appends.clear();
        for number in 0..DEVICES {
            let found = world.find(number);
            // A disabled device cannot ask.
            if found.as_ref().is_none_or(|view| view.status == DeviceStatus::Enabled) {
                let subscription = found.as_ref().and_then(|_| world.subscription(number));
                self.history(Thing::Subscription(number)).found("subscription", subscription);
            }
            self.history(Thing::Device(number)).found("device", found.map(|view| mark(&view)));
        }
        self.verify_lists(world);
        let things: Vec<Thing> = self.histories.keys().copied().collect();
        for thing in things {
            if let Thing::Checkpoint(partition, group) = thing {
                let found = match world.ask(connection(99), Request::FindCheckpoint { partition, group }) {
                    Reply::Checkpoint(number) => number.map(|number| number.0),
                    reply => panic!("{reply:?}"),
                };
                self.history(thing).found("checkpoint", found);
            }
        }
        for partition in 0..self.events.len() {
            let found = world.read_all(PartitionId(partition as u16));
            let submitted = &mut self.events[partition];
            assert!(found.len() >= self.acknowledged[partition], "acknowledged events are lost");
            assert!(self.batch_ends[partition].contains(&found.len()), "a batch is there in part");
            for (index, (number, id, body)) in found.iter().enumerate() {
                assert_eq!((*number, id, body), (index as u64, &submitted[index].0, &submitted[index].1));
            }
            submitted.truncate(found.len());
            self.acknowledged[partition] = found.len();
            self.batch_ends[partition].retain(|end| *end <= found.len());
        }
    }

    /// Lists and counts agree with what single questions say.
    fn verify_lists(&mut self, world: &mut World) {
        let (mut listed, mut enabled) = (0, 0);
        for number in 0..self.events.len() {
            let partition = PartitionId(number as u16);
            let list = Request::ListDevices { partition, after: None, count_max: 100 };
            let Reply::Devices(devices) = world.ask(connection(99), list) else { panic!("no list") };
            let ids: Vec<_> = devices.iter().map(|view| view.device.clone()).collect();
            assert!(ids.is_sorted());
            listed += devices.len();
            enabled += devices.iter().filter(|view| view.status == DeviceStatus::Enabled).count();
            let Reply::DeviceCounts(counts) = world.ask(connection(99), Request::CountDevices { partition })
            else {
                panic!("no counts")
            };
            assert_eq!((counts.enabled + counts.disabled) as usize, devices.len());
        }
        let known = |checker: &Self| {
            let devices = (0..DEVICES).filter_map(|number| checker.histories.get(&Thing::Device(number)));
            devices.filter(|history| history.latest().is_some()).count()
        };
        assert_eq!(listed, known(self));
        assert!(enabled <= listed);

        let Reply::ConsumerGroups(groups) = world.ask(connection(99), Request::ListConsumerGroups) else {
            panic!("no groups")
        };
        assert!(groups.iter().any(|group| group.id == ConsumerGroupId::DEFAULT));
        for number in 0..GROUPS {
            let group = groups.iter().find(|group| group.name == group_name(number));
            self.history(Thing::Group(number)).found("group", group.map(|group| group.created_ms));
        }
        let known =
            (0..GROUPS).filter(|number| self.histories[&Thing::Group(*number)].latest().is_some()).count();
        assert_eq!(groups.len(), known + 1);
    }
}

pub fn group_name(number: usize) -> String {
    format!("group-{number}")
}

/// An identity's reason carries the mark of the change that made it so.
pub fn reason(mark: u64) -> Option<String> {
    Some(mark.to_string())
}

pub fn mark(view: &DeviceView) -> u64 {
    view.status_reason.as_ref().unwrap().parse().unwrap()
}
