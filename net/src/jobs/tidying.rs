//! What came of enrolment groups that are gone: dropped once after each start.
//!
//! A group is deleted in one partition and what came of it in all of them. A hub that dies in between leaves registrations
//! that rest on nothing; so does a device that proved itself before the deletion and is recorded behind it.

use std::collections::HashSet;

use engine::limits::DEVICE_PAGE_COUNT_MAX;
use engine::request::{EnrolmentReply, EnrolmentRequest, Page, PartitionId, Reply, Request};
use registry::{EnrolmentId, EnrolmentKind, EnrolmentRef};

use super::worker::{Hub, Trouble};

/// Under way: one partition after the other, a page of registrations at a time.
#[derive(Debug, Default)]
pub(super) struct Tidying {
    partition: u16,
    after: Option<EnrolmentId>,
    /// The groups that the partition's registrations so far rest on.
    groups: HashSet<EnrolmentRef>,
}

impl Tidying {
    /// Do the next page. True: that was the last one.
    pub(super) fn step(&mut self, hub: &Hub) -> Result<bool, Trouble> {
        if self.partition == hub.partition_count {
            return Ok(true);
        }
        let partition = PartitionId(self.partition);
        let list = EnrolmentRequest::ListRegistrations {
            partition,
            enrolment: None,
            after: self.after.take(),
            count_max: DEVICE_PAGE_COUNT_MAX,
        };
        let Page { items, rest } = match ask(hub, list)? {
            Reply::Enrolment(EnrolmentReply::Registrations(page)) => page,
            reply => return Err(Trouble::unexpected(reply)),
        };
        let groups = items.iter().map(|registration| registration.enrolment);
        self.groups.extend(groups.filter(|enrolment| enrolment.kind == EnrolmentKind::Group));
        self.after = rest;
        if self.after.is_none() {
            self.drop_orphans(partition, hub)?;
            self.partition += 1;
        }
        Ok(false)
    }

    /// The groups are read behind the registrations, and none comes back: what is not among them has been deleted.
    fn drop_orphans(&mut self, partition: PartitionId, hub: &Hub) -> Result<(), Trouble> {
        if self.groups.is_empty() {
            return Ok(());
        }
        for group in read_groups(hub)? {
            self.groups.remove(&group);
        }
        for enrolment in self.groups.drain() {
            match ask(hub, EnrolmentRequest::DropRegistrations { partition, enrolment })? {
                Reply::Done => tracing::info!(
                    partition = partition.0,
                    "dropped the registrations of an enrolment group that was deleted"
                ),
                reply => return Err(Trouble::unexpected(reply)),
            }
        }
        Ok(())
    }
}

fn read_groups(hub: &Hub) -> Result<Vec<EnrolmentRef>, Trouble> {
    let (mut groups, mut after) = (Vec::new(), None);
    loop {
        let list = EnrolmentRequest::List {
            partition: engine::placement::HUB_PARTITION,
            kind: EnrolmentKind::Group,
            after: after.take(),
            count_max: DEVICE_PAGE_COUNT_MAX,
        };
        let Page { items, rest } = match ask(hub, list)? {
            Reply::Enrolment(EnrolmentReply::Enrolments(page)) => page,
            reply => return Err(Trouble::unexpected(reply)),
        };
        groups.extend(items.iter().map(|group| group.reference()));
        match rest {
            None => return Ok(groups),
            rest => after = rest,
        }
    }
}

fn ask(hub: &Hub, request: EnrolmentRequest) -> Result<Reply, Trouble> {
    hub.ask_patiently(&Request::Enrolment(request))
}
