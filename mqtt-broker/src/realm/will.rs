use super::{Realm, Session, Will};
use crate::bus::Batch;
use crate::clock::Deadline;
use crate::hook::{Operation, Renewal};
use crate::record::Message;
use bulkhead_control::usage::Uncounted;
use std::sync::Arc;

impl Realm {
    /// Publishes a will, if its client may still publish there: its rights may have changed since it
    /// connected.
    pub(super) fn publish_will(&self, session: &Arc<Session>, will: &Will) {
        let Some((message, _)) = Message::read(&will.record) else { return };
        let access = Arc::clone(&session.lock().access);
        let access = match access.renew() {
            Ok(Renewal::Unchanged) => access,
            Ok(Renewal::Changed(access)) => access,
            Err(reason) => return self.denied(&*access, Operation::Will, reason),
        };
        let (allowed, mut uncounted) = (access.publish(message.topic), Uncounted::default());
        let allowed = allowed.and_then(|()| access.spend(message.payload.len(), &mut uncounted));
        access.count(&mut uncounted);
        if let Err(reason) = allowed {
            return self.denied(&*access, Operation::Will, reason);
        }
        let deadline = will.expiry.map(Deadline::after);
        let records = Message { deadline, ..message }.to_bytes();
        self.lane.push(Batch { publisher: None, access: Some(access), records });
    }
}
