//! What the client may do, when that has changed or its end is near.

use super::{End, Relay};
use crate::codec::unsubscribe;
use crate::hook::{Noted, Operation};
use crate::upstream::{up, wills};
use bulkhead_control::usage::Uncounted;
use bulkhead_policy::DenyReason;
use std::sync::Arc;

/// Filters in one UNSUBSCRIBE of the front's own.
const FILTERS: usize = 64;

impl Relay {
    /// The client has gone, and has not taken its will with it. Whether the broker may publish that.
    pub(in crate::upstream) fn leave_will(&self) -> bool {
        let Some(will) = &self.will else { return true };
        let allowed = wills::may_publish(&*self.access, &will.topic);
        let mut uncounted = Uncounted::default();
        let allowed = allowed.and_then(|()| self.access.spend(will.bytes, &mut uncounted));
        self.access.count(&mut uncounted);
        if let Err(reason) = allowed {
            self.denied(Operation::Will, reason);
            return false;
        }
        let handle = &self.seat.handle;
        if will.delay.min(self.expiry) == 0 || handle.ending() == Some(End::TakenOver) {
            return true;
        }
        let access = Arc::clone(&self.access);
        let waits =
            self.seat.tenancy.wills.wait(handle.key.clone(), will.clone(), access, self.expiry);
        if !waits {
            self.denied(Operation::Will, DenyReason::Overloaded);
        }
        waits
    }

    /// Ends, or goes on with other rights, if it was told so. Says whether there are others.
    pub(super) fn look_at_rights(&mut self) -> Result<bool, End> {
        let rights = self.seat.handle.rights();
        if self.rights == rights {
            return Ok(false);
        }
        if let Some(end) = self.seat.handle.ending() {
            return Err(end);
        }
        self.rights = rights;
        self.take_over_rights();
        Ok(true)
    }

    /// Goes on with other rights: open subscriptions beyond them end at the broker, and whatever
    /// still comes from there is looked at anew.
    fn take_over_rights(&mut self) {
        self.access = self.seat.handle.access();
        self.heard.clear();
        self.up.forget_decisions();
        let (access, names) = (&*self.access, &self.names);
        let is_allowed = |filter: &str| {
            let wanted = up::wanted(names, filter);
            wanted.is_ok_and(|wanted| access.subscribe(wanted.mounted()).is_ok())
        };
        let ended = self.open.retain(is_allowed, &self.seat.tenancy.usage.subscriptions);
        self.shared.metrics.denied(Operation::Subscribe, DenyReason::RightsChanged, ended.len());
        let wire: Vec<_> = ended
            .iter()
            .filter_map(|filter| up::wanted(&self.names, filter).ok())
            .map(|wanted| wanted.wire)
            .collect();
        for filters in wire.chunks(FILTERS) {
            let filters: Vec<_> = filters.iter().map(|filter| &**filter).collect();
            let id = self.requests.own_unsubscribe();
            unsubscribe(self.broker.out(), self.version, id, &[], &filters);
        }
    }

    /// Counts what was refused, and tells whoever decided.
    pub(in crate::upstream) fn denied(&self, operation: Operation, reason: DenyReason) {
        self.shared.metrics.denied(operation, reason, 1);
        self.access.note(Noted::Denied(operation, reason));
    }
}
