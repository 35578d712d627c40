//! Which devices are to say who they are, and in which order they are asked. No I/O, and no clock.
//!
//! Devices that do not answer must not hold up those that would: who was never asked is asked first, and
//! not waited for long; who did not answer is asked again, ever more rarely, and has all the time then.

use crate::backend::PULL_TIMEOUT;
use crate::presence::Via;
use bulkhead_policy::DeviceId;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Devices that are kept in mind.
const MAX_KNOWN: usize = 10_000;

/// How long a device has to answer that is asked for the first time. One that is there answers at once.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);

/// First and longest pause before a device is asked again that did not answer.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));

/// So many of those that did not answer before may be asked at a time while others wait that are new:
/// names that are made up without end do not keep them out.
const AGAIN: usize = 2;

/// How often those that are not waited for may be forgotten to make room.
const FORGETTING: Duration = Duration::from_secs(1);

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is known now.
    Known,
    /// It did not answer, or nothing of use.
    Mute,
    /// It is not its fault.
    Later,
}

/// A device to ask.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pull {
    pub(super) device: DeviceId,
    pub(super) via: Via,
    /// How long it has to answer.
    pub(super) patience: Duration,
}

/// The devices of one tenant that beat and are not known.
#[derive(Default)]
pub(super) struct Pulls {
    known: HashMap<DeviceId, Known>,
    /// Never asked, in the order in which they came.
    fresh: VecDeque<(DeviceId, Via)>,
    /// Did not answer before.
    again: VecDeque<(DeviceId, Via)>,
    /// Of those that did not answer before, how many are being asked.
    asking_again: usize,
    forgot: Option<Instant>,
}

struct Known {
    /// How often in a row it did not answer.
    mute: u32,
    /// Not to be asked before then; `None` while it waits to be asked, or is.
    not_before: Option<Instant>,
}

impl Pulls {
    /// Notes that a device beats which is not known.
    pub(super) fn unknown(&mut self, device: DeviceId, via: Via, now: Instant) {
        if let Some(known) = self.known.get_mut(&device) {
            // Who beats more is not asked more.
            if known.not_before.is_some_and(|at| at <= now) {
                known.not_before = None;
                let queue = if known.mute > 0 { &mut self.again } else { &mut self.fresh };
                queue.push_back((device, via));
            }
        } else if self.has_room(now) {
            self.known.insert(device.clone(), Known { mute: 0, not_before: None });
            self.fresh.push_back((device, via));
        }
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let may_forget = self.forgot.is_none_or(|at| now.duration_since(at) >= FORGETTING);
        if self.known.len() >= MAX_KNOWN && may_forget {
            self.forgot = Some(now);
            self.known.retain(|_, known| known.not_before.is_none());
        }
        self.known.len() < MAX_KNOWN
    }

    /// The next to ask.
    pub(super) fn next(&mut self) -> Option<Pull> {
        let is_again = self.fresh.is_empty() || self.asking_again < AGAIN;
        if let Some((device, via)) = is_again.then(|| self.again.pop_front()).flatten() {
            self.asking_again += 1;
            return Some(Pull { device, via, patience: PULL_TIMEOUT });
        }
        let (device, via) = self.fresh.pop_front()?;
        Some(Pull { device, via, patience: FIRST_PATIENCE })
    }

    /// Notes what came of it.
    pub(super) fn asked(&mut self, device: &DeviceId, outcome: Outcome, now: Instant) {
        // Nobody who is asked is forgotten.
        let Some(known) = self.known.get_mut(device) else { return };
        if known.mute > 0 {
            self.asking_again = self.asking_again.saturating_sub(1);
        }
        if outcome == Outcome::Known {
            self.known.remove(device);
            return;
        }
        let mut pause = PAUSE.0;
        if outcome == Outcome::Mute {
            pause = pause.saturating_mul(2_u32.saturating_pow(known.mute)).min(PAUSE.1);
            known.mute = known.mute.saturating_add(1);
        }
        known.not_before = Some(now + pause);
    }

    /// How many wait to be asked.
    pub(super) fn waiting(&self) -> usize {
        self.fresh.len() + self.again.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        AGAIN, FIRST_PATIENCE, FORGETTING, MAX_KNOWN, Outcome, PAUSE, PULL_TIMEOUT, Pulls,
    };
    use crate::presence::Via;
    use bulkhead_policy::DeviceId;
    use std::time::Instant;

    fn id(name: &str) -> DeviceId {
        DeviceId::parse(name).unwrap()
    }

