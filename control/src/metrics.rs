//! What Prometheus gets to see.

use crate::config::MetricsConfig;
use bulkhead_policy::{DenyReason, TenantId};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The tenant label's value for tenants over the cap.
const OTHER: &str = "_other";

/// Upper bounds of the duration histogram, in seconds.
const BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0];

/// Upper bounds of the time to cut, in seconds.
const CUT_BUCKETS: &[f64] =
    &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The metrics of one process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    tenants: Option<Arc<TenantLabels>>,
    auth_requests: IntCounterVec,
    auth_seconds: HistogramVec,
    auth_by_tenant: IntCounterVec,
    /// Verified tokens found in the cache, and not found.
    pub(crate) token_cache: IntCounterVec,
    /// Fetches of key sets, by issuer and outcome.
    pub(crate) key_refreshes: IntCounterVec,
    /// Unix time of the last good key set, by issuer.
    pub(crate) keys_updated: IntGaugeVec,
    certificates: IntGaugeVec,
    /// Tenants in the directory.
    pub(crate) directory_tenants: IntGauge,
    /// Seconds since the directory was last known to be current.
    pub(crate) directory_age: IntGauge,
    /// Changes of the directory that could not be taken over.
    pub(crate) directory_errors: IntCounterVec,
    terminations: IntCounterVec,
    cut_seconds: HistogramVec,
    quota_rejections: IntCounterVec,
    issued: IntCounterVec,
    /// Audit records that could not be written.
    pub(crate) audit_lost: IntGauge,
    /// Unix time at which other processes were last told what tenants use here; 0 is never.
    pub(crate) usage_told: IntGauge,
    /// Attempts at that which failed.
    pub(crate) usage_errors: IntCounter,
}

/// Which tenants are named: the first ones that are met, up to a cap.
#[derive(Debug)]
pub(crate) struct TenantLabels {
    max: usize,
    seen: Mutex<HashSet<TenantId>>,
}

