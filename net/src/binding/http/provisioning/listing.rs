//! Ordered pages put together from those of all partitions.

use engine::request::Page;
use registry::{Enrolment, EnrolmentId, Registration};

/// What has an id to be ordered by.
pub(super) trait Named {
    fn id(&self) -> &EnrolmentId;
}

impl Named for Enrolment {
    fn id(&self) -> &EnrolmentId {
        &self.name.id
    }
}

impl Named for Registration {
    fn id(&self) -> &EnrolmentId {
        &self.id
    }
}

/// A page in the making.
#[derive(Debug)]
pub(super) struct Listing<T> {
    found: Vec<T>,
    /// Where the first partition that has more ended: nothing behind it is known yet.
    horizon: Option<EnrolmentId>,
    replies_left: u16,
    count_max: usize,
}

impl<T: Named> Listing<T> {
    pub(super) fn new(replies_left: u16, count_max: u32) -> Self {
        Self { found: Vec::new(), horizon: None, replies_left, count_max: count_max as usize }
    }

    /// Take a partition's page. The whole page, and where it goes on, when this was the last one.
    pub(super) fn take(&mut self, page: Page<T>) -> Option<(Vec<T>, Option<EnrolmentId>)> {
        self.found.extend(page.items);
        if let Some(rest) = page.rest
            && self.horizon.as_ref().is_none_or(|horizon| rest < *horizon)
        {
            self.horizon = Some(rest);
        }
        self.replies_left -= 1;
        if self.replies_left > 0 {
            return None;
        }
        let mut found = std::mem::take(&mut self.found);
        let horizon = self.horizon.take();
        found.retain(|item| horizon.as_ref().is_none_or(|horizon| item.id() <= horizon));
        found.sort_by(|one, other| one.id().cmp(other.id()));
        if found.len() <= self.count_max {
            return Some((found, horizon));
        }
        found.truncate(self.count_max);
        let last = found.last().map(|item| item.id().clone());
        Some((found, last))
    }
}
