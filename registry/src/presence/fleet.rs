//! What is asked about one tenant's devices.

use super::{Device, Presence};
use crate::wire::{Filter, MAX_PAGE, Page};
use bulkhead_policy::DeviceId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What stands for a type or a location that a device does not name.
const UNKNOWN: &str = "unknown";

/// How many of what, and where.
#[derive(Serialize)]
struct Description<'a> {
    total_devices: usize,
    total_functions: u64,
    by_type: BTreeMap<&'a str, OfType<'a>>,
    by_location: BTreeMap<&'a str, AtLocation<'a>>,
}

#[derive(Default, Serialize)]
struct OfType<'a> {
    count: usize,
    locations: BTreeSet<&'a str>,
}

#[derive(Default, Serialize)]
struct AtLocation<'a> {
    count: usize,
    types: BTreeSet<&'a str>,
}

impl Presence {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether a device is known, be it that it is leaving.
    pub(crate) fn has(&self, device: &DeviceId) -> bool {
        self.devices.contains_key(device)
    }

    /// The devices that somebody may see. One that was silent for too long is none of them, written or not.
    pub(crate) fn visible<'a>(
        &'a self,
        sees: impl Fn(&DeviceId, &Device) -> bool + 'a,
    ) -> impl Iterator<Item = (&'a DeviceId, &'a Device)> {
        self.devices.iter().filter(move |(id, device)| !device.leaving && sees(id, device))
    }

    /// The result of `discovery/listDevices`. A page ends early if more would make the answer larger
    /// than `most` bytes; `None` if what is asked for cannot be cut.
    pub(crate) fn list(
        &self,
        filter: &Filter,
        page: Option<Page>,
        sees: impl Fn(&DeviceId, &Device) -> bool,
        most: usize,
    ) -> Option<String> {
        let found = self.visible(sees).filter(|(_, device)| {
            filter.admits(device.device_type.as_deref(), device.location.as_deref())
        });
        let mut out = String::from("{\"devices\":[");
        let Some(page) = page else {
            for (i, (_, device)) in found.enumerate() {
                if i > 0 {
                    out.push(',');
                }
                device.document.write(&mut out);
                if out.len() > most {
                    return None;
                }
            }
            out.push_str("]}");
            return Some(out);
        };
        let (mut total, mut taken) = (0_usize, 0_usize);
        let mut is_full = false;
        for (_, device) in found {
            let position = total;
            total += 1;
            if position < page.offset || is_full || taken >= page.limit.min(MAX_PAGE) {
                continue;
            }
            if taken > 0 && out.len() + device.document.len() > most {
                is_full = true;
                continue;
            }
            if taken > 0 {
                out.push(',');
            }
            device.document.write(&mut out);
            taken += 1;
        }
        let end = page.offset.saturating_add(taken);
        let next = if taken > 0 && end < total { end.to_string() } else { "null".to_owned() };
        // Writing to a text cannot fail.
        let _ = write!(out, "],\"next_offset\":{next},\"total_matched\":{total}}}");
        (out.len() <= most || taken <= 1).then_some(out)
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
    pub(crate) fn get(&self, id: &str, sees: impl Fn(&DeviceId, &Device) -> bool) -> String {
        let found = self.devices.get_key_value(id);
        let found = found.filter(|(id, device)| !device.leaving && sees(id, device));
        let document = found.map_or_else(|| "null".to_owned(), |(_, d)| d.document.text());
        format!("{{\"device\":{document}}}")
    }

    /// The result of `discovery/describeFleet`.
    pub(crate) fn describe(&self, sees: impl Fn(&DeviceId, &Device) -> bool) -> String {
        let mut description = Description {
            total_devices: 0,
            total_functions: 0,
            by_type: BTreeMap::new(),
            by_location: BTreeMap::new(),
        };
        for (_, device) in self.visible(sees) {
            let device_type = or_unknown(device.device_type.as_deref());
            let location = or_unknown(device.location.as_deref());
            description.total_devices += 1;
            description.total_functions += u64::from(device.functions);
            let of_type = description.by_type.entry(device_type).or_default();
            of_type.count += 1;
            of_type.locations.insert(location);
            let there = description.by_location.entry(location).or_default();
            there.count += 1;
            there.types.insert(device_type);
        }
        serde_json::to_string(&description).unwrap_or_default()
    }
}

fn or_unknown(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or(UNKNOWN)
}
