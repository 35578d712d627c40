use super::trie::Subscriber;
use super::{Realm, Session, SessionKey, Subscription, Timer};
use crate::clock::Deadline;
use crate::codec::{SubscriptionOptions, TopicFilter};
use crate::hook::{Access, Renewal};
use crate::record::Message;
use crate::store::{RestoredSession, SessionStore};
use bulkhead_policy::{DenyReason, DeviceId, Quotas, Scope, Verdict};
use bytes::Bytes;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Realm {
    /// Puts back a session that survived a restart. Its client's rights are asked about when it comes
    /// back; until then nothing leaves.
    pub(crate) fn restore_session(&self, session: RestoredSession, store: SessionStore) {
        let meta = session.meta;
        let scope = self.tenant.clone().map_or(Scope::Service, Scope::Tenant);
        let device = DeviceId::parse(&meta.device).ok();
        let key = SessionKey { device: device.clone(), client_id: meta.client_id.into() };
        let access: Arc<dyn Access> = Arc::new(Away { scope, device });
        let serial = self.shared.next_serial();
        let restored =
            Arc::new(Session::new(key.clone(), serial, access, Arc::clone(&self.queued)));
        let mut inside = self.lock();
        for (text, options, id) in session.subscriptions {
            let (Some(options), Some(parsed)) =
                (SubscriptionOptions::from_bits(options), TopicFilter::parse(&text))
            else {
                continue;
            };
            let subscriber = Subscriber { who: Arc::clone(&restored), options, id };
            inside.subscriptions.insert(&self.mounted(parsed.filter), parsed.share, subscriber);
            self.usage.subscriptions.add(None);
            let subscription = Subscription { options, id };
            restored.lock().subscriptions.insert(text.as_str().into(), subscription);
        }
        let mut state = restored.lock();
        state.expiry = meta.expiry;
        state.restore(store, session.messages, session.received);
        // One that was connected begins to wait now.
        let left = Deadline::from_bits(meta.ends).map_or(meta.expiry, Deadline::remaining);
        if meta.expiry != u32::MAX {
            let at = Instant::now() + Duration::from_secs(left.into());
            state.timers.push(at);
            inside.timers.insert((at, serial), (Timer::Expiry, Arc::clone(&restored)));
        }
        drop(state);
        inside.sessions.insert(key, restored);
    }

    /// Puts back a retained message that survived a restart.
    pub(crate) fn restore_retained(&self, record: Bytes) {
        let Some((message, _)) = Message::read(&record) else { return };
        // It was within its quota when it was kept.
        let _ = self.lock().retained.put(&message, record.clone(), &Quotas::default());
    }
}

/// What a client may do that has not come back since a restart: nothing of its own accord. What it
/// subscribed to it was allowed to, and is asked about again before anything is delivered.
struct Away {
    scope: Scope,
    device: Option<DeviceId>,
}

impl Access for Away {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn device(&self) -> Option<&DeviceId> {
        self.device.as_ref()
    }

    fn publish(&self, _: &str) -> Verdict<()> {
        Err(DenyReason::PublishDenied)
    }

    fn subscribe(&self, _: &str) -> Verdict<()> {
        Ok(())
    }

    fn receives(&self, _: &str) -> bool {
        true
    }

    fn expires_at(&self) -> Option<Timestamp> {
        None
    }

    fn quotas(&self) -> Quotas {
        Quotas::default()
    }

    fn renew(&self) -> Verdict<Renewal> {
        Ok(Renewal::Unchanged)
    }
}
