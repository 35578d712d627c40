//! What Prometheus gets to see of the registry.

use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Upper bounds of the ages of heartbeats, in seconds.
const AGES: &[f64] = &[0.01, 0.05, 0.25, 1.0, 5.0, 15.0];

/// The registry's metrics. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Heartbeats, by backend and outcome.
    pub(crate) beats: IntCounterVec,
    /// Registrations, by backend and outcome.
    pub(crate) registrations: IntCounterVec,
    /// Questions, by backend and outcome.
    pub(crate) discoveries: IntCounterVec,
    /// Devices that came or went, or changed.
    pub(crate) transitions: IntCounterVec,
    /// Heartbeats that cost no write.
    pub(crate) writes_saved: IntCounter,
    /// Requests to etcd.
    pub(crate) etcd_requests: IntCounterVec,
    /// Writes that did not succeed and are tried again.
    pub(crate) write_errors: IntCounter,
    /// Leases that are kept alive.
    pub(crate) leases: IntGauge,
    /// Questions to devices for their registration.
    pub(crate) pulls: IntCounterVec,
    /// Partitions that were another replica's, which is gone.
    pub(crate) takeovers: IntCounter,
    /// Partitions that are this replica's.
    pub(crate) partitions: IntGauge,
    /// Whether the store can be reached.
    pub(crate) store_up: IntGauge,
    /// Devices that are present.
    pub(crate) devices: IntGauge,
    /// Devices whose state waits to be written.
    pub(crate) waiting: IntGauge,
    /// Heartbeats of one tenant that waited to be heard, at the most.
    pub(crate) inbox: IntGauge,
    /// Devices that are to say who they are.
    pub(crate) pulls_pending: IntGauge,
    /// Whether a backend can be heard.
    pub(crate) backend_up: IntGaugeVec,
    /// How old heartbeats are when they are heard, by the devices' clocks.
    pub(crate) lag: HistogramVec,
    /// Which share of its quota etcd uses, 0 to 1.
    pub(crate) etcd_space: Gauge,
    /// Whether etcd has raised its alarm: it takes no writes.
    pub(crate) etcd_full: IntGauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let backend_up = IntGaugeVec::new(
            Opts::new("bulkhead_registry_backend_up", "Whether a backend can be heard"),
            &["backend"],
        )?;
        registry.register(Box::new(backend_up.clone()))?;
        let lag = HistogramVec::new(
            HistogramOpts::new(
                "bulkhead_registry_beat_age_seconds",
                "How old heartbeats are when they are heard, by the devices' own clocks",
            )
            .buckets(AGES.to_vec()),
            &["backend"],
        )?;
        registry.register(Box::new(lag.clone()))?;
        let etcd_space =
            Gauge::new("bulkhead_registry_etcd_space_ratio", "Which share of its quota etcd uses")?;
        registry.register(Box::new(etcd_space.clone()))?;
        Ok(Self {
            beats: counters(
                "bulkhead_registry_beats_total",
                "Heartbeats",
                &["backend", "outcome"],
            )?,
            registrations: counters(
                "bulkhead_registry_registrations_total",
                "Registrations",
                &["backend", "outcome"],
            )?,
            discoveries: counters(
                "bulkhead_registry_discoveries_total",
                "Questions about devices",
                &["backend", "outcome"],
            )?,
            transitions: counters(
                "bulkhead_registry_transitions_total",
                "Devices that came, went or changed, once that was written",
                &["kind"],
            )?,
            writes_saved: counter(
                "bulkhead_registry_writes_saved_total",
                "Heartbeats that cost no write",
            )?,
            etcd_requests: counters(
                "bulkhead_registry_etcd_requests_total",
                "Requests to etcd",
                &["kind"],
            )?,
            write_errors: counter(
                "bulkhead_registry_write_errors_total",
                "Writes that did not succeed and are tried again",
            )?,
            leases: gauge("bulkhead_registry_leases", "Leases that are kept alive")?,
            pulls: counters(
                "bulkhead_registry_pulls_total",
                "Questions to devices for their registration",
                &["backend", "outcome"],
            )?,
            takeovers: counter(
                "bulkhead_registry_takeovers_total",
                "Partitions of tenants that were taken over from a replica that is gone",
            )?,
            partitions: gauge(
                "bulkhead_registry_partitions",
                "Partitions of tenants that are this replica's",
            )?,
            store_up: gauge("bulkhead_registry_store_up", "Whether the store can be reached")?,
            devices: gauge("bulkhead_registry_devices", "Devices that are present")?,
            waiting: gauge("bulkhead_registry_waiting", "Devices whose state waits to be written")?,
            inbox: gauge(
                "bulkhead_registry_inbox",
                "Most heartbeats of one tenant over MQTT or Zenoh that waited at a time within the last second",
            )?,
            pulls_pending: gauge(
                "bulkhead_registry_pulls_pending",
                "Devices that are to be asked for their registration, or have been and have not answered yet",
            )?,
            backend_up,
            lag,
            etcd_space,
            etcd_full: gauge(
                "bulkhead_registry_etcd_full",
                "Whether etcd has used up its quota and takes no writes",
            )?,
        })
    }
}
