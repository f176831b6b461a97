//! Who may come in: tokens and keys, and the sessions that devices attach with.

use registry::{Device, DeviceId, DeviceStatus};
use segment_log::storage::Storage;

use super::{Partition, Turn};
use crate::access::{self, Refusal};
use crate::event_log::EventLog;
use crate::monitor::{Claim, MonitorEvent, Protocol};
use crate::request::{
    ConnectionId, EngineError, Grant, Notice, Principal, Reply, SecretText, SessionEnd, SessionId,
};
use crate::sessions::Session;

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// Verify a token.
    pub(super) fn authenticate(
        &mut self,
        connection: ConnectionId,
        token: &SecretText,
        protocol: Protocol,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let now_s = turn.now.wall_ms / 1000;
        let verified = access::verify_token(&self.store, &turn.config.access, token.reveal(), now_s);
        self.granted(connection, verified, protocol, turn)
    }

    /// Verify the text of a policy's key.
    pub(super) fn authenticate_policy_key(
        &mut self,
        connection: ConnectionId,
        name: &str,
        key: &SecretText,
        protocol: Protocol,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let verified = access::verify_policy_key(&self.store, name, key.reveal());
        self.granted(connection, verified, protocol, turn)
    }

    /// Verify the text of a device's key.
    pub(super) fn authenticate_device_key(
        &mut self,
        connection: ConnectionId,
        device: &DeviceId,
        key: &SecretText,
        protocol: Protocol,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let verified = access::verify_device_key(&self.store, device, key.reveal());
        self.granted(connection, verified, protocol, turn)
    }

    fn granted(
        &mut self,
        connection: ConnectionId,
        verified: Result<Grant, Refusal>,
        protocol: Protocol,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let grant = verified.map_err(|refusal| refuse(refusal, protocol, turn))?;
        self.note_grant(connection, &grant.principal, protocol);
        Ok(Reply::Authenticated(grant))
    }

    /// A device attaches. The newest connection wins: an older one's session ends here and now, so that nothing of it is
    /// stored behind what the newer one sends.
    pub(super) fn open_session(
        &mut self,
        connection: ConnectionId,
        id: DeviceId,
        grant: &Grant,
        protocol: Protocol,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let now_s = turn.now.wall_ms / 1000;
        let checked = access::check_session(&self.store, &turn.config.access, &id, grant, now_s);
        let (device, auth) = checked.map_err(|error| refuse_grant(grant, error, protocol, turn))?;
        if let Some((live, session)) = self.sessions.of_device(&id) {
            if session.connection == connection {
                // Another link, or a renewed token, of the same connection.
                if let Ok(session) = self.sessions.find_mut(live, connection) {
                    session.auth = auth;
                    session.protocol = protocol;
                }
                return Ok(Reply::SessionOpened(live));
            }
            self.end_session_with_notice(live, SessionEnd::Stolen, turn);
        }
        let generation = device.generation;
        self.activate(&device, turn);
        let session = Session {
            connection,
            device: id.clone(),
            generation,
            auth,
            protocol,
            opened_mono_ms: turn.now.mono_ms,
            last_activity_ms: turn.now.wall_ms,
            receiver: None,
        };
        let at_ms = turn.now.wall_ms;
        let opened = self.sessions.open(session, at_ms).ok_or(EngineError::Busy)?;
        turn.out.counters.connects += 1;
        turn.out.monitor(MonitorEvent::DeviceConnected { at_ms, device: id, generation, protocol, auth });
        Ok(Reply::SessionOpened(opened))
    }

    /// The device left.
    pub(super) fn close_session(&mut self, connection: ConnectionId, id: SessionId, turn: &mut Turn<'_>) {
        if self.sessions.find_mut(id, connection).is_ok() {
            self.end_session(id, None, turn);
        }
    }

    /// End a session and leave word of it. Whether there was one.
    pub(super) fn end_session(
        &mut self,
        id: SessionId,
        reason: Option<SessionEnd>,
        turn: &mut Turn<'_>,
    ) -> Option<Session> {
        let at_ms = turn.now.wall_ms;
        let session = self.sessions.end(id, reason, at_ms)?;
        if let Some(receiver) = session.receiver {
            self.end_receiver(receiver, turn);
        }
        turn.out.counters.disconnects += 1;
        turn.out.monitor(MonitorEvent::DeviceDisconnected {
            at_ms,
            device: session.device.clone(),
            generation: session.generation,
            protocol: session.protocol,
            reason,
            duration_ms: turn.now.mono_ms.saturating_sub(session.opened_mono_ms),
        });
        Some(session)
    }

    fn end_session_with_notice(&mut self, id: SessionId, reason: SessionEnd, turn: &mut Turn<'_>) {
        if let Some(session) = self.end_session(id, Some(reason), turn) {
            turn.out.notify(session.connection, Notice::SessionEnded { session: id, reason });
        }
    }

    /// An identity changed: end the session that no longer may be. Before the change is durable, because a right that is
    /// taken must not be used while the disk is slow.
    pub(super) fn revoke(&mut self, before: &Device, after: Option<&Device>, turn: &mut Turn<'_>) {
        let reason = match after {
            None => SessionEnd::Deleted,
            Some(after) if after.status == DeviceStatus::Disabled => SessionEnd::Disabled,
            Some(after) if after.keys_version != before.keys_version => SessionEnd::KeysChanged,
            Some(_) => return,
        };
        if let Some((id, _)) = self.sessions.of_device(&before.id) {
            self.end_session_with_notice(id, reason, turn);
        }
    }
}

/// Leave word that a grant does not let its holder act for a device.
pub(super) fn refuse_grant(
    grant: &Grant,
    error: EngineError,
    protocol: Protocol,
    turn: &mut Turn<'_>,
) -> EngineError {
    let claim = match &grant.principal {
        Principal::Device { device, .. } => Claim::Device(device.clone()),
        Principal::Policy { name, .. } => Claim::Policy(name.clone()),
    };
    refuse(Refusal { claim, error }, protocol, turn)
}

/// Leave word of a refusal; what the caller is told is its reason.
pub(super) fn refuse(refusal: Refusal, protocol: Protocol, turn: &mut Turn<'_>) -> EngineError {
    let Refusal { claim, error } = refusal;
    turn.out.counters.refusals += 1;
    let at_ms = turn.now.wall_ms;
    turn.out.monitor(MonitorEvent::AccessRefused { at_ms, claim, protocol, error: error.clone() });
    error
}
