//! What the sessions of one tenant have declared at the router, together.

use crate::budget::Share;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts declarations, and the names that they are for. A router keeps a name once, whoever declared
/// it, and compares each new one with all that it has: many of them are paid for by everybody.
#[derive(Debug, Default)]
pub(crate) struct Declarations {
    hasher: RandomState,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    counted: u64,
    /// How often each name is declared, by its hash.
    names: HashMap<u64, u32>,
}

/// One declaration, until it is dropped.
#[derive(Debug)]
pub(crate) struct Declaration {
    of: Arc<Declarations>,
    name: u64,
    counts: bool,
    has_left: bool,
    _bytes: Share,
}

impl Declarations {
    /// How many declarations there are.
    pub(crate) fn counted(&self) -> u64 {
        self.table().counted
    }

    /// One more of this name, if there is room for both, and in `bytes` for the name. It counts as a
    /// declaration where `most` says how many there may be, and only as a name, of which there may be
    /// `most_names`, without that.
    pub(crate) fn enter(
        self: &Arc<Self>,
        name: &str,
        most: Option<u64>,
        most_names: usize,
        mut bytes: Share,
    ) -> Option<Declaration> {
        if !bytes.hold(name.len()) {
            return None;
        }
        let name = self.hasher.hash_one(name);
        let mut table = self.table();
        if most.is_some_and(|most| table.counted >= most) {
            return None;
        }
        let room = table.names.len() < most_names;
        match table.names.entry(name) {
            Entry::Occupied(mut known) => *known.get_mut() += 1,
            Entry::Vacant(free) if room => drop(free.insert(1)),
            Entry::Vacant(_) => return None,
        }
        table.counted += u64::from(most.is_some());
        let (of, counts) = (Arc::clone(self), most.is_some());
        Some(Declaration { of, name, counts, has_left: false, _bytes: bytes })
    }

    /// Says whether there is no other one of this name.
    fn take_back(&self, name: u64, counts: bool) -> bool {
        let mut table = self.table();
        table.counted -= u64::from(counts);
        let Entry::Occupied(mut known) = table.names.entry(name) else { return false };
        *known.get_mut() -= 1;
        if *known.get() > 0 {
            return false;
        }
        known.remove();
        if table.names.is_empty() {
            table.names.shrink_to_fit();
        }
        true
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Declaration {
    /// Whether it is of this name.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.of.hasher.hash_one(name) == self.name
    }

    /// Takes it back. Says whether it was the last one of its name.
    pub(crate) fn leave(mut self) -> bool {
        self.has_left = true;
        self.of.take_back(self.name, self.counts)
    }
}

impl Drop for Declaration {
    fn drop(&mut self) {
        if !self.has_left {
            self.of.take_back(self.name, self.counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Declarations;
    use crate::budget::Budget;
    use std::sync::Arc;

    #[test]
    fn a_name_takes_one_place_however_often_it_is_declared() {
        let (all, bytes) = (Arc::new(Declarations::default()), Budget::new(4));
        let enter = |name| all.enter(name, Some(3), 2, bytes.share());
        let id_of = |name| all.enter(name, None, 2, bytes.share());
        let (first, second) = (enter("a").unwrap(), enter("a").unwrap());
        let other = enter("b").unwrap();
        assert!(enter("a").is_none(), "three are there");
        assert!(id_of("c").is_none(), "two names are");
        let id = id_of("a").unwrap();
        assert!(id.is_of("a") && !id.is_of("b"));
        assert!(!first.leave() && !second.leave());
        assert!(id_of("c").is_none(), "the id still holds the name");
        assert!(id.leave(), "nothing else does");
        assert!(id_of("five").is_none(), "one byte is taken of four");
        assert!(id_of("abc").is_some_and(|name| name.leave()));
        drop(other);
        assert!(all.table().names.is_empty());
        assert_eq!(all.table().counted, 0);
    }
}
