use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What Prometheus gets to see of the broker behind the front.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// Whether the broker is there.
    pub(super) up: IntGauge,
    /// Connections of clients to the broker, by what became of them.
    pub(super) connects: IntCounterVec,
    /// Connections of clients that the broker's end or silence has ended.
    pub(super) lost: IntCounter,
    /// Messages of the broker that a client was not given.
    pub(super) withheld: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered there already.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let up = IntGauge::new(
            "bulkhead_mqtt_upstream_up",
            "Whether the broker behind the front is there: 1 or 0",
        )?;
        registry.register(Box::new(up.clone()))?;
        let lost = IntCounter::new(
            "bulkhead_mqtt_upstream_lost_total",
            "Connections of clients that the broker's end or silence has ended",
        )?;
        registry.register(Box::new(lost.clone()))?;
        Ok(Self {
            up,
            lost,
            connects: counters(
                "bulkhead_mqtt_upstream_connects_total",
                "Connections of clients to the broker behind the front",
                "outcome",
            )?,
            withheld: counters(
                "bulkhead_mqtt_upstream_withheld_total",
                "Messages of the broker behind the front that a client was not given",
                "reason",
            )?,
        })
    }
}
