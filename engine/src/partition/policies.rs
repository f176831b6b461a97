//! Shared access policies: read, changed and deleted, and what rests on them ended.

use registry::PolicyName;
use segment_log::storage::Storage;

use super::{Partition, Turn, refused};
use crate::event_log::EventLog;
use crate::monitor::{MonitorEvent, Protocol};
use crate::request::{
    ConnectionId, EngineError, Notice, PolicyRequest, PolicyView, Principal, Reply, UnauthorizedReason,
};

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// Take a question about policies.
    pub(super) fn handle_policy(
        &mut self,
        request: PolicyRequest,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        match request {
            PolicyRequest::List => {
                let views = self.store.policies().iter().map(view);
                Ok(Reply::Policies(views.collect()))
            }
            PolicyRequest::Find { name } => self.find_policy(&name),
            PolicyRequest::Put(draft) => {
                let name = draft.name.clone();
                let change = self.store.plan_put_policy(draft, turn.random).map_err(refused)?;
                self.journal_change(change, turn)?;
                self.revoke_policy(&name, turn);
                self.find_policy(name.as_str())
            }
            PolicyRequest::Delete { name } => {
                let change = self.store.plan_delete_policy(&name).map_err(refused)?;
                let name = PolicyName::parse(&name).map_err(refused)?;
                self.journal_change(change, turn)?;
                self.revoke_policy(&name, turn);
                Ok(Reply::Done)
            }
        }
    }

    /// A policy with its keys.
    fn find_policy(&self, name: &str) -> Result<Reply, EngineError> {
        let policy = self.store.policy(name).ok_or(EngineError::PolicyNotFound)?;
        Ok(Reply::Policy(Box::new(view(policy))))
    }

    /// A connection is granted something. Over HTTPS each request proves itself anew, so nothing is held.
    pub(super) fn note_grant(&mut self, connection: ConnectionId, principal: &Principal, protocol: Protocol) {
        if let Principal::Policy { name, .. } = principal
            && protocol != Protocol::Https
        {
            self.policy_holders.note(connection, name);
        }
    }

    /// A policy is not what it was. Before the change is durable, because a right that is taken must not be used while the
    /// disk is slow. Notices overtake replies: a grant that is on its way out is taken back first.
    fn revoke_policy(&mut self, name: &PolicyName, turn: &mut Turn<'_>) {
        let waiting = self.journal.waiting_replies();
        for reply in waiting.chain(turn.out.replies.iter_mut().map(|(_, reply)| reply)) {
            let is_of_it =
                |principal: &Principal| matches!(principal, Principal::Policy { name: of, .. } if of == name);
            if matches!(reply, Reply::Authenticated(grant) if is_of_it(&grant.principal)) {
                *reply = Reply::Failed(EngineError::Unauthorized(UnauthorizedReason::Stale));
            }
        }
        for connection in self.policy_holders.take(name) {
            turn.out.notify(connection, Notice::PolicyChanged { name: name.clone() });
        }
        turn.out.counters.policy_changes += 1;
        turn.out.monitor(MonitorEvent::PolicyChanged { at_ms: turn.now.wall_ms, name: name.clone() });
    }
}

fn view(policy: &registry::Policy) -> PolicyView {
    PolicyView { name: policy.name.clone(), rights: policy.rights, keys: policy.keys.clone() }
}
