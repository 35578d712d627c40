use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// Messages of QoS 1 and 2 on their way to one client (MQTT 5 §4.9), oldest first.
#[derive(Debug)]
pub(crate) struct Window {
    flights: VecDeque<Flight>,
    last: u16,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    /// Its packet id.
    pub(crate) id: u16,
    /// How far it is.
    pub(crate) stage: Stage,
    /// Its number in the session's queue, by which the store knows it.
    pub(crate) number: u64,
}

/// How far a message is.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// PUBLISH was sent at QoS 1; it is kept where it may have to be sent again.
    Published1(Option<Waiting>),
    /// PUBLISH was sent at QoS 2.
    Published2(Option<Waiting>),
    /// PUBREL was sent.
    Released,
}

/// A message that waits for a client.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// The message, as a [`record`](crate::record).
    pub(crate) record: Bytes,
    /// How the client gets it: quality of service, retain flag, subscription identifiers.
    pub(crate) terms: Terms,
}

/// How a client gets a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The quality of service granted to the subscription, or less.
    pub(crate) qos: u8,
    /// The retain flag.
    pub(crate) retain: bool,
    /// Subscription identifiers.
    pub(crate) ids: Box<[u32]>,
    /// The group of the shared subscription that it was meant for.
    pub(crate) group: Option<Arc<str>>,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { flights: VecDeque::new(), last: 0 }
    }

    /// The next packet id, while fewer than `max` messages are under way.
    pub(crate) fn next_id(&self, max: u16) -> Option<u16> {
        let id = if self.last == u16::MAX { 1 } else { self.last + 1 };
        // Ids are given in turn, so the oldest is the first that could still be in use.
        let free = self.flights.front().is_none_or(|oldest| oldest.id != id);
        (self.flights.len() < max.into() && free).then_some(id)
    }

    /// Adds a message under the id that [`next_id`](Self::next_id) gave.
    pub(crate) fn add(&mut self, flight: Flight) {
        self.last = flight.id;
        self.flights.push_back(flight);
    }

    /// Takes out a message of QoS 1 that was acknowledged.
    pub(crate) fn acknowledged(&mut self, id: u16) -> Option<Flight> {
        let at = self.position(id, |stage| matches!(stage, Stage::Published1(_)))?;
        self.flights.remove(at)
    }

    /// Moves a message of QoS 2 on to its release. `None` if there is none that was not released.
    pub(crate) fn received(&mut self, id: u16) -> Option<u64> {
        let at = self.position(id, |stage| matches!(stage, Stage::Published2(_)))?;
        let flight = self.flights.get_mut(at)?;
        flight.stage = Stage::Released;
        Some(flight.number)
    }

    /// Takes out a message of QoS 2 that the client refused.
    pub(crate) fn refused(&mut self, id: u16) -> Option<Flight> {
        let at = self.position(id, |stage| matches!(stage, Stage::Published2(_)))?;
        self.flights.remove(at)
    }

    /// Whether a message of QoS 2 is released.
    pub(crate) fn is_released(&self, id: u16) -> bool {
        self.position(id, |stage| matches!(stage, Stage::Released)).is_some()
    }

    /// Takes out a message of QoS 2 that is complete.
    pub(crate) fn completed(&mut self, id: u16) -> Option<Flight> {
        let at = self.position(id, |stage| matches!(stage, Stage::Released))?;
        self.flights.remove(at)
    }

    /// Takes out messages that are not wanted any more.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&Flight) -> bool) {
        self.flights.retain(keep);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter()
    }

    pub(crate) fn clear(&mut self) {
        self.flights = VecDeque::new();
    }

    fn position(&self, id: u16, stage: impl Fn(&Stage) -> bool) -> Option<usize> {
        self.flights.iter().position(|flight| flight.id == id && stage(&flight.stage))
    }
}

#[cfg(test)]
mod tests {
    use super::{Flight, Stage, Window};

    #[test]
    fn ids_are_never_used_twice_at_a_time() {
        let mut window = Window::new();
        let add = |window: &mut Window| {
            let id = window.next_id(u16::MAX)?;
            window.add(Flight { id, stage: Stage::Published1(None), number: 0 });
            Some(id)
        };
        assert_eq!(add(&mut window), Some(1));
        for _ in 2..=u16::MAX {
            let id = add(&mut window).unwrap();
            assert!(id == 2 || window.acknowledged(id).is_some());
        }
        // 1 and 2 are still under way.
        assert_eq!(add(&mut window), None);
        assert!(window.acknowledged(1).is_some());
        assert_eq!(add(&mut window), Some(1));
        assert_eq!(add(&mut window), None);
    }

    #[test]
    fn each_step_has_its_turn() {
        let mut window = Window::new();
        window.add(Flight { id: 1, stage: Stage::Published2(None), number: 9 });
        assert!(window.acknowledged(1).is_none() && window.completed(1).is_none());
        assert_eq!(window.received(1), Some(9));
        assert_eq!(window.received(1), None);
        assert!(window.is_released(1) && window.completed(1).is_some());
        assert_eq!(window.iter().count(), 0);
    }
}
