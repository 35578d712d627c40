use crate::clock::Deadline;
use crate::codec::matches;
use crate::record::Message;
use bulkhead_policy::{DenyReason, Quotas, Verdict};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// What a retained message weighs beyond its record and the topic that it is found by.
const OVERHEAD: usize = 96;

/// A tenant's retained messages (MQTT 5 §3.3.1.3), as [`record`](crate::record)s by topic.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    messages: BTreeMap<Box<str>, Bytes>,
    /// Those that expire, soonest first.
    expiring: BTreeSet<(Deadline, Box<str>)>,
    bytes: usize,
}

impl Retained {
    /// Keeps a message in the place of the one before; an empty payload removes that.
    ///
    /// # Errors
    /// [`DenyReason::RetainedQuotaExceeded`]: the one before stays.
    pub(crate) fn put(
        &mut self,
        message: &Message<'_>,
        record: Bytes,
        quotas: &Quotas,
    ) -> Verdict<()> {
        if message.payload.is_empty() {
            self.remove(message.topic);
            return Ok(());
        }
        let weight = weight(message.topic, &record);
        let before = self.messages.get(message.topic);
        let count = self.messages.len() + usize::from(before.is_none());
        let bytes = self.bytes + weight - before.map_or(0, |old| self::weight(message.topic, old));
        let within = |limit: Option<u64>, value: usize| {
            limit.is_none_or(|limit| u64::try_from(value).is_ok_and(|value| value <= limit))
        };
        if !within(quotas.retained_messages, count) || !within(quotas.retained_bytes, bytes) {
            return Err(DenyReason::RetainedQuotaExceeded);
        }
        self.remove(message.topic);
        self.bytes = bytes;
        self.expiring.extend(message.deadline.map(|deadline| (deadline, message.topic.into())));
        self.messages.insert(message.topic.into(), record);
        Ok(())
    }

    /// Forgets the message of a topic.
    pub(crate) fn remove(&mut self, topic: &str) {
        if let Some((topic, record)) = self.messages.remove_entry(topic) {
            self.bytes -= weight(&topic, &record);
            if let Some(deadline) = deadline(&record) {
                self.expiring.remove(&(deadline, topic));
            }
        }
    }

    /// Those that a filter matches and that have not expired.
    pub(crate) fn matching<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = &'a Bytes> {
        // Everything that it matches begins with what stands before its first wildcard.
        let literal = filter.find(['+', '#']).unwrap_or(filter.len());
        let prefix = filter.get(..literal).unwrap_or_default();
        // `a/#` matches `a` too.
        let prefix = if literal < filter.len() { prefix.trim_end_matches('/') } else { prefix };
        self.messages
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(topic, _)| topic.starts_with(prefix))
            .filter(move |(topic, _)| matches(filter, topic))
            .filter(|(_, record)| !has_expired(record))
            .map(|(_, record)| record)
    }

    /// Forgets what has expired.
    pub(crate) fn expire(&mut self) -> Vec<Box<str>> {
        let mut gone = Vec::new();
        while let Some((deadline, topic)) = self.expiring.first().cloned()
            && deadline.has_passed()
        {
            self.remove(&topic);
            gone.push(topic);
        }
        gone
    }

    /// Their topics.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &str> {
        self.messages.keys().map(|topic| &**topic)
    }

    /// What all of them weigh.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }
}

fn weight(topic: &str, record: &Bytes) -> usize {
    topic.len() + record.len() + OVERHEAD
}

fn deadline(record: &Bytes) -> Option<Deadline> {
    Message::read(record)?.0.deadline
}

fn has_expired(record: &Bytes) -> bool {
    deadline(record).is_some_and(Deadline::has_passed)
}

#[cfg(test)]
mod tests {
    use super::Retained;
    use crate::clock::Deadline;
    use crate::codec::QoS;
    use crate::record::Message;
    use bulkhead_policy::Quotas;

    fn message<'a>(topic: &'a str, payload: &'a str) -> Message<'a> {
        Message {
            topic,
            properties: &[],
            payload: payload.as_bytes(),
            qos: QoS::AtMostOnce,
            retain: true,
            packet_id: 0,
            deadline: None,
        }
    }

    fn put(retained: &mut Retained, message: Message<'_>, quotas: &Quotas) -> bool {
        retained.put(&message, message.to_bytes(), quotas).is_ok()
    }

    fn found(retained: &Retained, filter: &str) -> Vec<String> {
        let topics = retained.matching(filter).map(|record| Message::read(record).unwrap().0.topic);
        topics.map(str::to_owned).collect()
    }

    #[test]
    fn filters_find_what_they_match() {
        let mut retained = Retained::default();
        for topic in ["a", "a/b", "a/b/c", "ab", "b", "$s/x"] {
            assert!(put(&mut retained, message(topic, "1"), &Quotas::default()));
        }
        for (filter, expected) in [
            ("a/#", vec!["a", "a/b", "a/b/c"]),
            ("a/+", vec!["a/b"]),
            ("+", vec!["a", "ab", "b"]),
            ("#", vec!["a", "a/b", "a/b/c", "ab", "b"]),
            ("$s/#", vec!["$s/x"]),
            ("a/b", vec!["a/b"]),
            ("+/b", vec!["a/b"]),
            ("c", vec![]),
        ] {
            assert_eq!(found(&retained, filter), expected, "{filter}");
        }
    }

    #[test]
    fn a_quota_holds_and_gives_back() {
        let mut retained = Retained::default();
        let two = Quotas { retained_messages: Some(2), ..Quotas::default() };
        assert!(put(&mut retained, message("a", "1"), &two));
        assert!(put(&mut retained, message("b", "1"), &two));
        assert!(!put(&mut retained, message("c", "1"), &two));
        assert!(put(&mut retained, message("a", "2"), &two), "in the place of another");
        assert!(put(&mut retained, message("a", ""), &two), "an empty one removes");
        assert!(put(&mut retained, message("c", "1"), &two));
        let bytes = Quotas { retained_bytes: Some(400), ..Quotas::default() };
        assert!(!put(&mut retained, message("c", &"x".repeat(400)), &bytes));
        retained.remove("b");
        retained.remove("c");
        assert_eq!((retained.len(), retained.bytes), (0, 0));
    }

    #[test]
    fn what_has_expired_is_not_found() {
        let mut retained = Retained::default();
        let soon = Message { deadline: Some(Deadline::after(0)), ..message("a", "1") };
        assert!(put(&mut retained, soon, &Quotas::default()));
        assert_eq!(found(&retained, "#"), Vec::<String>::new());
        assert_eq!(retained.expire(), vec!["a".into()]);
        assert_eq!(retained.len(), 0);
    }
}
