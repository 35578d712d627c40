use crate::rules::Limits;
use crate::seat::TenantBounds;
use bulkhead_control::config::ZenohConfig;
use std::time::Duration;

/// The configuration, as the gate uses it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) handshake_timeout: Duration,
    pub(crate) pending_per_source: usize,
    pub(crate) max_lease: Duration,
    pub(crate) max_message: usize,
    max_declarations: usize,
    max_names: usize,
    max_queries: usize,
    pub(crate) tenant: TenantBounds,
}

impl Settings {
    /// What the configuration says.
    pub(crate) fn of(config: &ZenohConfig) -> Self {
        Self {
            handshake_timeout: config.handshake_timeout.unsigned_abs(),
            pending_per_source: config.pending_per_source,
            max_lease: config.max_lease.unsigned_abs(),
            max_message: config.max_message_bytes,
            max_declarations: config.max_declarations_per_session,
            max_names: config.max_names_per_tenant,
            max_queries: config.max_queries_per_session,
            tenant: TenantBounds {
                kept_bytes: config.max_bytes_per_tenant,
                queries: config.max_queries_per_tenant,
                declarations: config.max_declarations_per_second,
            },
        }
    }

    /// Bytes that may wait for one client: whole messages of several senders, beyond what makes it slow.
    pub(crate) fn max_waiting(&self) -> usize {
        self.max_message.saturating_mul(4)
    }

    /// What bounds any session.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            declarations: self.max_declarations,
            names_of_tenant: self.max_names,
            queries: self.max_queries,
            payload: self.max_message,
        }
    }
}
