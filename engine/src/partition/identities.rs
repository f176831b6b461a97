//! Identities: planned against the present state, journaled, applied, answered once durable.

use registry::{Change, Device, DeviceDraft, DeviceId, ETag};
use segment_log::storage::Storage;

use super::{Partition, Turn, refused};
use crate::entry::Entry;
use crate::event_log::EventLog;
use crate::limits::{DEVICE_CHANGE_COUNT_MAX, DEVICE_PAGE_COUNT_MAX};
use crate::monitor::MonitorEvent;
use crate::placement::device_partition;
use crate::request::{DeviceChange, DeviceCounts, DeviceView, EngineError, IfMatch, Reply};

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// Create an identity.
    pub(super) fn create_device(
        &mut self,
        draft: DeviceDraft,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let device = draft.device.clone();
        let change = self.store.plan_create(draft, turn.now.wall_ms, turn.random).map_err(refused)?;
        self.journal_change(change, turn)?;
        self.count_change(turn, |at_ms| MonitorEvent::DeviceCreated { at_ms, device: device.clone() });
        self.find_device(&device)
    }

    /// Change an identity; ends its session where it may no longer be.
    pub(super) fn update_device(
        &mut self,
        draft: DeviceDraft,
        if_match: &IfMatch,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let id = draft.device.clone();
        let before = self.present(&id)?;
        let change = self.store.plan_update(draft, etag(if_match), turn.now.wall_ms).map_err(refused)?;
        self.journal_change(change, turn)?;
        let after = self.present(&id)?;
        self.revoke(&before, Some(&after), turn);
        self.count_change(turn, |at_ms| MonitorEvent::DeviceUpdated { at_ms, device: id });
        Ok(Reply::Device(Box::new(self.view(after))))
    }

    /// Delete an identity and end its queue and its session.
    pub(super) fn delete_device(
        &mut self,
        id: &DeviceId,
        if_match: &IfMatch,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let before = self.present(id)?;
        let change = self.store.plan_delete(id, etag(if_match)).map_err(refused)?;
        self.journal_change(change, turn)?;
        turn.out.counters.commands_dropped += u64::from(self.commands.drop_device(id));
        self.revoke(&before, None, turn);
        self.sessions.forget(id);
        self.count_change(turn, |at_ms| MonitorEvent::DeviceDeleted { at_ms, device: id.clone() });
        Ok(Reply::Done)
    }

    /// Make many changes, each for itself. Their records leave in one commit.
    pub(super) fn change_devices(&mut self, changes: Vec<DeviceChange>, turn: &mut Turn<'_>) -> Reply {
        let mut done_count = 0;
        let mut change = |change: DeviceChange| {
            let owner = device_partition(change.device(), turn.config.partition_count);
            if owner != self.id {
                return Err(EngineError::PartitionNotFound(u64::from(owner.0)));
            }
            if done_count >= DEVICE_CHANGE_COUNT_MAX {
                return Err(EngineError::Busy);
            }
            done_count += 1;
            let reply = match change {
                DeviceChange::Create(draft) => self.create_device(draft, turn),
                DeviceChange::Update { draft, if_match } => self.update_device(draft, &if_match, turn),
                DeviceChange::Delete { device, if_match } => self.delete_device(&device, &if_match, turn),
            };
            reply.map(|_| ())
        };
        Reply::DevicesChanged(changes.into_iter().map(&mut change).collect())
    }

    /// Read an identity.
    pub(super) fn find_device(&self, id: &DeviceId) -> Result<Reply, EngineError> {
        Ok(Reply::Device(Box::new(self.view(self.present(id)?))))
    }

    /// A page of identities in the order of their ids.
    pub(super) fn list_devices(
        &self,
        after: Option<&DeviceId>,
        count_max: u32,
    ) -> Result<Reply, EngineError> {
        let count_max = count_max.min(DEVICE_PAGE_COUNT_MAX) as usize;
        let page = self.store.devices_after(after, count_max).map_err(refused)?;
        Ok(Reply::Devices(page.into_iter().map(|device| self.view(device)).collect()))
    }

    /// How many identities there are, and how many are attached.
    pub(super) fn count_devices(&self) -> DeviceCounts {
        let count = self.store.count();
        let connected = self.sessions.len() as u64;
        DeviceCounts { enabled: count.enabled, disabled: count.disabled, connected }
    }

    /// Append a change to the journal and, if that was taken, apply it.
    pub(super) fn journal_change(&mut self, change: Change, turn: &mut Turn<'_>) -> Result<(), EngineError> {
        let entry = Entry::Registry(change);
        self.journal.append(&entry, turn.now)?;
        if let Entry::Registry(change) = entry {
            self.store.apply(change);
        }
        Ok(())
    }

    pub(super) fn present(&self, id: &DeviceId) -> Result<Device, EngineError> {
        self.store.device(id).map_err(refused)?.ok_or(EngineError::DeviceNotFound)
    }

    pub(super) fn count_change(&self, turn: &mut Turn<'_>, event: impl FnOnce(u64) -> MonitorEvent) {
        turn.out.counters.device_changes += 1;
        let event = event(turn.now.wall_ms);
        turn.out.monitor(event);
    }

    fn view(&self, device: Device) -> DeviceView {
        let activity = self.sessions.activity(&device.id);
        let command_count = self.commands.queues.status(&device.id).depth();
        DeviceView {
            connected: self.sessions.of_device(&device.id).is_some(),
            connection_updated_ms: activity.map(|seen| seen.connection_updated_ms).filter(|ms| *ms > 0),
            last_activity_ms: activity.map(|activity| activity.last_activity_ms),
            device: device.id,
            generation: device.generation,
            etag: device.etag,
            keys: device.keys,
            status: device.status,
            status_reason: device.status_reason,
            status_updated_ms: device.status_updated_ms,
            command_count,
            life: device.life,
        }
    }
}

pub(super) fn etag(if_match: &IfMatch) -> Option<ETag> {
    match if_match {
        IfMatch::Any => None,
        IfMatch::ETag(etag) => Some(*etag),
    }
}
