//! Who is attached: one live session per device, the newest connection's.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use registry::{DeviceId, GenerationId};

use crate::event::AuthMethod;
use crate::monitor::Protocol;
use crate::request::{ConnectionId, PartitionId, SessionEnd, SessionId};
use crate::slots::{SlotKey, Slots};

/// A device that is attached.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Through which connection; no other may append for it.
    pub connection: ConnectionId,
    /// Which device.
    pub device: DeviceId,
    /// Which of the identities of that id: goes into every event.
    pub generation: GenerationId,
    /// How it proved who it is: goes into every event.
    pub auth: AuthMethod,
    /// How it came.
    pub protocol: Protocol,
    /// When, on the monotonic clock.
    pub opened_mono_ms: u64,
    /// Last attach or event, milliseconds since 1970.
    pub last_activity_ms: u64,
    /// Its receiver of commands.
    pub receiver: Option<SlotKey>,
}

/// When a device was last seen, as far as this run knows. Milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// When it last attached or left; 0: it never did.
    pub connection_updated_ms: u64,
    /// Its last attach or event.
    pub last_activity_ms: u64,
}

/// The live sessions of one partition.
#[derive(Debug)]
pub(crate) struct Sessions {
    partition: PartitionId,
    slots: Slots<Session, Option<SessionEnd>>,
    by_device: HashMap<DeviceId, SlotKey, RandomState>,
    by_connection: HashMap<ConnectionId, Vec<SlotKey>, RandomState>,
    activity: HashMap<DeviceId, Activity, RandomState>,
}

impl Sessions {
    /// None yet, and at most `session_count_max`.
    pub fn new(partition: PartitionId, session_count_max: u32) -> Self {
        Self {
            partition,
            slots: Slots::new(session_count_max),
            by_device: HashMap::default(),
            by_connection: HashMap::default(),
            activity: HashMap::default(),
        }
    }

    /// Live sessions.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The device's live session.
    pub fn of_device(&self, device: &DeviceId) -> Option<(SessionId, &Session)> {
        let key = *self.by_device.get(device)?;
        Some((self.id(key), self.slots.find(key)?))
    }

    /// When the device was last seen.
    pub fn activity(&self, device: &DeviceId) -> Option<Activity> {
        let mut activity = self.activity.get(device).copied()?;
        if let Some((_, session)) = self.of_device(device) {
            activity.last_activity_ms = activity.last_activity_ms.max(session.last_activity_ms);
        }
        Some(activity)
    }

    /// Put a session in. The device must have none. None: the table is full.
    pub fn open(&mut self, session: Session, wall_ms: u64) -> Option<SessionId> {
        let (device, connection) = (session.device.clone(), session.connection);
        let key = self.slots.insert(session).ok()?;
        let earlier = self.by_device.insert(device.clone(), key);
        assert!(earlier.is_none(), "a device has one live session");
        self.by_connection.entry(connection).or_default().push(key);
        self.activity.insert(device, Activity { connection_updated_ms: wall_ms, last_activity_ms: wall_ms });
        Some(self.id(key))
    }

    /// A live session, if it is this connection's.
    ///
    /// # Errors
    ///
    /// Why it ended, as far as that is still known.
    pub fn find_mut(
        &mut self,
        id: SessionId,
        connection: ConnectionId,
    ) -> Result<&mut Session, Option<SessionEnd>> {
        let key = key(id);
        match self.slots.find(key) {
            Some(session) if session.connection == connection => {}
            _ => return Err(self.slots.mark(key).flatten()),
        }
        self.slots.find_mut(key).ok_or(None)
    }

