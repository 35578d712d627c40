//! What tenants use, for Prometheus: looked up when it is asked for, so that nothing is counted twice.

use super::{Shared, Usage};
use crate::metrics::{Metrics, TenantLabels};
use bulkhead_policy::Resource;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What is shown of each tenant that may be named.
struct Collected {
    usage: Weak<Shared>,
    labels: Arc<TenantLabels>,
    used: IntGaugeVec,
    quota: IntGaugeVec,
    /// One asks at a time.
    asking: Mutex<()>,
}

/// Has the metrics show what tenants use, where they may name tenants.
pub(super) fn register(usage: &Usage, metrics: &Metrics) -> prometheus::Result<()> {
    let Some(labels) = metrics.labels() else { return Ok(()) };
    let gauge =
        |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
    let used = gauge(
        "bulkhead_tenant_usage",
        "What a tenant uses: of resources per day in the whole deployment, of the others in this process",
        &["tenant", "resource"],
    )?;
    let quota = gauge(
        "bulkhead_tenant_quota",
        "What a tenant may use, where it is limited",
        &["tenant", "resource"],
    )?;
    let usage = Arc::downgrade(&usage.shared);
    let collected = Collected { usage, labels, used, quota, asking: Mutex::default() };
    metrics.registry().register(Box::new(collected))
}

impl Collector for Collected {
    fn desc(&self) -> Vec<&Desc> {
        self.used.desc().into_iter().chain(self.quota.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.used.reset();
        self.quota.reset();
        let Some(shared) = self.usage.upgrade() else { return Vec::new() };
        let shown = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for (tenant, used) in (Usage { shared }).all().1 {
            let label = self.labels.label(&tenant);
            let today = Resource::DAILY.iter().filter_map(|r| Some((*r, used.today.get(*r)?)));
            for (resource, n) in used.live.iter().map(|(r, n)| (*r, *n)).chain(today) {
                self.used.with_label_values(&[label, resource.name()]).add(shown(n));
            }
            // The limits of several tenants are none of all of them.
            let limited = Resource::ALL.iter().filter(|_| label == tenant.as_str());
            for (resource, limit) in limited.filter_map(|r| Some((*r, used.quotas.get(*r)?))) {
                self.quota.with_label_values(&[label, resource.name()]).set(shown(limit));
            }
        }
        self.used.collect().into_iter().chain(self.quota.collect()).collect()
    }
}
