//! What a tenant may use, and the arithmetic of rates.

use crate::Resource;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Limits of one tenant. `None` means "as configured for everybody"; there, "no limit".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Connections at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Subscriptions at a time, over all connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<u64>,
    /// Published messages per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_second: Option<u64>,
    /// Published payload bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Bytes of one message's payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u64>,
    /// Retained messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_messages: Option<u64>,
    /// Bytes of all retained messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_bytes: Option<u64>,
    /// Bytes queued for clients that are away or slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_bytes: Option<u64>,
    /// Authentications per minute, successful or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentications_per_minute: Option<u64>,
    /// Published messages per day, over all processes and brokers of a deployment. A day is one of
    /// UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_day: Option<u64>,
    /// Published payload bytes per day, counted likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_day: Option<u64>,
    /// Authentications per day whose token was good, counted likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentications_per_day: Option<u64>,
    /// JetStream inside the tenant's account; without it there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jetstream: Option<JetStreamQuota>,
}

/// Limits of a tenant's JetStream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JetStreamQuota {
    /// Bytes of memory storage.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Bytes of file storage.
    #[serde(default)]
    pub storage_bytes: u64,
    /// Streams at a time.
    pub streams: u64,
    /// Consumers of one stream at a time.
    pub consumers: u64,
}

impl Quotas {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These limits, with those of `defaults` where none is set.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        let mut merged = self;
        for resource in Resource::ALL {
            let limit = self.get(*resource).or(defaults.get(*resource));
            merged.set(*resource, limit);
        }
        merged.jetstream = self.jetstream.or(defaults.jetstream);
        merged
    }

    /// The limit of a resource.
    pub fn get(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Connections => self.connections,
            Resource::Subscriptions => self.subscriptions,
            Resource::MessagesPerSecond => self.messages_per_second,
            Resource::BytesPerSecond => self.bytes_per_second,
            Resource::PayloadBytes => self.payload_bytes,
            Resource::RetainedMessages => self.retained_messages,
            Resource::RetainedBytes => self.retained_bytes,
            Resource::QueuedBytes => self.queued_bytes,
            Resource::AuthenticationsPerMinute => self.authentications_per_minute,
            Resource::MessagesPerDay => self.messages_per_day,
            Resource::BytesPerDay => self.bytes_per_day,
            Resource::AuthenticationsPerDay => self.authentications_per_day,
        }
    }

    /// Sets the limit of a resource, or takes it back.
    pub fn set(&mut self, resource: Resource, limit: Option<u64>) {
        let own = match resource {
            Resource::Connections => &mut self.connections,
            Resource::Subscriptions => &mut self.subscriptions,
            Resource::MessagesPerSecond => &mut self.messages_per_second,
            Resource::BytesPerSecond => &mut self.bytes_per_second,
            Resource::PayloadBytes => &mut self.payload_bytes,
            Resource::RetainedMessages => &mut self.retained_messages,
            Resource::RetainedBytes => &mut self.retained_bytes,
            Resource::QueuedBytes => &mut self.queued_bytes,
            Resource::AuthenticationsPerMinute => &mut self.authentications_per_minute,
            Resource::MessagesPerDay => &mut self.messages_per_day,
            Resource::BytesPerDay => &mut self.bytes_per_day,
            Resource::AuthenticationsPerDay => &mut self.authentications_per_day,
        };
        *own = limit;
    }

    /// Whether anything is limited per day.
    pub fn has_daily(&self) -> bool {
        Resource::DAILY.iter().any(|resource| self.get(*resource).is_some())
    }
}

