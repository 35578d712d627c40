//! What Prometheus gets to see of the broker.

use crate::hook::Operation;
use bulkhead_policy::DenyReason;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The broker's metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Connections that have come to their CONNECT.
    pub(crate) connections: IntGauge,
    /// Sessions, connected or not.
    pub(crate) sessions: IntGauge,
    /// Tenants that have anything here.
    pub(crate) tenants: IntGauge,
    /// Retained messages.
    pub(crate) retained: IntGauge,
    /// Messages that clients published.
    pub(crate) received: IntCounter,
    delivered: IntCounter,
    dropped: IntCounter,
    denied: IntCounterVec,
    /// Connections that ended before their CONNECT was answered.
    pub(crate) handshakes_failed: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered there already.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        Ok(Self {
            connections: gauge("bulkhead_mqtt_connections", "Clients that are connected")?,
            sessions: gauge("bulkhead_mqtt_sessions", "Sessions, connected or not")?,
            tenants: gauge("bulkhead_mqtt_tenants", "Tenants that have sessions or messages here")?,
            retained: gauge("bulkhead_mqtt_retained_messages", "Retained messages")?,
            received: counter(
                "bulkhead_mqtt_messages_received_total",
                "Messages that were published and allowed",
            )?,
            delivered: counter(
                "bulkhead_mqtt_messages_delivered_total",
                "Messages handed over to subscribers",
            )?,
            dropped: counter(
                "bulkhead_mqtt_messages_dropped_total",
                "Messages that a subscriber had no room for",
            )?,
            denied: counters(
                "bulkhead_mqtt_denied_total",
                "Operations that were refused",
                &["operation", "reason"],
            )?,
            handshakes_failed: counters(
                "bulkhead_mqtt_handshakes_failed_total",
                "Connections that ended before their CONNECT was answered",
                &["reason"],
            )?,
        })
    }

    /// Counts operations that were refused.
    pub(crate) fn denied(&self, operation: Operation, reason: DenyReason, times: usize) {
        if times > 0 {
            let counter = self.denied.with_label_values(&[operation.name(), reason.code()]);
            counter.inc_by(times as u64);
        }
    }

    /// Counts what came of routing.
    pub(crate) fn routed(&self, delivered: u64, dropped: u64) {
        self.delivered.inc_by(delivered);
        self.dropped(dropped);
    }

    /// Counts messages that a subscriber had no room for.
    pub(crate) fn dropped(&self, times: u64) {
        if times > 0 {
            self.dropped.inc_by(times);
        }
    }
}
