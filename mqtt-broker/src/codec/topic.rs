//! Topic names and filters.

/// Longest topic name or filter, in bytes (§4.7.3).
const MAX_BYTES: usize = 65_535;

/// Whether a message can be published to `text` (§4.7.3): 1 to 65,535 bytes without `+`, `#` and
/// U+0000.
#[inline]
pub fn is_topic_name(text: &str) -> bool {
    // Without an early exit the loop runs over many bytes at a time.
    let foul = text.bytes().fold(false, |foul, byte| foul | matches!(byte, b'+' | b'#' | b'\0'));
    (1..=MAX_BYTES).contains(&text.len()) && !foul
}

/// What a client subscribes to (§4.7, §4.8.2).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicFilter<'a> {
    /// The group of a shared subscription: not empty, without `/`, `+` and `#`.
    pub share: Option<&'a str>,
    /// The filter proper: whole levels, with `+` for any one of them and a final `#` for the name so
    /// far and everything below it.
    pub filter: &'a str,
}

impl<'a> TopicFilter<'a> {
    /// Reads a filter of 1 to 65,535 bytes, or `$share/{group}/{filter}`. `None` if it is neither;
    /// that is answered with `TOPIC_FILTER_INVALID` for the one subscription (§3.9.3).
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_BYTES || text.contains('\0') {
            return None;
        }
        let (share, filter) = match text.strip_prefix("$share/") {
            None => (None, text),
            Some(shared) => {
                let (group, filter) = shared.split_once('/')?;
                if group.is_empty() || group.contains(['+', '#']) {
                    return None;
                }
                (Some(group), filter)
            }
        };
        is_filter(filter).then_some(Self { share, filter })
    }
}

fn is_filter(text: &str) -> bool {
    let mut ended = false;
    !text.is_empty()
        && text.split('/').all(|level| {
            let last = std::mem::replace(&mut ended, level == "#");
            !last && (matches!(level, "+" | "#") || !level.contains(['+', '#']))
        })
}

/// Whether a message to `topic` goes to subscribers of `filter` (§4.7).
///
/// Both are taken as well-formed, and the filter without its `$share/{group}/`. A topic that begins
/// with `$` is matched only by a filter that spells its first level out (§4.7.2).
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let slash = |byte: &u8| *byte == b'/';
    let mut levels = topic.as_bytes().split(slash);
    for step in filter.as_bytes().split(slash) {
        if step == b"#" {
            return true;
        }
        match levels.next() {
            Some(level) if step == b"+" || step == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::{TopicFilter, is_topic_name, matches};

    #[test]
    fn topic_names_have_no_wildcards() {
        for name in ["a", "/", "a//b", "$SYS/x", "a b", "é", &"x".repeat(65_535)] {
            assert!(is_topic_name(name), "{name}");
        }
        for name in ["", "+", "#", "a/+", "a/#", "a+", "a\0", &"x".repeat(65_536)] {
            assert!(!is_topic_name(name), "{name:?}");
        }
    }

    #[test]
    fn wildcards_fill_whole_levels() {
        for filter in ["#", "+", "/", "a/#", "+/a/+", "/+", "a//#", "$SYS/#", "a", "é/+/€"] {
            assert_eq!(TopicFilter::parse(filter), Some(TopicFilter { share: None, filter }));
        }
        for filter in
            ["", "a#", "a/#/b", "a+b", "#/", "##", "++", "a/b#", "+a", "a\0", &"x".repeat(65_536)]
        {
            assert_eq!(TopicFilter::parse(filter), None, "{filter:?}");
        }
    }

    #[test]
    fn shared_subscriptions_have_a_group_and_a_filter() {
        assert_eq!(
            TopicFilter::parse("$share/g/a/+/#"),
            Some(TopicFilter { share: Some("g"), filter: "a/+/#" })
        );
        assert_eq!(
            TopicFilter::parse("$share/g//"),
            Some(TopicFilter { share: Some("g"), filter: "/" })
        );
        for filter in [
            "$share/",
            "$share//x",
            "$share/+/x",
            "$share/g#/x",
            "$share/g",
            "$share/g/",
            "$share/g/a#",
            "$share/\0/a",
        ] {
            assert_eq!(TopicFilter::parse(filter), None, "{filter}");
        }
        for filter in ["$share", "$shared/g/x", "$SHARE/g/x", "a/$share/g/x"] {
            assert_eq!(TopicFilter::parse(filter), Some(TopicFilter { share: None, filter }));
        }
    }

    #[test]
    fn filters_match_as_the_specification_says() {
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "a/b"),
            ("#", "/"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+/tennis/#", "a/tennis/b"),
            ("$SYS/#", "$SYS/a"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("a", "a"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/a"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("+", "$SYS"),
            ("a", "A"),
            ("a/b", "a"),
            ("a", "a/b"),
            ("/a", "a"),
            ("a/", "a"),
            ("sport/#", "sports"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }
}