/// A rate with a burst: holds up to `capacity` and refills it evenly over `period`.
///
/// It keeps no clock; `now` is any clock that does not run backwards, and a clock that does refills
/// nothing.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    capacity: f64,
    per_second: f64,
    level: f64,
    updated: Duration,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(capacity: u64, period: Duration, now: Duration) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let capacity = capacity as f64;
        let per_second = capacity / period.as_secs_f64().max(f64::MIN_POSITIVE);
        Self { capacity, per_second, level: capacity, updated: now }
    }

    /// Takes `amount` if it is there.
    pub fn take(&mut self, amount: u64, now: Duration) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let amount = amount as f64;
        self.refill(now);
        let enough = self.level >= amount;
        if enough {
            self.level -= amount;
        }
        enough
    }

    /// Takes `amount` if it is there. What is larger than the bucket is taken from a full one, and the
    /// bucket then owes the rest: nothing is given until that has come in.
    ///
    /// A bucket that holds nothing gives nothing.
    pub fn take_or_owe(&mut self, amount: u64, now: Duration) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let amount = amount as f64;
        self.refill(now);
        let enough = self.capacity > 0.0 && self.level >= amount.min(self.capacity);
        if enough {
            self.level -= amount;
        }
        enough
    }

    /// Takes `amount`, whether or not it is there: the bucket owes what is not.
    pub fn owe(&mut self, amount: u64, now: Duration) {
        self.refill(now);
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let amount = amount as f64;
        self.level -= amount;
    }

    /// Whether nothing has been taken lately, so that forgetting the bucket loses nothing.
    pub fn is_full(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.level >= self.capacity
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.updated);
        self.level = self.capacity.min(elapsed.as_secs_f64().mul_add(self.per_second, self.level));
        self.updated = self.updated.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::{Quotas, TokenBucket};
    use crate::Resource;
    use std::time::Duration;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let minute = Duration::from_secs(60);
        let mut bucket = TokenBucket::new(60, minute, Duration::ZERO);
        assert_eq!((0..100).filter(|_| bucket.take(1, Duration::ZERO)).count(), 60);
        assert!(!bucket.take(1, Duration::from_millis(900)));
        assert!(bucket.take(1, Duration::from_millis(1100)));
        assert!(bucket.is_full(minute * 3));
    }

    #[test]
    fn a_clock_that_runs_backwards_refills_nothing() {
        let mut bucket = TokenBucket::new(1, Duration::from_secs(1), Duration::from_secs(10));
        assert!(bucket.take(1, Duration::from_secs(10)));
        assert!(!bucket.take(1, Duration::from_secs(2)));
        assert!(!bucket.take(1, Duration::from_secs(10)));
    }

    #[test]
    fn a_bucket_of_none_gives_none() {
        let mut bucket = TokenBucket::new(0, Duration::from_secs(1), Duration::ZERO);
        assert!(!bucket.take(1, Duration::from_secs(1_000)));
    }

    #[test]
    fn what_is_larger_than_a_bucket_is_paid_for_in_full() {
        let seconds = Duration::from_secs;
        let mut bucket = TokenBucket::new(10, seconds(1), Duration::ZERO);
        assert!(bucket.take_or_owe(1, Duration::ZERO));
        assert!(!bucket.take_or_owe(35, Duration::ZERO), "not from a bucket that is not full");
        assert!(bucket.take_or_owe(35, seconds(1)));
        assert!(!bucket.take_or_owe(1, seconds(3)), "10 + 10 - 35 + 10 + 10 is below 1");
        assert!(bucket.take_or_owe(5, seconds(4)));
        assert!(!bucket.take_or_owe(1, seconds(4)));
        let mut none = TokenBucket::new(0, seconds(1), Duration::ZERO);
        assert!(!none.take_or_owe(0, seconds(9)) && !none.take_or_owe(1, seconds(9)));
    }

    #[test]
    fn a_tenant_overrides_only_what_it_sets() {
        let own = Quotas { connections: Some(1), ..Quotas::default() };
        let everyone = Quotas { connections: Some(9), subscriptions: Some(5), ..Quotas::default() };
        let merged = own.or(everyone);
        assert_eq!((merged.connections, merged.subscriptions), (Some(1), Some(5)));
    }

    #[test]
    fn every_limit_is_found_by_the_name_that_it_has_in_the_directory() {
        for (n, resource) in (1..).zip(Resource::ALL) {
            let mut quotas = Quotas::default();
            quotas.set(*resource, Some(n));
            let text = serde_json::to_value(quotas).unwrap();
            assert_eq!(text, serde_json::json!({ resource.name(): n }));
            assert_eq!(
                (quotas.get(*resource), Resource::parse(resource.name())),
                (Some(n), Some(*resource))
            );
            assert_eq!(quotas.has_daily(), Resource::DAILY.contains(resource));
            assert_eq!(Quotas::default().or(quotas), quotas);
            quotas.set(*resource, None);
            assert!(quotas.is_empty());
        }
    }
}
