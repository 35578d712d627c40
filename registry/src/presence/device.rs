use super::{Document, Pending};
use crate::store::Lease;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A device that is present.
pub(crate) struct Device {
    pub(crate) document: Document,
    pub(crate) device_type: Option<Box<str>>,
    pub(crate) location: Option<Box<str>>,
    pub(crate) functions: u32,
    /// When it was last heard of.
    pub(super) last_seen: Instant,
    /// Over which backend that was.
    pub(super) via: Via,
    /// What keeps its key in the store, where stores have such.
    pub(super) lease: Option<Arc<Lease>>,
    /// Others have been told that it is there.
    pub(super) told: bool,
    /// The store may have it.
    pub(super) handed: bool,
    /// When it is looked at.
    pub(super) scheduled: Option<Instant>,
    /// It was silent for too long; that is still to be written.
    pub(super) leaving: bool,
    /// Changes with the document.
    pub(super) version: u64,
    pub(super) pending: Option<Box<Pending>>,
}

/// A way to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Via {
    Nats,
    Mqtt,
    Zenoh,
    /// It has not been heard of since it was found in the store.
    Unknown,
}

impl Via {
    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Mqtt => "mqtt",
            Self::Zenoh => "zenoh",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the device cannot be asked for its document, which has to be remembered then.
    pub(crate) fn is_deaf(self) -> bool {
        self == Self::Mqtt
    }
}

impl Device {
    pub(super) fn new(document: Document, via: Via, now: Instant) -> Self {
        let (device_type, location, functions) = document.facts();
        Self {
            document,
            device_type,
            location,
            functions,
            last_seen: now,
            via,
            lease: None,
            told: false,
            handed: false,
            scheduled: None,
            leaving: false,
            version: 0,
            pending: None,
        }
    }

    /// Takes another document for its own. Returns whether it is found elsewhere now.
    pub(super) fn replace(&mut self, document: Document, via: Via, now: Instant) -> bool {
        let new = Self::new(document, via, now);
        let has_moved = self.leaving
            || self.device_type != new.device_type
            || self.location != new.location
            || self.functions != new.functions;
        *self = Self {
            lease: self.lease.take(),
            told: self.told,
            handed: self.handed,
            scheduled: self.scheduled,
            version: self.version + 1,
            pending: self.pending.take(),
            ..new
        };
        has_moved
    }

    /// When it was last heard of, by the clock on the wall.
    pub(crate) fn seen_at(&self) -> Timestamp {
        let ago = jiff::SignedDuration::try_from(self.last_seen.elapsed()).unwrap_or_default();
        Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// When it has been silent for too long.
    pub(super) fn deadline(&self) -> Instant {
        self.last_seen + Duration::from_secs(self.document.ttl().into())
    }

    /// Looks at its status again. Returns whether it is somewhere else now.
    pub(super) fn look(&mut self) -> bool {
        let location = self.document.location();
        let before = std::mem::replace(&mut self.location, location);
        before != self.location
    }
}