/// Registers when the certificates that listeners show are no longer valid, by listener.
///
/// # Errors
/// If the registry has them already.
pub fn certificates(registry: &Registry) -> prometheus::Result<IntGaugeVec> {
    let gauge = IntGaugeVec::new(
        Opts::new(
            "bulkhead_certificate_expires_timestamp_seconds",
            "When the certificate that a listener shows is no longer valid",
        ),
        &["listener"],
    )?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

impl Metrics {
    /// Registers all metrics, in a registry of their own.
    ///
    /// # Errors
    /// None in practice: names and labels are constants, and distinct.
    pub fn new(config: &MetricsConfig) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let usage_errors = IntCounter::new(
            "bulkhead_usage_errors_total",
            "Times that other processes could not be told, or asked, what tenants use",
        )?;
        registry.register(Box::new(usage_errors.clone()))?;
        let auth_seconds = HistogramVec::new(
            HistogramOpts::new("bulkhead_auth_duration_seconds", "Time to decide a connection")
                .buckets(BUCKETS.to_vec()),
            &["backend"],
        )?;
        registry.register(Box::new(auth_seconds.clone()))?;
        let cut_seconds = HistogramVec::new(
            HistogramOpts::new(
                "bulkhead_time_to_cut_seconds",
                "Time from the reason to the end of a connection",
            )
            .buckets(CUT_BUCKETS.to_vec()),
            &["backend", "since"],
        )?;
        registry.register(Box::new(cut_seconds.clone()))?;
        let keys_updated = IntGaugeVec::new(
            Opts::new(
                "bulkhead_keys_updated_timestamp_seconds",
                "When an issuer's keys were last fetched or read",
            ),
            &["issuer"],
        )?;
        registry.register(Box::new(keys_updated.clone()))?;
        let certificates = certificates(&registry)?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self {
            tenants: config.tenant_label.then(|| {
                Arc::new(TenantLabels { max: config.max_tenants, seen: Mutex::default() })
            }),
            auth_requests: counter(
                "bulkhead_auth_requests_total",
                "Authentications, by outcome and reason",
                &["backend", "outcome", "reason"],
            )?,
            auth_by_tenant: counter(
                "bulkhead_tenant_auth_requests_total",
                "Authentications by tenant, where tenant labels are configured",
                &["backend", "tenant", "outcome"],
            )?,
            token_cache: counter(
                "bulkhead_token_cache_total",
                "Verified tokens found in the cache, or not",
                &["outcome"],
            )?,
            key_refreshes: counter(
                "bulkhead_key_refreshes_total",
                "Fetches of an issuer's keys",
                &["issuer", "outcome"],
            )?,
            directory_tenants: gauge("bulkhead_directory_tenants", "Tenants in the directory")?,
            directory_age: gauge(
                "bulkhead_directory_age_seconds",
                "Time since the directory was last known to be current",
            )?,
            directory_errors: counter(
                "bulkhead_directory_errors_total",
                "Directory states that could not be read or taken over",
                &["kind"],
            )?,
            terminations: counter(
                "bulkhead_terminations_total",
                "Live connections that were cut",
                &["backend", "reason"],
            )?,
            quota_rejections: counter(
                "bulkhead_quota_rejections_total",
                "Requests beyond a quota",
                &["backend", "reason"],
            )?,
            issued: counter(
                "bulkhead_credentials_issued_total",
                "Credentials files issued",
                &["backend"],
            )?,
            audit_lost: gauge(
                "bulkhead_audit_records_lost",
                "Audit records that could not be written since the start",
            )?,
            usage_told: gauge(
                "bulkhead_usage_told_timestamp_seconds",
                "When other processes were last told what tenants use here, and asked; 0 is never",
            )?,
            usage_errors,
            auth_seconds,
            cut_seconds,
            keys_updated,
            certificates,
            registry,
        })
    }

    /// Counts one authentication and the time it took.
    pub fn authenticated(
        &self,
        backend: &str,
        tenant: Option<&TenantId>,
        denied: Option<DenyReason>,
        took: Duration,
    ) {
        let outcome = if denied.is_some() { "denied" } else { "allowed" };
        let reason = denied.map_or("", DenyReason::code);
        self.auth_requests.with_label_values(&[backend, outcome, reason]).inc();
        self.auth_seconds.with_label_values(&[backend]).observe(took.as_secs_f64());
        if let (Some(labels), Some(tenant)) = (&self.tenants, tenant) {
            let label = labels.label(tenant);
            self.auth_by_tenant.with_label_values(&[backend, label, outcome]).inc();
        }
        if denied.is_some_and(is_quota) {
            self.quota_rejections.with_label_values(&[backend, reason]).inc();
        }
    }

    /// Counts live connections that were cut.
    pub fn terminated(&self, backend: &str, reason: DenyReason, connections: u64) {
        self.terminations.with_label_values(&[backend, reason.code()]).inc_by(connections);
    }

    /// Counts one connection that was cut, and the time since this.
    pub(crate) fn time_to_cut(&self, backend: &str, since: &str, took: Duration) {
        self.cut_seconds.with_label_values(&[backend, since]).observe(took.as_secs_f64());
    }

    /// Where to say when the certificate that a listener shows expires.
    pub fn certificate(&self, listener: &str) -> IntGauge {
        self.certificates.with_label_values(&[listener])
    }

    /// Counts an issued credentials file.
    pub fn issued(&self, backend: &str) {
        self.issued.with_label_values(&[backend]).inc();
    }

    /// Which tenants are named, if any are.
    pub(crate) fn labels(&self) -> Option<Arc<TenantLabels>> {
        self.tenants.clone()
    }

    /// Where a service registers metrics of its own.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All metrics in the text format.
    ///
    /// # Errors
    /// None in practice: what is registered can be written.
    pub fn encode(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn is_quota(reason: DenyReason) -> bool {
    matches!(
        reason,
        DenyReason::AuthRateExceeded
            | DenyReason::SourceRateExceeded
            | DenyReason::ConnectionQuotaExceeded
            | DenyReason::SessionQuotaExceeded
            | DenyReason::SubscriptionQuotaExceeded
            | DenyReason::MessageRateExceeded
            | DenyReason::PayloadQuotaExceeded
            | DenyReason::RetainedQuotaExceeded
            | DenyReason::QueueQuotaExceeded
            | DenyReason::DailyQuotaExceeded
    )
}

impl TenantLabels {
    /// The label of a tenant.
    pub(crate) fn label<'a>(&self, tenant: &'a TenantId) -> &'a str {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(tenant) {
            return tenant.as_str();
        }
        if seen.len() < self.max {
            seen.insert(tenant.clone());
            return tenant.as_str();
        }
        OTHER
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;
    use crate::config::MetricsConfig;
    use bulkhead_policy::{DenyReason, TenantId};
    use std::time::Duration;

    fn count(metrics: &Metrics, tenants: &[&str]) {
        for tenant in tenants {
            let tenant = TenantId::parse(tenant).unwrap();
            let denied = Some(DenyReason::TenantSuspended);
            metrics.authenticated("nats", Some(&tenant), denied, Duration::ZERO);
        }
    }

    #[test]
    fn tenants_are_labels_only_where_configured_and_up_to_the_cap() {
        let silent = Metrics::new(&MetricsConfig::default()).unwrap();
        count(&silent, &["acme"]);
        assert!(!silent.encode().unwrap().contains("acme"));

        let capped = Metrics::new(&MetricsConfig { tenant_label: true, max_tenants: 2 }).unwrap();
        count(&capped, &["a", "b", "c", "d", "a"]);
        let text = capped.encode().unwrap();
        assert!(text.contains(r#"tenant="a"} 2"#), "{text}");
        assert!(text.contains(r#"tenant="_other"} 2"#), "{text}");
        assert!(!text.contains(r#"tenant="c""#));
    }

    #[test]
    fn a_denial_is_counted_with_its_code() {
        let metrics = Metrics::new(&MetricsConfig::default()).unwrap();
        count(&metrics, &["acme"]);
        let line = r#"bulkhead_auth_requests_total{backend="nats",outcome="denied",reason="tenant_suspended"} 1"#;
        assert!(metrics.encode().unwrap().contains(line));
    }
}
