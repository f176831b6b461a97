//! Changes since a snapshot, and one sorted view over them and the snapshot.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::Bound;

use crate::device::Device;
use crate::error::RegistryError;
use crate::id::DeviceId;
use crate::snapshot::SnapshotFile;

/// What became of devices since the layer below; none: deleted.
pub(crate) type Layer = BTreeMap<DeviceId, Option<Box<Device>>>;

/// A live device of a [`Merged`] view.
pub(crate) enum Entry<'a> {
    /// In a layer.
    Layered(&'a Device),
    /// In the snapshot, at this index.
    Stored(usize),
}

/// All live devices in the order of their ids: two layers, the newer one first, over a snapshot.
pub(crate) struct Merged<'a> {
    layers: [Peekable<btree_map::Range<'a, DeviceId, Option<Box<Device>>>>; 2],
    base: Option<&'a SnapshotFile>,
    base_index: usize,
}

impl<'a> Merged<'a> {
    /// Begin behind `after`, or at the first device.
    pub(crate) fn new(
        layers: [&'a Layer; 2],
        base: Option<&'a SnapshotFile>,
        after: Option<&DeviceId>,
    ) -> Result<Self, RegistryError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let base_index = match (base, after) {
            (Some(base), Some(after)) => match base.search(after.as_str())? {
                Ok(index) => index + 1,
                Err(index) => index,
            },
            _ => 0,
        };
        let layers = layers.map(|layer| layer.range::<DeviceId, _>((from, Bound::Unbounded)).peekable());
        Ok(Self { layers, base, base_index })
    }

    fn step(&mut self) -> Result<Option<Entry<'a>>, RegistryError> {
        loop {
            let base = self.base.filter(|base| self.base_index < base.device_count());
            let base_id = base.map(|base| base.id(self.base_index)).transpose()?;
            let layer_ids = self.layers.each_mut().map(|layer| layer.peek().map(|(id, _)| id.as_str()));
            let Some(id) = layer_ids.into_iter().chain([base_id]).flatten().min() else { return Ok(None) };

            // Everything that speaks of this id is passed; the newest has the word.
            let mut found: Option<Option<Entry<'a>>> = None;
            for (layer, layer_id) in self.layers.iter_mut().zip(layer_ids) {
                if layer_id == Some(id) {
                    let device = layer.next().and_then(|(_, device)| device.as_deref());
                    found.get_or_insert_with(|| device.map(Entry::Layered));
                }
            }
            if base_id == Some(id) {
                found.get_or_insert(Some(Entry::Stored(self.base_index)));
                self.base_index += 1;
            }
            if let Some(entry) = found.flatten() {
                return Ok(Some(entry));
            }
        }
    }
}

impl<'a> Iterator for Merged<'a> {
    type Item = Result<Entry<'a>, RegistryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
