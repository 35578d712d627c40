//! What is asked about one tenant's devices.

use super::{Device, Presence, Sight};
use bulkhead_policy::DeviceId;
use std::ops::{Bound, ControlFlow};

impl Presence {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether a device is known, be it that it is leaving.
    pub(crate) fn has(&self, device: &DeviceId) -> bool {
        self.devices.contains_key(device)
    }

    /// Changes when a device comes, goes or is silent for too long, and when one says that it is something
    /// else or somewhere else.
    pub(crate) fn membership(&self) -> u64 {
        self.membership
    }

    /// Shows devices in the order of their ids, from the first or from one on, and at most so many. Returns
    /// the last if there are more to see.
    pub(crate) fn walk(
        &self,
        after: Option<&DeviceId>,
        most: usize,
        mut visit: impl FnMut(&DeviceId, &Device) -> ControlFlow<()>,
    ) -> Option<DeviceId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (id, device) in self.devices.range::<DeviceId, _>((from, Bound::Unbounded)).take(most) {
            if visit(id, device).is_break() {
                return None;
            }
            last = Some(id);
        }
        last.filter(|last| Some(*last) != self.devices.keys().next_back()).cloned()
    }

    /// Who is present.
    pub(crate) fn present(&self) -> impl Iterator<Item = &DeviceId> {
        self.devices.iter().filter(|(_, device)| !device.leaving).map(|(id, _)| id)
    }

    /// The document of one.
    pub(crate) fn document(&self, id: &DeviceId) -> Option<String> {
        self.devices.get(id).map(|device| device.document.text())
    }

    /// The type of one.
    pub(crate) fn device_type(&self, id: &DeviceId) -> Option<Box<str>> {
        self.devices.get(id)?.device_type.clone()
    }

    /// The result of `discovery/getDevice`.
    pub(crate) fn get(&self, id: &str, sight: &Sight) -> String {
        let found = self.devices.get_key_value(id).filter(|(id, device)| sight.sees(id, device));
        let document = found.map_or_else(|| "null".to_owned(), |(_, d)| d.document.text());
        format!("{{\"device\":{document}}}")
    }
}
