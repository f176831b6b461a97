//! Enrolments, the registrations that rest on them, and the identities that come of those.

use registry::{
    Assignment, Change, Device, Enrolment, EnrolmentDraft, EnrolmentId, EnrolmentKind, EnrolmentName,
    EnrolmentRef,
};
use segment_log::storage::Storage;

use super::checking::refuse;
use super::identities::etag;
use super::{Partition, Turn, refused};
use crate::attestation::ReadProof;
use crate::event_log::EventLog;
use crate::limits::{DEVICE_PAGE_COUNT_MAX, REGISTRATIONS_PER_QUESTION};
use crate::monitor::MonitorEvent;
use crate::request::{Attested, EngineError, EnrolmentReply, EnrolmentRequest, IfMatch, Page, Proof, Reply};

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// Take a question about enrolments.
    pub(super) fn handle_enrolment(
        &mut self,
        request: EnrolmentRequest,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let reply = match request {
            EnrolmentRequest::Attest(proof) => self.attest(&proof, turn)?,
            EnrolmentRequest::AttestByGroup { proof, group } => self.attest_by_group(&proof, group, turn)?,
            EnrolmentRequest::Assign(attested) => self.assign(&attested, turn)?,
            EnrolmentRequest::Register(assignment) => self.register(assignment, turn)?,
            EnrolmentRequest::FindRegistration { registration } => self.find_registration(&registration)?,
            EnrolmentRequest::DeleteRegistration { registration, if_match } => {
                let change = self.store.plan_delete_registration(&registration, etag(&if_match));
                self.journal_change(change.map_err(refused)?, turn)?;
                return Ok(Reply::Done);
            }
            EnrolmentRequest::ListRegistrations { enrolment, after, count_max, .. } => {
                self.list_registrations(enrolment, after.as_ref(), count_max)
            }
            EnrolmentRequest::DropRegistrations { enrolment, .. } => {
                self.journal_change(Change::DropRegistrations { enrolment }, turn)?;
                return Ok(Reply::Done);
            }
            EnrolmentRequest::Create(draft) => self.create_enrolment(draft, turn)?,
            EnrolmentRequest::Update { draft, if_match } => self.update_enrolment(draft, &if_match, turn)?,
            EnrolmentRequest::Delete { name, if_match } => {
                let gone = self.present_enrolment(&name)?.clone();
                let change = self.store.plan_delete_enrolment(&name, etag(&if_match)).map_err(refused)?;
                self.journal_change(change, turn)?;
                EnrolmentReply::Enrolment(Box::new(gone))
            }
            EnrolmentRequest::Find { name } => self.find_enrolment(&name)?,
            EnrolmentRequest::List { kind, after, count_max, .. } => {
                self.list_enrolments(kind, after.as_ref(), count_max)
            }
        };
        Ok(Reply::Enrolment(reply))
    }

    fn attest(&self, proof: &Proof, turn: &mut Turn<'_>) -> Result<EnrolmentReply, EngineError> {
        let now_s = turn.now.wall_ms / 1000;
        let id = &proof.registration;
        let attested = ReadProof::read(proof).and_then(|read| {
            let name = EnrolmentName { kind: EnrolmentKind::Single, id: id.clone() };
            let single = self.store.enrolment(&name);
            single.map(|single| read.verify(single, &turn.config.access, now_s)).transpose()
        });
        match attested {
            Ok(Some(attested)) => Ok(EnrolmentReply::Attested(Box::new(attested))),
            Ok(None) => {
                let known = self.store.registration(id).map(|registration| registration.enrolment);
                Ok(EnrolmentReply::AskGroups {
                    group: known.filter(|known| known.kind == EnrolmentKind::Group),
                })
            }
            Err(refusal) => Err(refuse(refusal, proof.protocol, turn)),
        }
    }

    fn attest_by_group(
        &self,
        proof: &Proof,
        group: Option<EnrolmentRef>,
        turn: &mut Turn<'_>,
    ) -> Result<EnrolmentReply, EngineError> {
        let now_s = turn.now.wall_ms / 1000;
        let groups = || self.store.enrolments_after(EnrolmentKind::Group, None);
        let owner = groups().find(|found| Some(found.reference()) == group);
        let attested = ReadProof::read(proof).and_then(|read| match owner {
            Some(owner) => read.verify(owner, &turn.config.access, now_s),
            None => read.verify_with_any(groups(), &turn.config.access, now_s),
        });
        let attested = attested.map_err(|refusal| refuse(refusal, proof.protocol, turn))?;
        Ok(EnrolmentReply::Attested(Box::new(attested)))
    }

    fn assign(&mut self, attested: &Attested, turn: &mut Turn<'_>) -> Result<EnrolmentReply, EngineError> {
        let Attested { registration, device: id, keys, .. } = attested;
        let before = self.store.device(id).map_err(refused)?;
        let planned = self.store.plan_assign(registration, id, keys, turn.now.wall_ms).map_err(refused)?;
        if let Some(change) = planned {
            self.journal_change(change, turn)?;
            let (at_ms, device) = (turn.now.wall_ms, id.clone());
            match &before {
                None => self.count_change(turn, |_| MonitorEvent::DeviceCreated { at_ms, device }),
                Some(before) => {
                    let after = self.present(id)?;
                    self.revoke(before, Some(&after), turn);
                    self.count_change(turn, |_| MonitorEvent::DeviceUpdated { at_ms, device });
                }
            }
        }
        Ok(EnrolmentReply::Assigned { generation: self.present(id)?.generation })
    }

    fn register(
        &mut self,
        assignment: Assignment,
        turn: &mut Turn<'_>,
    ) -> Result<EnrolmentReply, EngineError> {
        let id = assignment.registration.clone();
        let change = self.store.plan_registration(assignment, turn.now.wall_ms).map_err(refused)?;
        self.journal_change(change, turn)?;
        turn.out.counters.registrations += 1;
        self.find_registration(&id)
    }

    /// A device is here. Its first time is kept; where the journal does not take that, its next time will be.
    pub(super) fn activate(&mut self, device: &Device, turn: &mut Turn<'_>) {
        if let Some(change) = self.store.plan_activate(device, turn.now.wall_ms) {
            let _ = self.journal_change(change, turn);
        }
    }

    fn create_enrolment(
        &mut self,
        draft: EnrolmentDraft,
        turn: &mut Turn<'_>,
    ) -> Result<EnrolmentReply, EngineError> {
        let name = draft.name.clone();
        let planned = self.store.plan_create_enrolment(draft, turn.now.wall_ms, turn.random);
        self.journal_change(planned.map_err(refused)?, turn)?;
        self.find_enrolment(&name)
    }

    fn update_enrolment(
        &mut self,
        draft: EnrolmentDraft,
        if_match: &IfMatch,
        turn: &mut Turn<'_>,
    ) -> Result<EnrolmentReply, EngineError> {
        let name = draft.name.clone();
        let planned = self.store.plan_update_enrolment(draft, etag(if_match), turn.now.wall_ms);
        self.journal_change(planned.map_err(refused)?, turn)?;
        self.find_enrolment(&name)
    }

    fn find_enrolment(&self, name: &EnrolmentName) -> Result<EnrolmentReply, EngineError> {
        Ok(EnrolmentReply::Enrolment(Box::new(self.present_enrolment(name)?.clone())))
    }

    fn present_enrolment(&self, name: &EnrolmentName) -> Result<&Enrolment, EngineError> {
        self.store.enrolment(name).ok_or(refused(registry::RegistryError::EnrolmentNotFound))
    }

    fn find_registration(&self, id: &EnrolmentId) -> Result<EnrolmentReply, EngineError> {
        let found = self.store.registration(id).cloned();
        let found = found.ok_or(refused(registry::RegistryError::RegistrationNotFound))?;
        Ok(EnrolmentReply::Registration(Box::new(found)))
    }

    fn list_enrolments(
        &self,
        kind: EnrolmentKind,
        after: Option<&EnrolmentId>,
        count_max: u32,
    ) -> EnrolmentReply {
        let count_max = count_max.min(DEVICE_PAGE_COUNT_MAX) as usize;
        let items: Vec<Enrolment> =
            self.store.enrolments_after(kind, after).take(count_max).cloned().collect();
        let is_full = items.len() == count_max;
        let rest = items.last().filter(|_| is_full).map(|last| last.name.id.clone());
        EnrolmentReply::Enrolments(Page { items, rest })
    }

    /// Looks at a bounded number of registrations, whomever they are by.
    fn list_registrations(
        &self,
        enrolment: Option<EnrolmentRef>,
        after: Option<&EnrolmentId>,
        count_max: u32,
    ) -> EnrolmentReply {
        let count_max = count_max.min(DEVICE_PAGE_COUNT_MAX) as usize;
        let mut items = Vec::new();
        let mut rest = None;
        for (looked_at, registration) in self.store.all_registrations_after(after).enumerate() {
            if enrolment.is_none_or(|enrolment| registration.enrolment == enrolment) {
                items.push(registration.clone());
            }
            if items.len() >= count_max || looked_at + 1 >= REGISTRATIONS_PER_QUESTION {
                rest = Some(registration.id.clone());
                break;
            }
        }
        EnrolmentReply::Registrations(Page { items, rest })
    }
}
