use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Why messages are withheld.
const WITHHELD: [&str; 3] = [FOREIGN, DENIED, TOO_LARGE];

/// It is none of the client's names.
pub(super) const FOREIGN: &str = "foreign";

/// The client may not receive it any more.
pub(super) const DENIED: &str = "denied";

/// It is larger than the client takes.
pub(super) const TOO_LARGE: &str = "too_large";

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
        let withheld = counters(
            "bulkhead_mqtt_upstream_withheld_total",
            "Messages of the broker behind the front that a client was not given",
            "reason",
        )?;
        // The first of each is seen as an increase only if there was a 0 before.
        for reason in WITHHELD {
            withheld.with_label_values(&[reason]);
        }
        Ok(Self {
            up,
            lost,
            connects: counters(
                "bulkhead_mqtt_upstream_connects_total",
                "Connections of clients to the broker behind the front",
                "outcome",
            )?,
            withheld,
        })
    }
}
