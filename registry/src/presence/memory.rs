use super::Device;
use crate::wire::Filter;
use bulkhead_policy::{DeviceId, Discover};
use std::collections::VecDeque;

/// Ends of pages that are kept in mind: one for each list that somebody is reading.
const MAX_MARKS: usize = 64;

/// Bytes of a filter that is kept in mind.
const MAX_FILTER: usize = 1024;

/// Descriptions that are kept in mind, and bytes of each.
const MAX_DESCRIPTIONS: usize = 8;
const MAX_DESCRIPTION: usize = 256 * 1024;

/// Which devices somebody may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    discover: Discover,
    own: Option<DeviceId>,
}

impl Sight {
    /// Of a role, and of the device that asks.
    pub(crate) fn new(discover: Discover, own: Option<DeviceId>) -> Self {
        // Whoever sees everything sees what all others see who do.
        let own = own.filter(|_| discover != Discover::Everything);
        Self { discover, own }
    }

    /// Whether a device is among them. One that was silent for too long is seen by nobody, written or not.
    pub(crate) fn sees(&self, id: &DeviceId, device: &Device) -> bool {
        let is_itself = self.own.as_ref() == Some(id);
        !device.leaving && self.discover.admits(device.device_type.as_deref(), is_itself)
    }
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How many there were of all pages.
    pub(crate) total: usize,
    /// The last device that was found before the next page.
    pub(crate) after: DeviceId,
}

/// What was found lately, for as long as nobody comes, goes, or is to be found elsewhere. Those who read a
/// long list page by page need not have all of it walked for each page.
#[derive(Default)]
pub(crate) struct Memory {
    /// The membership of which it is.
    version: u64,
    marks: VecDeque<((Filter, Sight, usize), Mark)>,
    descriptions: VecDeque<(Sight, String)>,
}

impl Memory {
    /// Where the page with an offset begins.
    pub(crate) fn page(
        &mut self,
        version: u64,
        filter: &Filter,
        sight: &Sight,
        offset: usize,
    ) -> Option<Mark> {
        self.renew(version);
        let is_it =
            |key: &(Filter, Sight, usize)| key.2 == offset && key.0 == *filter && key.1 == *sight;
        self.marks.iter().find(|(key, _)| is_it(key)).map(|(_, mark)| mark.clone())
    }

    /// Notes where it begins.
    pub(crate) fn note_page(
        &mut self,
        version: u64,
        filter: &Filter,
        sight: &Sight,
        offset: usize,
        mark: Mark,
    ) {
        if self.page(version, filter, sight, offset).is_some() || filter.bytes() > MAX_FILTER {
            return;
        }
        self.marks.truncate(MAX_MARKS - 1);
        self.marks.push_front(((filter.clone(), sight.clone(), offset), mark));
    }

    /// The description of what somebody may see.
    pub(crate) fn description(&mut self, version: u64, sight: &Sight) -> Option<String> {
        self.renew(version);
        self.descriptions.iter().find(|(of, _)| of == sight).map(|(_, text)| text.clone())
    }

    /// Notes it.
    pub(crate) fn note_description(&mut self, version: u64, sight: &Sight, text: &str) {
        if self.description(version, sight).is_some() || text.len() > MAX_DESCRIPTION {
            return;
        }
        self.descriptions.truncate(MAX_DESCRIPTIONS - 1);
        self.descriptions.push_front((sight.clone(), text.to_owned()));
    }

    fn renew(&mut self, version: u64) {
        if self.version != version {
            *self = Self { version, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_DESCRIPTIONS, MAX_FILTER, MAX_MARKS, Mark, Memory, Sight};
    use crate::wire::Filter;
    use bulkhead_policy::Discover;

    #[test]
    fn what_is_kept_in_mind_is_bounded() {
        let (mut memory, sight) = (Memory::default(), Sight::new(Discover::Everything, None));
        let mark = Mark { total: 7, after: "cam-1".parse().unwrap() };
        for offset in 0..1_000 {
            memory.note_page(1, &Filter::default(), &sight, offset, mark.clone());
            memory.note_page(1, &Filter::default(), &sight, offset, mark.clone());
        }
        assert_eq!(memory.marks.len(), MAX_MARKS);
        assert_eq!(memory.page(1, &Filter::default(), &sight, 999), Some(mark.clone()));
        let long = Filter { device_type: Some("x".repeat(MAX_FILTER + 1)), location: None };
        memory.note_page(1, &long, &sight, 5, mark);
        assert_eq!(memory.page(1, &long, &sight, 5), None);
        for n in 0..100 {
            let device = format!("cam-{n}").parse().unwrap();
            memory.note_description(1, &Sight::new(Discover::Itself, Some(device)), "{}");
        }
        assert_eq!(memory.descriptions.len(), MAX_DESCRIPTIONS);
        assert_eq!(memory.page(2, &Filter::default(), &sight, 999), None, "it is of another time");
        assert_eq!(memory.descriptions.len(), 0);
    }

    #[test]
    fn whoever_sees_everything_sees_the_same() {
        let of = |device: &str| Sight::new(Discover::Everything, Some(device.parse().unwrap()));
        assert_eq!(of("cam-1"), of("cam-2"));
        let itself = |device: &str| Sight::new(Discover::Itself, Some(device.parse().unwrap()));
        assert_ne!(itself("cam-1"), itself("cam-2"));
    }
}