    /// Take a session out, if it still lives. The reason stays known until its slot is used again.
    pub fn end(&mut self, id: SessionId, reason: Option<SessionEnd>, wall_ms: u64) -> Option<Session> {
        let key = key(id);
        let session = self.slots.remove(key, reason)?;
        self.by_device.remove(&session.device);
        if let Some(keys) = self.by_connection.get_mut(&session.connection) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_connection.remove(&session.connection);
            }
        }
        let seen = self.activity.entry(session.device.clone()).or_default();
        seen.connection_updated_ms = wall_ms;
        seen.last_activity_ms = seen.last_activity_ms.max(session.last_activity_ms);
        Some(session)
    }

    /// The sessions of a connection.
    pub fn of_connection(&self, connection: ConnectionId) -> Vec<SessionId> {
        let keys = self.by_connection.get(&connection);
        keys.map(|keys| keys.iter().map(|key| self.id(*key)).collect()).unwrap_or_default()
    }

    /// A device has shown that it lives without being attached.
    pub fn touch(&mut self, device: &DeviceId, wall_ms: u64) {
        let seen = match self.activity.get_mut(device) {
            Some(seen) => seen,
            None => self.activity.entry(device.clone()).or_default(),
        };
        seen.last_activity_ms = seen.last_activity_ms.max(wall_ms);
    }

    /// The identity is gone: what was known of it is forgotten.
    pub fn forget(&mut self, device: &DeviceId) {
        self.activity.remove(device);
    }

    fn id(&self, key: SlotKey) -> SessionId {
        SessionId { partition: self.partition, slot: key.slot, generation: key.generation }
    }
}

fn key(id: SessionId) -> SlotKey {
    SlotKey { slot: id.slot, generation: id.generation }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::CoreId;

    fn connection(slot: u32) -> ConnectionId {
        ConnectionId { core: CoreId(0), slot, generation: 0 }
    }

    fn session(device: &str, connection: ConnectionId) -> Session {
        Session {
            connection,
            device: DeviceId::parse(device).unwrap(),
            generation: GenerationId(1),
            auth: AuthMethod::DeviceSas,
            protocol: Protocol::Amqps,
            opened_mono_ms: 5,
            last_activity_ms: 1000,
            receiver: None,
        }
    }

    #[test]
    fn a_session_is_reached_by_its_own_connection_alone() {
        let mut sessions = Sessions::new(PartitionId(3), 10);
        let id = sessions.open(session("a", connection(1)), 1000).unwrap();
        assert_eq!(id.partition, PartitionId(3));
        assert!(sessions.find_mut(id, connection(1)).is_ok());
        assert_eq!(sessions.find_mut(id, connection(2)).unwrap_err(), None);
        sessions.end(id, Some(SessionEnd::Stolen), 2000).unwrap();
        assert_eq!(sessions.find_mut(id, connection(1)).unwrap_err(), Some(SessionEnd::Stolen));
        assert!(sessions.end(id, None, 3000).is_none());
        let next = sessions.open(session("a", connection(2)), 4000).unwrap();
        assert_eq!(sessions.find_mut(id, connection(1)).unwrap_err(), Some(SessionEnd::Stolen));
        assert!(sessions.find_mut(next, connection(2)).is_ok());
    }

    #[test]
    fn activity_outlives_the_session_and_ends_with_the_identity() {
        let mut sessions = Sessions::new(PartitionId(0), 10);
        let id = sessions.open(session("a", connection(1)), 1000).unwrap();
        let device = DeviceId::parse("a").unwrap();
        sessions.find_mut(id, connection(1)).unwrap().last_activity_ms = 1500;
        let seen =
            |connection_updated_ms, last_activity_ms| Activity { connection_updated_ms, last_activity_ms };
        assert_eq!(sessions.activity(&device), Some(seen(1000, 1500)));
        sessions.end(id, None, 2000);
        assert_eq!(sessions.activity(&device), Some(seen(2000, 1500)));
        sessions.forget(&device);
        assert_eq!(sessions.activity(&device), None);
    }

    #[test]
    fn a_connection_has_many_sessions_and_leaves_nothing_behind() {
        let mut sessions = Sessions::new(PartitionId(0), 3);
        let ids: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|device| sessions.open(session(device, connection(1)), 0).unwrap())
            .collect();
        assert!(sessions.open(session("d", connection(1)), 0).is_none(), "the table is full");
        assert_eq!(sessions.of_connection(connection(1)), ids);
        for id in ids {
            sessions.end(id, None, 0);
        }
        assert_eq!((sessions.len(), sessions.by_connection.len(), sessions.by_device.len()), (0, 0, 0));
    }
}
