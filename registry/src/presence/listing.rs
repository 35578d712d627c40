use super::Device;
use super::memory::{Mark, Sight};
use crate::wire::{Filter, MAX_PAGE, Page};
use bulkhead_policy::DeviceId;
use std::fmt::Write as _;
use std::ops::ControlFlow;

/// What a page has besides its documents, in bytes at the most.
const AROUND: usize = 128;

/// Makes the result of `discovery/listDevices` of devices that are shown to it in their order.
pub(crate) struct Lister<'a> {
    filter: &'a Filter,
    sight: &'a Sight,
    page: Option<Page>,
    most: usize,
    out: String,
    /// How many were found before the one that comes next.
    position: usize,
    taken: usize,
    /// The last that was found before the next page.
    last: Option<DeviceId>,
    next: Option<usize>,
    /// How many there are of all, if that is known.
    total: Option<usize>,
    is_too_large: bool,
    left_out: Option<DeviceId>,
}

/// What came of it.
pub(crate) struct Listed {
    pub(crate) text: String,
    /// From where on the next page is, if there is one: its offset.
    pub(crate) next: Option<(usize, Mark)>,
    /// A device whose document is larger than any answer may be.
    pub(crate) left_out: Option<DeviceId>,
}

impl<'a> Lister<'a> {
    /// A list of at most `most` bytes. A page that was left at a mark is to be shown only what comes after
    /// it.
    pub(crate) fn new(
        filter: &'a Filter,
        sight: &'a Sight,
        page: Option<Page>,
        most: usize,
        from: Option<&Mark>,
    ) -> Self {
        let position = from.and(page).map_or(0, |page| page.offset);
        Self {
            filter,
            sight,
            page,
            most,
            out: String::from("{\"devices\":["),
            position,
            taken: 0,
            last: None,
            next: None,
            total: from.map(|mark| mark.total),
            is_too_large: false,
            left_out: None,
        }
    }

    /// Is shown the next device; breaks when there is nothing more to find out.
    pub(crate) fn visit(&mut self, id: &DeviceId, device: &Device) -> ControlFlow<()> {
        let is_found = self.sight.sees(id, device)
            && self.filter.admits(device.device_type.as_deref(), device.location.as_deref());
        if !is_found {
            return ControlFlow::Continue(());
        }
        let position = self.position;
        self.position += 1;
        let Some(page) = self.page else {
            self.push(device);
            self.is_too_large = self.out.len() > self.most;
            return if self.is_too_large {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            };
        };
        if self.next.is_some() || position < page.offset {
            return ControlFlow::Continue(());
        }
        let len = device.document.len();
        if len + AROUND > self.most {
            // It would be an error whatever the page; what comes after it has to be found.
            self.left_out = Some(id.clone());
            self.last = Some(id.clone());
        } else if self.taken >= page.limit.min(MAX_PAGE)
            || self.out.len() + len + AROUND > self.most
        {
            self.next = Some(position);
            if self.total.is_some() {
                return ControlFlow::Break(());
            }
        } else {
            self.push(device);
            self.last = Some(id.clone());
        }
        ControlFlow::Continue(())
    }

    fn push(&mut self, device: &Device) {
        if self.taken > 0 {
            self.out.push(',');
        }
        device.document.write(&mut self.out);
        self.taken += 1;
    }

    /// The result; `None` if what is asked for cannot be cut, and is too large.
    pub(crate) fn finish(self) -> Option<Listed> {
        let Self { mut out, total, position, next, last, left_out, .. } = self;
        if self.is_too_large {
            return None;
        }
        let total = total.unwrap_or(position);
        out.push(']');
        if self.page.is_some() {
            let next = next.map_or_else(|| "null".to_owned(), |next| next.to_string());
            // Writing to a text cannot fail.
            let _ = write!(out, ",\"next_offset\":{next},\"total_matched\":{total}");
        }
        out.push('}');
        let next = next.zip(last).map(|(next, after)| (next, Mark { total, after }));
        Some(Listed { text: out, next, left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::{AROUND, Lister};
    use crate::presence::{Limits, Memory, Presence, Sight, Turn, Via};
    use crate::wire::{Filter, Page, Registration};
    use bulkhead_policy::{DeviceId, Discover};
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};
    use std::time::{Duration, Instant};

    const LIMITS: Limits = Limits { devices: 99, bytes: 1 << 20, document: 1 << 16 };

    fn id(n: usize) -> DeviceId {
        DeviceId::parse(&format!("cam-{n}")).unwrap()
    }

    fn register(presence: &mut Presence, n: usize, device_type: &str, more: usize, now: Instant) {
        let params = json!({"device_id": id(n), "device_ttl": 3,
            "capabilities": {"description": "x".repeat(more)},
            "identity": {"device_type": device_type}, "status": {"ts": "t"}});
        let registration = Registration::parse(params.as_object().unwrap().clone()).unwrap();
        drop(presence.register(registration, Via::Nats, now, Timestamp::UNIX_EPOCH).unwrap());
    }

    /// A list, as a fleet makes it, with what is in mind or without.
    fn list(
        presence: &Presence,
        memory: Option<&mut Memory>,
        (filter, sight): (&Filter, &Sight),
        page: Option<Page>,
        most: usize,
    ) -> Option<Value> {
        let version = presence.membership();
        let mut none = Memory::default();
        let memory = memory.unwrap_or(&mut none);
        let from = page.and_then(|page| memory.page(version, filter, sight, page.offset));
        let mut lister = Lister::new(filter, sight, page, most, from.as_ref());
        let mut after = from.map(|mark| mark.after);
        loop {
            after = presence.walk(after.as_ref(), 2, |id, device| lister.visit(id, device));
            if after.is_none() {
                break;
            }
        }
        let listed = lister.finish()?;
        if let Some((offset, mark)) = listed.next {
            memory.note_page(version, filter, sight, offset, mark);
        }
        assert!(listed.text.len() <= most);
        Some(serde_json::from_str(&listed.text).unwrap())
    }

    fn ids(list: &Value) -> Vec<&str> {
        let devices = list["devices"].as_array().unwrap();
        devices.iter().map(|device| device["device_id"].as_str().unwrap()).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Register(usize, bool, usize),
        Move(usize, bool),
        Pass,
        Write,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..9_usize, any::<bool>(), 0..300_usize)
                .prop_map(|(n, is_lock, more)| Step::Register(n, is_lock, more)),
            2 => (0..9_usize, any::<bool>()).prop_map(|(n, is_roof)| Step::Move(n, is_roof)),
            1 => Just(Step::Pass),
            1 => Just(Step::Write),
        ]
    }

