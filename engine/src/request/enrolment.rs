//! The door's part for enrolments and the registrations of devices.

use registry::{
    Assignment, DeviceId, DeviceKeys, Enrolment, EnrolmentDraft, EnrolmentId, EnrolmentKind, EnrolmentName,
    EnrolmentRef, GenerationId, Registration,
};

use super::{IfMatch, PartitionId, SecretText};
use crate::monitor::Protocol;
use crate::placement::{HUB_PARTITION, device_partition};

/// What is asked about enrolments and registrations. Replies: [`EnrolmentReply`], or [`Reply::Done`](super::Reply::Done)
/// where it says so.
///
/// A device registers by four questions, each asked when the one before is answered: [`EnrolmentRequest::Attest`], perhaps
/// [`EnrolmentRequest::AttestByGroup`], [`EnrolmentRequest::Assign`], [`EnrolmentRequest::Register`].
#[derive(Clone, Debug)]
pub enum EnrolmentRequest {
    /// Verify a device's token against its single enrolment. Reply: [`EnrolmentReply::Attested`], or
    /// [`EnrolmentReply::AskGroups`] where there is none.
    Attest(Proof),
    /// Verify a device's token against enrolment groups. Reply: [`EnrolmentReply::Attested`].
    AttestByGroup {
        /// What the device shows.
        proof: Proof,
        /// The group that has the device, if one has: no other is tried as long as that exists.
        group: Option<EnrolmentRef>,
    },
    /// Make the identity, or see that it is as it should be. Reply: [`EnrolmentReply::Assigned`] once durable.
    Assign(Box<Attested>),
    /// Record what came of it. Reply: [`EnrolmentReply::Registration`] once durable.
    Register(Assignment),
    /// What came of a registration. Reply: [`EnrolmentReply::Registration`].
    FindRegistration {
        /// Which.
        registration: EnrolmentId,
    },
    /// Forget what came of a registration. Reply: `Done` once durable.
    DeleteRegistration {
        /// Which.
        registration: EnrolmentId,
        /// Its condition.
        if_match: IfMatch,
    },
    /// Registrations in one partition. Reply: [`EnrolmentReply::Registrations`].
    ListRegistrations {
        /// The partition.
        partition: PartitionId,
        /// By which enrolment; none: by any.
        enrolment: Option<EnrolmentRef>,
        /// Only ids behind this one.
        after: Option<EnrolmentId>,
        /// Most in the reply.
        count_max: u32,
    },
    /// Forget what came of a deleted group. Reply: `Done` once durable.
    DropRegistrations {
        /// The partition.
        partition: PartitionId,
        /// Of which.
        enrolment: EnrolmentRef,
    },
    /// Create an enrolment. Reply: [`EnrolmentReply::Enrolment`] once durable.
    Create(EnrolmentDraft),
    /// Change an enrolment. Reply: [`EnrolmentReply::Enrolment`] once durable.
    Update {
        /// What it shall be.
        draft: EnrolmentDraft,
        /// Its condition.
        if_match: IfMatch,
    },
    /// Delete an enrolment; of a group the caller then sends [`EnrolmentRequest::DropRegistrations`] to every partition.
    /// Reply: [`EnrolmentReply::Enrolment`] (what was deleted) once durable.
    Delete {
        /// Which.
        name: EnrolmentName,
        /// Its condition.
        if_match: IfMatch,
    },
    /// Read an enrolment. Reply: [`EnrolmentReply::Enrolment`].
    Find {
        /// Which.
        name: EnrolmentName,
    },
    /// Enrolments of one kind in one partition. Reply: [`EnrolmentReply::Enrolments`].
    List {
        /// The partition.
        partition: PartitionId,
        /// Single ones or groups.
        kind: EnrolmentKind,
        /// Only ids behind this one.
        after: Option<EnrolmentId>,
        /// Most in the reply.
        count_max: u32,
    },
}

/// What a device shows of itself.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Who it says it is.
    pub registration: EnrolmentId,
    /// The scope that its token has to be for, without case.
    pub scope: String,
    /// The whole token text. Never logged.
    pub token: SecretText,
    /// How it was presented, for monitoring.
    pub protocol: Protocol,
}

/// A device that has proven itself, and what it is to get.
#[derive(Clone, Debug)]
pub struct Attested {
    /// Who it is.
    pub registration: EnrolmentId,
    /// The enrolment that lets it in.
    pub enrolment: EnrolmentRef,
    /// The identity.
    pub device: DeviceId,
    /// The identity's keys.
    pub keys: DeviceKeys,
}

/// The answers about enrolments and registrations.
#[derive(Clone, Debug)]
pub enum EnrolmentReply {
    /// The token is good.
    Attested(Box<Attested>),
    /// There is no single enrolment: groups are to be asked.
    AskGroups {
        /// The one that has the device already.
        group: Option<EnrolmentRef>,
    },
    /// The identity is there with its keys.
    Assigned {
        /// Which of the identities of its id.
        generation: GenerationId,
    },
    /// What came of the registration.
    Registration(Box<Registration>),
    /// What came of registrations, in the order of their ids.
    Registrations(Page<Registration>),
    /// The enrolment.
    Enrolment(Box<Enrolment>),
    /// Enrolments, in the order of their ids.
    Enrolments(Page<Enrolment>),
}

/// A part of an ordered list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// What was found.
    pub items: Vec<T>,
    /// Where the search ended, if there may be more behind.
    pub rest: Option<EnrolmentId>,
}

impl EnrolmentRequest {
    /// Whose partition answers this: single enrolments and registrations lie where a device of their id would.
    pub fn partition(&self, partition_count: u16) -> PartitionId {
        let of_id = |id: &EnrolmentId| device_partition(id.device(), partition_count);
        let of_name = |name: &EnrolmentName| match name.kind {
            EnrolmentKind::Single => of_id(&name.id),
            EnrolmentKind::Group => HUB_PARTITION,
        };
        match self {
            Self::Attest(proof) => of_id(&proof.registration),
            Self::AttestByGroup { .. } => HUB_PARTITION,
            Self::Assign(attested) => device_partition(&attested.device, partition_count),
            Self::Register(assignment) => of_id(&assignment.registration),
            Self::FindRegistration { registration } | Self::DeleteRegistration { registration, .. } => {
                of_id(registration)
            }
            Self::ListRegistrations { partition, .. }
            | Self::DropRegistrations { partition, .. }
            | Self::List { partition, .. } => *partition,
            Self::Create(draft) | Self::Update { draft, .. } => of_name(&draft.name),
            Self::Delete { name, .. } | Self::Find { name } => of_name(name),
        }
    }
}
