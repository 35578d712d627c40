use super::delivery::{Delivered, Handover};
use super::outgoing::Outgoing;
use super::route::limits;
use super::trie::{MAX_LEVELS, Subscriber};
use super::window::{Terms, Waiting};
use super::{Inside, Realm, Session, Subscription};
use crate::codec::{ReasonCode, RetainHandling, TopicFilter};
use crate::hook::{Access, Operation};
use crate::record::Message;
use crate::store::Steps;
use bulkhead_policy::DenyReason;
use bytes::Bytes;
use std::sync::Arc;

impl Realm {
    /// Subscribes a session to a filter (MQTT 5 §3.8). Returns what is retained there and is to be
    /// [sent](Self::send_retained) to it.
    ///
    /// # Errors
    /// The reason code for SUBACK.
    pub(crate) fn subscribe(
        &self,
        session: &Arc<Session>,
        text: &str,
        subscription: Subscription,
    ) -> Result<Vec<Bytes>, ReasonCode> {
        let parsed = TopicFilter::parse(text);
        let Some(parsed) = parsed.filter(|p| p.filter.split('/').count() <= MAX_LEVELS) else {
            return Err(ReasonCode::TOPIC_FILTER_INVALID);
        };
        let filter = self.mounted(parsed.filter);
        let access = Arc::clone(&session.lock().access);
        if let Err(reason) = access.subscribe(&filter) {
            self.denied(&*access, Operation::Subscribe, reason);
            return Err(ReasonCode::NOT_AUTHORIZED);
        }
        let mut inside = self.lock();
        if inside.sessions.get(&session.key).is_none_or(|known| known != session) {
            // Another connection has ended it. Nobody would take this subscription away again.
            return Err(ReasonCode::UNSPECIFIED_ERROR);
        }
        let (is_new, own) = {
            let subscriptions = &session.lock().subscriptions;
            (!subscriptions.contains_key(text), subscriptions.len())
        };
        let limit = self.quotas.load().subscriptions;
        let has_room = own < self.shared.settings.max_subscriptions;
        if is_new && !(has_room && self.usage.subscriptions.add(limit)) {
            self.denied(&*access, Operation::Subscribe, DenyReason::SubscriptionQuotaExceeded);
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        {
            let mut state = session.lock();
            state.subscriptions.insert(text.into(), subscription);
            if let Some(store) = state.store() {
                let mut steps = Steps::default();
                let options = subscription.options.to_bits();
                store.subscribe(&mut steps, text, options, subscription.id);
                store.take(steps);
            }
        }
        let subscriber = Subscriber {
            who: Arc::clone(session),
            options: subscription.options,
            id: subscription.id,
        };
        inside.subscriptions.insert(&filter, parsed.share, subscriber);
        let wanted = match subscription.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DontSend => false,
        };
        if !wanted || parsed.share.is_some() {
            return Ok(Vec::new());
        }
        let mut retained: Vec<_> = inside.retained.matching(&filter).cloned().collect();
        drop(inside);
        if self.tenant.is_none() {
            retained.extend(self.shared.retained_of_tenants(&filter));
        }
        Ok(retained)
    }

    /// Ends a subscription (MQTT 5 §3.10).
    pub(crate) fn unsubscribe(&self, session: &Arc<Session>, text: &str) -> ReasonCode {
        if TopicFilter::parse(text).is_none() {
            return ReasonCode::TOPIC_FILTER_INVALID;
        }
        let mut inside = self.lock();
        {
            let mut state = session.lock();
            if state.subscriptions.remove(text).is_none() {
                return ReasonCode::NO_SUBSCRIPTION_EXISTED;
            }
            if let Some(store) = state.store() {
                let mut steps = Steps::default();
                store.unsubscribe(&mut steps, text);
                store.take(steps);
            }
        }
        self.usage.subscriptions.remove(1);
        self.remove_from_trie(&mut inside, session, text);
        ReasonCode::SUCCESS
    }

    /// The retained messages that a filter matches.
    pub(crate) fn retained(&self, filter: &str) -> Vec<Bytes> {
        self.lock().retained.matching(filter).cloned().collect()
    }

    pub(super) fn remove_from_trie(&self, inside: &mut Inside, session: &Arc<Session>, text: &str) {
        if let Some(parsed) = TopicFilter::parse(text) {
            let filter = self.mounted(parsed.filter);
            inside.subscriptions.remove(&filter, parsed.share, session);
        }
    }

    /// A name as the realm knows it.
    pub(crate) fn mounted(&self, name: &str) -> String {
        format!("{}{name}", self.mount)
    }

    pub(super) fn may_subscribe(&self, access: &dyn Access, text: &str) -> bool {
        let parsed = TopicFilter::parse(text);
        parsed.is_some_and(|parsed| access.subscribe(&self.mounted(parsed.filter)).is_ok())
    }

    /// Sends retained messages to a new subscription of a client.
    pub(crate) fn send_retained(
        &self,
        session: &Arc<Session>,
        retained: &[Bytes],
        subscription: Subscription,
    ) {
        let mut steps = Steps::default();
        let mut handover = Handover { limits: limits(self), steps: &mut steps };
        for record in retained {
            let Some((message, _)) = Message::read(record) else { continue };
            let terms = Terms {
                qos: message.qos.min(subscription.options.qos) as u8,
                retain: true,
                ids: subscription.id.into_iter().collect(),
                group: None,
            };
            let mut outgoing = Outgoing::of_record(message, record);
            // The connection itself asks for this, and looks afterwards.
            let delivered = session.lock().deliver(session, &mut outgoing, &terms, &mut handover);
            if delivered == Delivered::Dropped {
                self.shared.metrics.dropped(1);
            }
        }
        session.lock().write_down(steps);
    }

    /// Gives what a session of a shared subscription did not get to the others (MQTT 5 §4.8.2).
    pub(super) fn hand_on(&self, inside: &Inside, session: &Arc<Session>, waiting: Vec<Waiting>) {
        let mut steps = Steps::default();
        for Waiting { record, terms } in waiting {
            let Some(group) = terms.group.as_deref() else { continue };
            let Some((message, _)) = Message::read(&record) else { continue };
            self.deliver_to_group(inside, session, &message, &record, group, &mut steps);
        }
        if let Some(store) = &self.shared.store {
            store.take(steps);
        }
    }
}
