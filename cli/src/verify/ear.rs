//! What the probes say, and how it is heard.

use bulkhead_policy::Broker;
use std::any::Any;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// What every message and name of this command begins with, so that its owner can be found.
const PREFIX: &str = "bulkhead-verify-";

/// Characters of a mark.
const LENGTH: usize = PREFIX.len() + 16;

/// A text that nobody else sends: the whole payload of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new() -> Self {
        Self(random_word())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The mark that a payload is. All else is somebody else's, and not looked at.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        (text.len() == LENGTH && text.starts_with(PREFIX)).then(|| Self(text.to_owned()))
    }
}

/// A word that nobody else uses, for names, groups and client ids.
pub(crate) fn random_word() -> String {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    // The halves hold the version and the variant, at different places.
    format!("{PREFIX}{:016x}", high ^ low)
}

/// Something that was heard.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// The mark, or nothing for a message of the broker's own.
    pub(crate) mark: Option<Mark>,
    /// Where an answer is wanted.
    pub(crate) reply: Option<String>,
    /// What a message of the broker's own is called.
    pub(crate) name: Option<String>,
}

/// What a subscription brings, of what concerns us: others' messages are never kept, so that a
/// subscription to everything on a busy broker takes no room here.
pub(crate) struct Ear {
    coming: UnboundedReceiver<Heard>,
    past: Vec<Heard>,
    /// Ends the subscription.
    _subscription: Box<dyn Any>,
}

impl Ear {
    /// An ear that listens for as long as it is kept, and with it the subscription that is made of its
    /// other end.
    pub(crate) fn new<S: 'static>(subscribe: impl FnOnce(UnboundedSender<Heard>) -> S) -> Self {
        let (sender, coming) = unbounded_channel();
        Self::of(coming, subscribe(sender))
    }

    /// The same, where the subscription is there already.
    pub(crate) fn of(coming: UnboundedReceiver<Heard>, subscription: impl Any) -> Self {
        Self { coming, past: Vec::new(), _subscription: Box::new(subscription) }
    }

    /// The first, past or to come within this time, that is looked for.
    pub(crate) async fn find(
        &mut self,
        within: Duration,
        wanted: impl Fn(&Heard) -> bool,
    ) -> Option<Heard> {
        if let Some(heard) = self.past.iter().find(|heard| wanted(heard)) {
            return Some(heard.clone());
        }
        let deadline = Instant::now() + within;
        while let Ok(Some(heard)) = timeout_at(deadline, self.coming.recv()).await {
            self.past.push(heard.clone());
            if wanted(&heard) {
                return Some(heard);
            }
        }
        // Whoever hears nothing more has still waited: an ended connection is no faster an answer.
        tokio::time::sleep_until(deadline).await;
        None
    }

    /// Whether this mark has come, or comes within this time.
    pub(crate) async fn hears(&mut self, mark: &Mark, within: Duration) -> bool {
        self.find(within, |heard| heard.mark.as_ref() == Some(mark)).await.is_some()
    }
}

/// Where a tenant may publish and subscribe: the names below a prefix, or all of them.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    broker: Broker,
    prefix: Vec<String>,
}

impl Space {
    /// The space below a name written as the broker writes it; all names for an empty one.
    pub(crate) fn new(broker: Broker, prefix: &str) -> Self {
        let segments = prefix.split(separator(broker)).filter(|segment| !segment.is_empty());
        Self { broker, prefix: segments.map(str::to_owned).collect() }
    }

    /// A name in it that nobody uses.
    pub(crate) fn fresh(&self) -> String {
        self.below(&random_word())
    }

    fn below(&self, last: &str) -> String {
        let mut segments = self.prefix.clone();
        segments.push(last.to_owned());
        segments.join(separator(self.broker))
    }

    /// Filters that have all names of the space among others: everything, and what is below each of
    /// the names that lead here, spelled out and with wildcards.
    pub(crate) fn wide(&self) -> Vec<String> {
        let (separator, any, rest) = (separator(self.broker), any(self.broker), rest(self.broker));
        let mut wide = vec![rest.to_owned(), [any, rest].join(separator)];
        for depth in 0..self.prefix.len() {
            let above = || self.prefix.iter().take(depth).map(String::as_str);
            // What stands there, and a wildcard in its place: it might be the tenant.
            for here in self.prefix.get(depth).map(String::as_str).into_iter().chain([any]) {
                let filter: Vec<_> = above().chain([here, rest]).collect();
                let filter = filter.join(separator);
                if !wide.contains(&filter) {
                    wide.push(filter);
                }
            }
        }
        wide
    }

    /// The tenant in a name of Device Connect's.
    pub(crate) fn device_connect_tenant(&self) -> Option<&str> {
        match self.prefix.as_slice() {
            [first, tenant, ..] if first == DEVICE_CONNECT => Some(tenant),
            _ => None,
        }
    }

    /// A name of Device Connect's, as this broker writes it.
    pub(crate) fn device_connect(&self, tenant: &str, what: &str) -> String {
        [DEVICE_CONNECT, tenant, what].join(separator(self.broker))
    }
}

/// The first segment of Device Connect's names.
pub(crate) const DEVICE_CONNECT: &str = "device-connect";

/// What stands between the segments of a name.
pub(crate) fn separator(broker: Broker) -> &'static str {
    if broker == Broker::Nats { "." } else { "/" }
}

fn any(broker: Broker) -> &'static str {
    if broker == Broker::Mqtt { "+" } else { "*" }
}

fn rest(broker: Broker) -> &'static str {
    match broker {
        Broker::Nats => ">",
        Broker::Mqtt => "#",
        Broker::Zenoh => "**",
    }
}

#[cfg(test)]
mod tests {
    use super::{Mark, Space};
    use bulkhead_policy::Broker;

    #[test]
    fn only_a_mark_is_read_as_one() {
        let mark = Mark::new();
        assert_eq!(Mark::read(mark.text().as_bytes()), Some(mark.clone()));
        for other in ["", "bulkhead-verify-", "x", &format!("{}x", mark.text())] {
            assert_eq!(Mark::read(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_space_knows_what_surrounds_it() {
        let space = Space::new(Broker::Mqtt, "tenants/acme");
        assert!(space.fresh().starts_with("tenants/acme/bulkhead-verify-"));
        let wide = ["#", "+/#", "tenants/#", "tenants/acme/#", "tenants/+/#"];
        assert_eq!(space.wide(), wide);
        assert_eq!(Space::new(Broker::Nats, "").wide(), [">", "*.>"]);
        assert!(Space::new(Broker::Zenoh, "").fresh().starts_with("bulkhead-verify-"));
    }
}
