use crate::codec::Publish;
use crate::settings::TOPIC_ALIASES;
use std::borrow::Cow;

/// Topic aliases that a client has set up on its connection (MQTT 5 §3.3.2.3.4): at most 32.
#[derive(Debug, Default)]
pub(crate) struct TopicAliases(Vec<Option<Box<str>>>);

/// An alias above the maximum, or one that stands for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownAlias;

impl TopicAliases {
    /// The topic of a PUBLISH, or the one that its alias stands for.
    pub(crate) fn topic<'a>(
        &mut self,
        publish: &Publish<'a>,
    ) -> Result<Cow<'a, str>, UnknownAlias> {
        let Some(alias) = publish.properties.topic_alias() else {
            return Ok(Cow::Borrowed(publish.topic));
        };
        if alias > TOPIC_ALIASES {
            return Err(UnknownAlias);
        }
        let index = usize::from(alias).checked_sub(1).ok_or(UnknownAlias)?;
        if publish.topic.is_empty() {
            let known = self.0.get(index).cloned().flatten().ok_or(UnknownAlias)?;
            return Ok(Cow::Owned(known.into_string()));
        }
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(publish.topic.into());
        }
        Ok(Cow::Borrowed(publish.topic))
    }
}

#[cfg(test)]
mod tests {
    use super::{TopicAliases, UnknownAlias};
    use crate::codec::{PropertiesBuf, Property, Publish, QoS};

    fn topic(aliases: &mut TopicAliases, topic: &str, alias: u16) -> Result<String, UnknownAlias> {
        let properties: PropertiesBuf = [Property::TopicAlias(alias)].into_iter().collect();
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic,
            packet_id: 0,
            properties: properties.as_properties(),
            payload: b"",
        };
        aliases.topic(&publish).map(|topic| topic.into_owned())
    }

    #[test]
    fn an_alias_stands_for_the_last_topic_that_it_came_with() {
        let mut aliases = TopicAliases::default();
        assert_eq!(topic(&mut aliases, "", 32), Err(UnknownAlias));
        assert_eq!(topic(&mut aliases, "a", 32).as_deref(), Ok("a"));
        assert_eq!(topic(&mut aliases, "", 32).as_deref(), Ok("a"));
        assert_eq!(topic(&mut aliases, "b", 32).as_deref(), Ok("b"));
        assert_eq!(topic(&mut aliases, "", 32).as_deref(), Ok("b"));
        assert_eq!(topic(&mut aliases, "", 1), Err(UnknownAlias));
        assert_eq!(topic(&mut aliases, "a", 33), Err(UnknownAlias));
        assert_eq!(topic(&mut aliases, "a", 0), Err(UnknownAlias));
    }
}
