//! What devices have subscribed to and wish to keep while they are away [MQTT-3.1.1 3.1.2.4].

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use registry::DeviceId;

use crate::request::Subscription;

/// Parts that are shared with the job that writes them down, and copied on change one by one: a change while a million are
/// written copies a few thousand.
const PART_COUNT: usize = 256;

type Part = HashMap<DeviceId, Subscription, RandomState>;

/// The standing subscriptions of one partition's devices. Devices without one take no room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscriptions {
    /// Empty before the first one.
    parts: Vec<Arc<Part>>,
    hasher: RandomState,
}

impl Subscriptions {
    /// The device's.
    pub fn find(&self, device: &DeviceId) -> Option<&Subscription> {
        self.parts.get(self.place(device))?.get(device)
    }

    /// The device has another one now, or none.
    pub fn put(&mut self, device: &DeviceId, subscription: Option<Subscription>) {
        match subscription {
            Some(subscription) => {
                self.parts.resize_with(PART_COUNT, Arc::default);
                let place = self.place(device);
                Arc::make_mut(&mut self.parts[place]).insert(device.clone(), subscription);
            }
            None if self.find(device).is_some() => {
                let place = self.place(device);
                Arc::make_mut(&mut self.parts[place]).remove(device);
            }
            None => {}
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &Subscription)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    fn place(&self, device: &DeviceId) -> usize {
        self.hasher.hash_one(device) as usize % PART_COUNT
    }
}
