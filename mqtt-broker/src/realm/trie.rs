use crate::codec::SubscriptionOptions;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most levels of a filter; what is deeper is refused, so that nothing here goes deeper.
pub(crate) const MAX_LEVELS: usize = 128;

/// Subscriptions by filter (MQTT 5 §4.7). `T` is who subscribes, found again by `==`.
#[derive(Debug)]
pub(crate) struct Trie<T> {
    root: Node<T>,
}

/// One client's subscription.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber<T> {
    /// Who.
    pub(crate) who: T,
    /// How.
    pub(crate) options: SubscriptionOptions,
    /// Its subscription identifier (MQTT 5 §3.8.2.1.2).
    pub(crate) id: Option<u32>,
}

/// A shared subscription (MQTT 5 §4.8.2): each message goes to one of them.
#[derive(Debug)]
pub(crate) struct Group<T> {
    name: Arc<str>,
    members: Vec<Subscriber<T>>,
    next: AtomicUsize,
}

/// What matches a topic.
#[derive(Debug)]
pub(crate) enum Match<'a, T> {
    /// A client of its own.
    One(&'a Subscriber<T>),
    /// One of a group.
    Shared(&'a Group<T>),
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<str>, Node<T>>,
    /// `+`.
    any: Option<Box<Node<T>>>,
    /// Filters that end here.
    here: Leaf<T>,
    /// Filters that end in `#` below here.
    rest: Leaf<T>,
}

#[derive(Debug)]
struct Leaf<T> {
    subscribers: Vec<Subscriber<T>>,
    groups: Vec<Group<T>>,
}

impl<T: PartialEq> Trie<T> {
    pub(crate) fn new() -> Self {
        Self { root: Node::new() }
    }

    /// Adds a subscription, or replaces the client's own of the same filter and group. Says whether
    /// it is new.
    pub(crate) fn insert(
        &mut self,
        filter: &str,
        share: Option<&str>,
        subscriber: Subscriber<T>,
    ) -> bool {
        let leaf = self.root.leaf(filter);
        let members = match share {
            None => &mut leaf.subscribers,
            Some(name) => {
                let at = leaf.groups.iter().position(|group| *group.name == *name);
                let at = at.unwrap_or_else(|| {
                    leaf.groups.push(Group {
                        name: name.into(),
                        members: Vec::new(),
                        next: AtomicUsize::new(0),
                    });
                    leaf.groups.len() - 1
                });
                match leaf.groups.get_mut(at) {
                    Some(group) => &mut group.members,
                    None => return false,
                }
            }
        };
        match members.iter_mut().find(|known| known.who == subscriber.who) {
            Some(known) => {
                *known = subscriber;
                false
            }
            None => {
                members.push(subscriber);
                true
            }
        }
    }

    /// Removes a subscription. Says whether there was one.
    pub(crate) fn remove(&mut self, filter: &str, share: Option<&str>, who: &T) -> bool {
        self.root.remove(filter, share, who)
    }

    /// Calls `found` with everything that matches a topic. What begins with a wildcard does not match
    /// topics that begin with `$` (MQTT 5 §4.7.2).
    pub(crate) fn matches<'a>(&'a self, topic: &str, mut found: impl FnMut(Match<'a, T>)) {
        self.root.visit(Some(topic), topic.starts_with('$'), &mut found);
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

impl<T> Group<T> {
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The members, from the one whose turn it is.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = &Subscriber<T>> {
        let from = self.next.fetch_add(1, Ordering::Relaxed) % self.members.len().max(1);
        self.members.iter().cycle().skip(from).take(self.members.len())
    }
}

impl<T: PartialEq> Node<T> {
    fn new() -> Self {
        Self { children: HashMap::new(), any: None, here: Leaf::new(), rest: Leaf::new() }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.any.is_none()
            && self.here.is_empty()
            && self.rest.is_empty()
    }

    fn leaf(&mut self, filter: &str) -> &mut Leaf<T> {
        let mut node = self;
        for level in filter.split('/') {
            node = match level {
                "#" => return &mut node.rest,
                "+" => node.any.get_or_insert_with(|| Box::new(Self::new())),
                literal => node.children.entry(literal.into()).or_insert_with(Self::new),
            };
        }
        &mut node.here
    }

    fn remove(&mut self, filter: &str, share: Option<&str>, who: &T) -> bool {
        let (level, below) = match filter.split_once('/') {
            Some((level, below)) => (level, Some(below)),
            None => (filter, None),
        };
        let step = |node: &mut Self| match below {
            Some(below) => node.remove(below, share, who),
            None => node.here.remove(share, who),
        };
        match level {
            "#" => self.rest.remove(share, who),
            "+" => {
                let Some(node) = &mut self.any else { return false };
                let removed = step(node);
                if node.is_empty() {
                    self.any = None;
                }
                removed
            }
            literal => {
                let Entry::Occupied(mut entry) = self.children.entry(literal.into()) else {
                    return false;
                };
                let removed = step(entry.get_mut());
                if entry.get().is_empty() {
                    entry.remove();
                }
                removed
            }
        }
    }

    /// `topic` is what is left of it; `None` when it has ended here.
    fn visit<'a>(
        &'a self,
        topic: Option<&str>,
        system: bool,
        found: &mut impl FnMut(Match<'a, T>),
    ) {
        if !system {
            // `a/#` matches `a` too.
            self.rest.visit(found);
        }
        let Some(topic) = topic else {
            return self.here.visit(found);
        };
        let (level, below) = match topic.split_once('/') {
            Some((level, below)) => (level, Some(below)),
            None => (topic, None),
        };
        if let Some(node) = self.children.get(level) {
            node.visit(below, false, found);
        }
        if let Some(node) = self.any.as_ref().filter(|_| !system) {
            node.visit(below, false, found);
        }
    }
}

impl<T: PartialEq> Leaf<T> {
    fn new() -> Self {
        Self { subscribers: Vec::new(), groups: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.groups.is_empty()
    }

    fn remove(&mut self, share: Option<&str>, who: &T) -> bool {
        let without = |members: &mut Vec<Subscriber<T>>| {
            let at = members.iter().position(|known| known.who == *who);
            at.map(|at| members.remove(at)).is_some()
        };
        match share {
            None => without(&mut self.subscribers),
            Some(name) => {
                let group = self.groups.iter_mut().find(|group| *group.name == *name);
                let removed = group.is_some_and(|group| without(&mut group.members));
                self.groups.retain(|group| !group.members.is_empty());
                removed
            }
        }
    }

    fn visit<'a>(&'a self, found: &mut impl FnMut(Match<'a, T>)) {
        self.subscribers.iter().for_each(|subscriber| found(Match::One(subscriber)));
        self.groups.iter().for_each(|group| found(Match::Shared(group)));
    }
}

#[cfg(test)]
mod tests {
    use super::{Match, Subscriber, Trie};
    use crate::codec::{SubscriptionOptions, matches};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn subscriber(who: usize) -> Subscriber<usize> {
        Subscriber { who, options: SubscriptionOptions::default(), id: None }
    }

    fn found(trie: &Trie<usize>, topic: &str) -> Vec<usize> {
        let mut found = Vec::new();
        trie.matches(topic, |matched| match matched {
            Match::One(subscriber) => found.push(subscriber.who),
            Match::Shared(group) => found.extend(group.in_turn().next().map(|s| s.who)),
        });
        found.sort_unstable();
        found
    }

    fn name() -> impl Strategy<Value = String> {
        vec(prop::sample::select(vec!["a", "b", "", "$x"]), 1..5).prop_map(|v| v.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let levels = vec(prop::sample::select(vec!["a", "b", "", "$x", "+"]), 1..5);
        (levels, any::<bool>()).prop_map(|(levels, rest)| {
            let text = levels.join("/");
            if rest { format!("{text}/#") } else { text }
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_the_specification_matches(
            filters in vec(prop_oneof![filter(), Just("#".to_owned())], 0..12),
            topic in name(),
        ) {
            prop_assume!(!topic.is_empty());
            let mut trie = Trie::new();
            for (who, filter) in filters.iter().enumerate() {
                prop_assert!(trie.insert(filter, None, subscriber(who)));
            }
            let expected: Vec<_> = (0..filters.len()).filter(|i| matches(&filters[*i], &topic)).collect();
            prop_assert_eq!(found(&trie, &topic), expected);
            for (who, filter) in filters.iter().enumerate() {
                prop_assert!(trie.remove(filter, None, &who));
                prop_assert!(!trie.remove(filter, None, &who));
            }
            prop_assert!(trie.is_empty(), "nothing is left behind");
        }
    }

    #[test]
    fn a_group_takes_turns_and_is_no_subscription_of_its_members() {
        let mut trie = Trie::new();
        for who in 0..3 {
            assert!(trie.insert("a/+", Some("g"), subscriber(who)));
        }
        assert!(!trie.insert("a/+", Some("g"), subscriber(0)), "the same again");
        let mut turns: Vec<_> = (0..6).flat_map(|_| found(&trie, "a/b")).collect();
        turns.sort_unstable();
        assert_eq!(turns, [0, 0, 1, 1, 2, 2]);
        assert!(!trie.remove("a/+", None, &0));
        assert!((0..3).all(|who| trie.remove("a/+", Some("g"), &who)));
        assert!(trie.is_empty());
    }
}