    fn beat(pulls: &mut Pulls, name: &str, now: Instant) {
        pulls.unknown(id(name), Via::Nats, now);
    }

    fn next(pulls: &mut Pulls) -> Option<String> {
        pulls.next().map(|pull| pull.device.to_string())
    }

    #[test]
    fn who_was_never_asked_comes_before_who_did_not_answer() {
        let (mut pulls, now) = (Pulls::default(), Instant::now());
        let mute: Vec<_> = (0..=AGAIN).map(|n| format!("mute-{n}")).collect();
        mute.iter().for_each(|name| beat(&mut pulls, name, now));
        for name in &mute {
            let first = pulls.next().unwrap();
            assert_eq!((first.device, first.patience), (id(name), FIRST_PATIENCE));
            pulls.asked(&id(name), Outcome::Mute, now);
        }
        let later = now + PAUSE.0;
        mute.iter().for_each(|name| beat(&mut pulls, name, later));
        beat(&mut pulls, "live", later);
        // A few of the others have their turn whoever is new.
        for name in &mute[..AGAIN] {
            let again = pulls.next().unwrap();
            assert_eq!((again.device, again.patience), (id(name), PULL_TIMEOUT));
        }
        assert_eq!(next(&mut pulls).as_deref(), Some("live"));
        assert_eq!(next(&mut pulls).as_deref(), Some(&*mute[AGAIN]));
        assert_eq!(next(&mut pulls), None);
    }

    #[test]
    fn who_beats_more_is_not_asked_more() {
        let (mut pulls, now) = (Pulls::default(), Instant::now());
        for _ in 0..3 {
            beat(&mut pulls, "mute", now);
        }
        assert_eq!(pulls.waiting(), 1);
        assert_eq!(next(&mut pulls).as_deref(), Some("mute"));
        beat(&mut pulls, "mute", now);
        assert_eq!(next(&mut pulls), None, "it is being asked");
    }

    #[test]
    fn who_does_not_answer_is_asked_ever_more_rarely() {
        let (mut pulls, mut now) = (Pulls::default(), Instant::now());
        beat(&mut pulls, "mute", now);
        let mut expected = PAUSE.0;
        for _ in 0..8 {
            assert_eq!(next(&mut pulls).as_deref(), Some("mute"));
            pulls.asked(&id("mute"), Outcome::Mute, now);
            let before = now + expected / 2;
            beat(&mut pulls, "mute", before);
            assert_eq!(next(&mut pulls), None);
            now += expected;
            beat(&mut pulls, "mute", now);
            expected = (expected * 2).min(PAUSE.1);
        }
        assert_eq!(expected, PAUSE.1);
        // Whose fault it is not waits no longer for that.
        assert!(next(&mut pulls).is_some());
        pulls.asked(&id("mute"), Outcome::Later, now);
        beat(&mut pulls, "mute", now + PAUSE.0);
        assert!(next(&mut pulls).is_some());
        pulls.asked(&id("mute"), Outcome::Known, now);
        beat(&mut pulls, "mute", now);
        assert_eq!(pulls.next().unwrap().patience, FIRST_PATIENCE, "nothing is held against it");
    }

    #[test]
    fn newcomers_without_end_keep_nobody_from_being_asked_again() {
        let (mut pulls, mut now) = (Pulls::default(), Instant::now());
        beat(&mut pulls, "busy", now);
        for n in 0..3 {
            assert_eq!(next(&mut pulls).as_deref(), Some("busy"));
            pulls.asked(&id("busy"), Outcome::Mute, now);
            now += PAUSE.1;
            beat(&mut pulls, &format!("new-{n}"), now);
            beat(&mut pulls, "busy", now);
        }
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded_and_newcomers_find_room() {
        let (mut pulls, now) = (Pulls::default(), Instant::now());
        for n in 0..=MAX_KNOWN {
            beat(&mut pulls, &format!("cam-{n}"), now);
        }
        assert_eq!((pulls.known.len(), pulls.waiting()), (MAX_KNOWN, MAX_KNOWN));
        while let Some(pull) = pulls.next() {
            pulls.asked(&pull.device, Outcome::Mute, now);
        }
        beat(&mut pulls, "late", now);
        assert_eq!(pulls.waiting(), 0, "room was looked for just now");
        beat(&mut pulls, "late", now + FORGETTING);
        assert_eq!((next(&mut pulls).as_deref(), pulls.known.len()), (Some("late"), 1));
    }
}