    fn apply(presence: &mut Presence, step: &Step, now: &mut Instant) {
        match step {
            Step::Register(n, is_lock, more) => {
                let device_type = if *is_lock { "lock" } else { "camera" };
                register(presence, *n, device_type, *more, *now);
            }
            Step::Move(n, is_roof) => {
                let place = json!(if *is_roof { "roof" } else { "lab" });
                let status = Map::from_iter([("location".to_owned(), place)]);
                presence.beat(&id(*n), &status, Via::Nats, *now);
            }
            Step::Pass => {
                *now += Duration::from_secs(2);
                let heard = (*now - Duration::from_secs(9), *now);
                presence.expire(*now, |_| Some(heard));
            }
            Step::Write => {
                let writes = presence.writes(9, Turn::All);
                let leases = vec![None; writes.len()];
                presence.written(writes, leases, *now);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_in_mind_changes_no_page(
            steps in proptest::collection::vec((step(), 0..6_usize), 1..40),
            limit in 1..4_usize,
        ) {
            let (mut presence, mut memory) = (Presence::new(LIMITS), Memory::default());
            let mut now = Instant::now();
            let part = |text: &str| Some(text.to_owned());
            let everything = Sight::new(Discover::Everything, None);
            let some = Sight::new(Discover::Types(["camera".to_owned()].into()), Some(id(3)));
            let lists = [
                (Filter::default(), &everything),
                (Filter { device_type: part("lock"), location: None }, &everything),
                (Filter { device_type: None, location: part("roof") }, &everything),
                (Filter::default(), &some),
            ];
            for (step, somewhere) in &steps {
                apply(&mut presence, step, &mut now);
                for (filter, sight) in &lists {
                    for begin in [0, *somewhere] {
                        // From there on, and then page by page to the end.
                        let mut next = Some(begin);
                        while let Some(offset) = next {
                            let page = Some(Page { offset, limit });
                            let what = (filter, *sight);
                            let plain = list(&presence, None, what, page, 1_200).unwrap();
                            let known = list(&presence, Some(&mut memory), what, page, 1_200);
                            prop_assert_eq!(&known.unwrap(), &plain);
                            next = plain["next_offset"].as_u64().and_then(|at| at.try_into().ok());
                            prop_assert!(next.is_none_or(|at| at > offset), "a reader goes on");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_page_begins_where_the_one_before_ended() {
        let (mut presence, mut memory) = (Presence::new(LIMITS), Memory::default());
        (0..9).for_each(|n| register(&mut presence, n, "camera", 0, Instant::now()));
        let (filter, sight) = (Filter::default(), Sight::new(Discover::Everything, None));
        let page = |offset| Some(Page { offset, limit: 4 });
        list(&presence, Some(&mut memory), (&filter, &sight), page(0), 1 << 16);
        let mark = memory.page(presence.membership(), &filter, &sight, 4).unwrap();
        assert_eq!((mark.total, &mark.after), (9, &id(3)));
        let mut seen = 0;
        let mut lister = Lister::new(&filter, &sight, page(4), 1 << 16, Some(&mark));
        presence.walk(Some(&mark.after), 99, |id, device| {
            seen += 1;
            lister.visit(id, device)
        });
        assert_eq!(seen, 5, "a page, and the one by which it is known that there are more");
        let text = lister.finish().unwrap().text;
        let listed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(ids(&listed), ["cam-4", "cam-5", "cam-6", "cam-7"]);
        assert_eq!((&listed["next_offset"], &listed["total_matched"]), (&json!(8), &json!(9)));
    }

    #[test]
    fn what_no_answer_can_hold_is_left_out_of_its_page_and_ends_no_list() {
        let mut presence = Presence::new(LIMITS);
        for (n, more) in [(0, 10), (1, 5_000), (2, 10), (3, 5_000)] {
            register(&mut presence, n, "camera", more, Instant::now());
        }
        let what = (&Filter::default(), &Sight::new(Discover::Everything, None));
        let page = |offset, limit| Some(Page { offset, limit });
        let all = list(&presence, None, what, page(0, 9), 4_000).unwrap();
        assert_eq!((ids(&all), &all["next_offset"]), (vec!["cam-0", "cam-2"], &Value::Null));
        let first = list(&presence, None, what, page(0, 1), 4_000).unwrap();
        assert_eq!((ids(&first), &first["next_offset"]), (vec!["cam-0"], &json!(2)));
        let last = list(&presence, None, what, page(2, 1), 4_000).unwrap();
        assert_eq!((ids(&last), &last["next_offset"]), (vec!["cam-2"], &Value::Null));
        assert_eq!(list(&presence, None, what, None, 4_000), None, "this one cannot be cut");
        assert!(list(&presence, None, what, page(0, 9), AROUND).unwrap()["devices"] == json!([]));
    }
}
