//! A bound on what one address can begin without ending it.

use crate::limits::network;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that nobody has been authenticated on yet, by source. It holds no more sources than
/// there are such connections.
#[derive(Debug)]
pub struct Pending {
    max: usize,
    sources: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them; dropped when somebody has.
#[derive(Debug)]
pub struct Entered {
    pending: Arc<Pending>,
    source: IpAddr,
}

impl Pending {
    /// At most `max` from each source.
    pub fn new(max: usize) -> Self {
        Self { max, sources: Mutex::default() }
    }

    /// Counts one more, if there are not too many.
    pub fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Entered> {
        let source = network(source);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Entered { pending: Arc::clone(self), source })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut sources = self.pending.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = sources.entry(self.source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pending;
    use std::sync::Arc;

    #[test]
    fn each_source_has_its_own_places_and_gives_them_back() {
        let pending = Arc::new(Pending::new(2));
        let (one, other) = ("2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let same_network = "2001:db8::2".parse().unwrap();
        let places = (pending.enter(one).unwrap(), pending.enter(same_network).unwrap());
        assert!(pending.enter(one).is_none());
        assert!(pending.enter(other).is_some());
        drop(places);
        assert!(pending.enter(one).is_some());
        assert!(pending.sources.lock().unwrap().is_empty());
    }
}
