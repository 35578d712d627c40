//! What the sessions of one tenant have declared at the router, together.

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
}

impl Declarations {
    /// How many declarations there are.
    pub(crate) fn counted(&self) -> u64 {
        self.table().counted
    }

    /// One more of this name, if there is room for both. It counts as a declaration where `most` says
    /// how many there may be, and only as a name, of which there may be `most_names`, without that.
    pub(crate) fn enter(
        self: &Arc<Self>,
        name: &str,
        most: Option<u64>,
        most_names: usize,
    ) -> Option<Declaration> {
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
        Some(Declaration { of: Arc::clone(self), name, counts: most.is_some() })
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
}

impl Drop for Declaration {
    fn drop(&mut self) {
        let mut table = self.of.table();
        table.counted -= u64::from(self.counts);
        if let Entry::Occupied(mut known) = table.names.entry(self.name) {
            *known.get_mut() -= 1;
            if *known.get() == 0 {
                known.remove();
            }
        }
        if table.names.is_empty() {
            table.names.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Declarations;
    use std::sync::Arc;

    #[test]
    fn a_name_takes_one_place_however_often_it_is_declared() {
        let all = Arc::new(Declarations::default());
        let enter = |name| all.enter(name, Some(3), 2);
        let (first, second) = (enter("a").unwrap(), enter("a").unwrap());
        let other = enter("b").unwrap();
        assert!(enter("a").is_none(), "three are there");
        assert!(all.enter("c", None, 2).is_none(), "two names are");
        let id = all.enter("a", None, 2).unwrap();
        assert!(id.is_of("a") && !id.is_of("b"));
        drop((first, second));
        assert!(all.enter("c", None, 2).is_none(), "the id still holds the name");
        drop(id);
        assert!(all.enter("c", None, 2).is_some());
        drop(other);
        assert!(all.table().names.is_empty());
        assert_eq!(all.table().counted, 0);
    }
}
