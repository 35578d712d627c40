use super::Device;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// What stands for a type or a location that a device does not name.
const UNKNOWN: &str = "unknown";

/// What JSON puts around a type or a location that has an entry of its own, and around one in a list: in
/// bytes, at the least.
const AROUND_ENTRY: usize = 24;
const AROUND_NAME: usize = 2;

/// Makes the result of `discovery/describeFleet` of devices that are shown to it: how many of what, and
/// where.
#[derive(Serialize)]
pub(crate) struct Describer {
    total_devices: usize,
    total_functions: u64,
    by_type: BTreeMap<Box<str>, OfType>,
    by_location: BTreeMap<Box<str>, AtLocation>,
    /// How long it becomes, at the least.
    #[serde(skip)]
    len: usize,
    #[serde(skip)]
    most: usize,
}

#[derive(Default, Serialize)]
struct OfType {
    count: usize,
    locations: BTreeSet<Box<str>>,
}

#[derive(Default, Serialize)]
struct AtLocation {
    count: usize,
    types: BTreeSet<Box<str>>,
}

impl Describer {
    /// A description of at most `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            total_devices: 0,
            total_functions: 0,
            by_type: BTreeMap::new(),
            by_location: BTreeMap::new(),
            len: 0,
            most,
        }
    }

    /// Is shown a device; breaks when the description would be too large.
    pub(crate) fn visit(&mut self, device: &Device) -> ControlFlow<()> {
        let device_type = or_unknown(device.device_type.as_deref());
        let location = or_unknown(device.location.as_deref());
        self.total_devices += 1;
        self.total_functions += u64::from(device.functions);
        if !self.by_type.contains_key(device_type) {
            self.len += device_type.len() + AROUND_ENTRY;
            self.by_type.insert(device_type.into(), OfType::default());
        }
        if let Some(of_type) = self.by_type.get_mut(device_type) {
            of_type.count += 1;
            self.len += added(&mut of_type.locations, location);
        }
        if !self.by_location.contains_key(location) {
            self.len += location.len() + AROUND_ENTRY;
            self.by_location.insert(location.into(), AtLocation::default());
        }
        if let Some(there) = self.by_location.get_mut(location) {
            there.count += 1;
            self.len += added(&mut there.types, device_type);
        }
        if self.len > self.most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The result; `None` if it is too large.
    pub(crate) fn finish(self) -> Option<String> {
        let text = serde_json::to_string(&self).ok().filter(|_| self.len <= self.most)?;
        (text.len() <= self.most).then_some(text)
    }
}

/// Adds a name to a list; returns by how many bytes that makes it longer, at the least.
fn added(names: &mut BTreeSet<Box<str>>, name: &str) -> usize {
    let is_new = !names.contains(name);
    if is_new {
        names.insert(name.into());
        return name.len() + AROUND_NAME;
    }
    0
}

fn or_unknown(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::Describer;
    use crate::presence::{Limits, Presence, Via};
    use crate::wire::Registration;
    use jiff::Timestamp;
    use serde_json::{Value, json};
    use std::ops::ControlFlow;
    use std::time::Instant;

    /// A fleet of which each device has another type and place.
    fn various(devices: usize) -> Presence {
        let mut presence = Presence::new(Limits { devices, bytes: 1 << 24, document: 1 << 16 });
        for n in 0..devices {
            let params = json!({"device_id": format!("cam-{n}"), "device_ttl": 9,
                "capabilities": {"functions": [{"name": "f"}]},
                "identity": {"device_type": format!("type-{n}")},
                "status": {"ts": "t", "location": if n == 0 { String::new() } else { format!("at-{n}") }}});
            let registration = Registration::parse(params.as_object().unwrap().clone()).unwrap();
            let at = Timestamp::UNIX_EPOCH;
            drop(presence.register(registration, Via::Nats, Instant::now(), at).unwrap());
        }
        presence
    }

    fn describe(presence: &Presence, most: usize) -> (Option<String>, usize) {
        let (mut describer, mut seen) = (Describer::new(most), 0);
        presence.walk(None, usize::MAX, |_, device| {
            seen += 1;
            describer.visit(device)
        });
        (describer.finish(), seen)
    }

    #[test]
    fn a_description_counts_and_is_no_larger_than_it_may_be() {
        let presence = various(300);
        let (whole, seen) = describe(&presence, usize::MAX);
        let whole = whole.unwrap();
        let value: Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(
            (&value["total_devices"], &value["total_functions"]),
            (&json!(300), &json!(300))
        );
        assert_eq!(value["by_location"]["unknown"], json!({"count": 1, "types": ["type-0"]}));
        assert_eq!((value["by_type"].as_object().unwrap().len(), seen), (300, 300));
        assert_eq!(describe(&presence, whole.len()).0, Some(whole.clone()), "it fits exactly");
        assert_eq!(describe(&presence, whole.len() - 1).0, None);
        let (none, seen) = describe(&presence, 1_000);
        assert!(none.is_none() && seen < 30, "it stops where it is too large: {seen}");
    }

    #[test]
    fn who_is_left_out_is_not_counted() {
        let mut describer = Describer::new(1_000);
        various(5).walk(None, 9, |id, device| match id.as_str() {
            "cam-3" => describer.visit(device),
            _ => ControlFlow::Continue(()),
        });
        let value: Value = serde_json::from_str(&describer.finish().unwrap()).unwrap();
        assert_eq!(value["total_devices"], 1);
    }
}
