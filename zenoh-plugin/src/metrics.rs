use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What the gate counts, besides what all backends do.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Open sessions.
    pub(crate) sessions: IntGauge,
    /// Sessions that take less than is sent to them.
    pub(crate) behind: IntGauge,
    /// Handshakes that did not come to a decision.
    pub(crate) handshakes_failed: IntCounterVec,
    /// Sessions that ended because the client broke the protocol.
    pub(crate) violations: IntCounter,
    /// Sessions whose place the same client's next one took.
    pub(crate) takeovers: IntCounter,
    /// Messages and declarations of the router that were kept from clients.
    pub(crate) withheld: IntCounter,
    /// Messages that clients which were behind did not get.
    pub(crate) dropped: IntCounter,
    /// Operations of clients that were denied.
    pub(crate) denied: IntCounterVec,
    /// Transports of the router that did not come through the gate.
    pub(crate) strangers: IntCounter,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let labelled = |name, help, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name, help| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            sessions: gauge("bulkhead_zenoh_sessions", "Open sessions")?,
            behind: gauge(
                "bulkhead_zenoh_behind",
                "Sessions that take less than is sent to them: their senders wait, or they lose messages",
            )?,
            handshakes_failed: labelled(
                "bulkhead_zenoh_handshakes_failed_total",
                "Connections that did not come to an authentication",
                &["cause"],
            )?,
            violations: counter(
                "bulkhead_zenoh_violations_total",
                "Sessions ended because the client broke the protocol",
            )?,
            takeovers: counter(
                "bulkhead_zenoh_takeovers_total",
                "Sessions whose place a new one of the same client, by identity and id, took",
            )?,
            dropped: counter(
                "bulkhead_zenoh_dropped_total",
                "Messages that clients which were behind did not get",
            )?,
            withheld: counter(
                "bulkhead_zenoh_withheld_total",
                "Messages and declarations of the router that were kept from clients",
            )?,
            denied: labelled(
                "bulkhead_zenoh_denied_total",
                "Operations of clients that were denied",
                &["operation", "reason"],
            )?,
            strangers: counter(
                "bulkhead_zenoh_strangers_total",
                "Who reached the router around the gate, but for routers by listeners that are trusted",
            )?,
        })
    }
}
