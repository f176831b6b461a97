//! Something for each of several links, found by the link's place instead of by hashing: for what is looked up per delivery.

use net_amqp::LinkId;

/// A table over the small numbers of links. It is as long as the largest number in it.
#[derive(Debug)]
pub struct LinkTable<T>(Vec<Option<(LinkId, T)>>);

impl<T> Default for LinkTable<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> LinkTable<T> {
    /// Put a link in. An earlier one with its number is gone, and what was kept for it goes too.
    pub fn insert(&mut self, link: LinkId, value: T) {
        if self.0.len() <= link.slot() {
            self.0.resize_with(link.slot() + 1, || None);
        }
        self.0[link.slot()] = Some((link, value));
    }

    /// What is kept for this very link.
    pub fn get_mut(&mut self, link: LinkId) -> Option<&mut T> {
        match self.0.get_mut(link.slot()) {
            Some(Some((owner, value))) if *owner == link => Some(value),
            _ => None,
        }
    }

    /// Whether anything is kept for this very link.
    pub fn contains(&self, link: LinkId) -> bool {
        matches!(self.0.get(link.slot()), Some(Some((owner, _))) if *owner == link)
    }

    /// Take a link out.
    pub fn remove(&mut self, link: LinkId) {
        if self.contains(link) {
            self.0[link.slot()] = None;
            while matches!(self.0.last(), Some(None)) {
                self.0.pop();
            }
        }
    }

    /// Every link in it.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.0.iter().flatten().map(|(link, _)| *link)
    }
}
