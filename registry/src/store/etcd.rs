use super::contact::Contact;
use super::leases::{Lease, Leases};
use super::space::Space;
use super::{Remembered, StoreError, Stored};
use crate::metrics::Metrics;
use crate::ownership::Fence;
use crate::presence::{Document, Write};
use bulkhead_control::config::EtcdConfig;
use bulkhead_control::etcd::{self, keep_alive};
use bulkhead_policy::{DeviceId, TenantId};
use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Keys of one page when everything of a tenant is read.
pub(super) const PAGE: i64 = 1000;

/// Largest answer: a page of documents.
pub(super) const MAX_ANSWER_BYTES: usize = 512 * 1024 * 1024;

/// How often it is looked which leases are due.
const LOOK: Duration = Duration::from_millis(500);

/// What is remembered stands under this.
const REMEMBERED: &str = "/bulkhead/registry/remembered";

/// Presence in etcd.
pub(crate) struct EtcdStore {
    config: EtcdConfig,
    pub(super) remember: SignedDuration,
    client: Mutex<Option<Client>>,
    leases: Leases,
    space: Space,
    contact: Contact,
    /// One lease of a class is asked for at a time.
    granting: tokio::sync::Mutex<()>,
    metrics: Metrics,
}

pub(super) fn prefix(tenant: &TenantId) -> String {
    format!("/device-connect/{tenant}/devices/")
}

pub(super) fn remembered_prefix(tenant: &TenantId) -> String {
    format!("{REMEMBERED}/{tenant}/")
}

impl EtcdStore {
    pub(super) fn new(
        config: EtcdConfig,
        remember: SignedDuration,
        replica_ttl: Duration,
        metrics: &Metrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            remember,
            client: Mutex::new(None),
            leases: Leases::new(replica_ttl),
            space: Space::default(),
            contact: Contact::new(replica_ttl),
            granting: tokio::sync::Mutex::new(()),
            metrics: metrics.clone(),
        })
    }

    pub(super) fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(super) fn space(&self) -> &Space {
        &self.space
    }

    /// Whether it is there.
    pub(crate) fn contact(&self) -> &Contact {
        &self.contact
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// One of its members.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.config.endpoints.first().map(|endpoint| endpoint.trim_end_matches('/'))
    }

    /// For what it tells over HTTP. Certificates are read anew, since they are renewed.
    pub(super) fn pages(&self) -> std::io::Result<reqwest::Client> {
        etcd::pages(&self.config)
    }

    /// A connection, which all share. It mends itself.
    pub(crate) async fn client(&self) -> Result<Client, StoreError> {
        let known = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = etcd::connect(&self.config).await?;
        let mut slot = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(slot.get_or_insert(client).clone())
    }

    /// Counts a request.
    pub(crate) fn asked(&self, what: &'static str) {
        self.metrics.etcd_requests.with_label_values(&[what]).inc();
    }

    pub(super) async fn load(&self, tenant: &TenantId) -> Result<Vec<Stored>, StoreError> {
        let client = self.client().await?;
        let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let prefix = prefix(tenant);
        let mut from = prefix.clone().into_bytes();
        let end = after(&prefix);
        let mut revision = 0;
        let mut found = Vec::new();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            let options = options.with_revision(revision);
            self.asked("range");
            let answer = kv.get(from, Some(options)).await?;
            if revision == 0 {
                revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            for one in answer.kvs() {
                let name = one
                    .key()
                    .strip_prefix(prefix.as_bytes())
                    .and_then(|n| std::str::from_utf8(n).ok());
                let device = name.and_then(|name| DeviceId::parse(name).ok());
                let (Some(device), Some(document)) = (device, Document::parse(one.value())) else {
                    let key = String::from_utf8_lossy(one.key());
                    tracing::warn!(%key, "a key of the store is no device, and is left alone");
                    continue;
                };
                // One without a lease would stay for ever; it is written again, under one.
                let lease = (one.lease() != 0).then(|| self.leases.adopt_unknown(one.lease()));
                found.push(Stored { device, document, lease });
            }
            let Some(last) = answer.kvs().last().filter(|_| answer.more()) else { break };
            from = last.key().to_vec();
            from.push(0);
        }
        Ok(found)
    }

    pub(super) async fn commit(
        &self,
        tenant: &TenantId,
        fence: &Fence,
        writes: &[Write],
    ) -> Result<Vec<Option<Arc<Lease>>>, StoreError> {
        let prefix = prefix(tenant);
        let remembered = remembered_prefix(tenant);
        let mut leases = Vec::with_capacity(writes.len());
        let mut of_class: HashMap<i64, Arc<Lease>> = HashMap::new();
        let mut operations = Vec::with_capacity(writes.len());
        for write in writes {
            let key = format!("{prefix}{}", write.device);
            match &write.document {
                Some(document) => {
                    let class = self.leases.class(write.ttl);
                    let own = write.lease.clone();
                    let own = own.filter(|lease| !lease.is_lost() && lease.suits(class));
                    let lease = match (own, of_class.get(&class)) {
                        (Some(lease), _) => lease,
                        (None, Some(lease)) => Arc::clone(lease),
                        (None, None) => {
                            let lease = self.lease(class).await?;
                            of_class.insert(class, Arc::clone(&lease));
                            lease
                        }
                    };
                    let options = PutOptions::new().with_lease(lease.id);
                    operations.push(TxnOp::put(key, document.as_str(), Some(options)));
                    leases.push(Some(lease));
                }
                None => {
                    operations.push(TxnOp::delete(key, None));
                    leases.push(None);
                }
            }
            let text = write.remember.as_deref();
            if let Some(text) = text.and_then(|text| Remembered::write(text, Timestamp::now())) {
                let key = format!("{remembered}{}", write.device);
                operations.push(TxnOp::put(key, text, None));
            }
        }
        match self.transact("commit", fence, operations).await {
            // A lease may have ended since its last sign of life: etcd refuses to put under it.
            Err(StoreError::Etcd(error)) if is_lease_not_found(&error) => {
                for lease in leases.iter().flatten() {
                    self.check(lease).await?;
                }
                Err(StoreError::Etcd(error))
            }
            other => other.map(|()| leases),
        }
    }

    pub(super) async fn remembered(
        &self,
        tenant: &TenantId,
        device: &DeviceId,
    ) -> Result<Option<Document>, StoreError> {
        let mut client = self.client().await?;
        self.asked("range");
        let answer = client.get(format!("{}{device}", remembered_prefix(tenant)), None).await?;
        let text = answer.kvs().first();
        Ok(text.and_then(|text| Remembered::read(text.value(), self.remember)))
    }

    /// Does these if the tenant is still this replica's.
    pub(super) async fn transact(
        &self,
        what: &'static str,
        fence: &Fence,
        operations: Vec<TxnOp>,
    ) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let is_ours = Compare::create_revision(fence.key(), CompareOp::Equal, fence.revision());
        self.asked(what);
        let answer = client.txn(Txn::new().when([is_ours]).and_then(operations)).await?;
        if answer.succeeded() { Ok(()) } else { Err(StoreError::Fenced) }
    }

    /// The lease for new devices of a class.
    async fn lease(&self, class: i64) -> Result<Arc<Lease>, StoreError> {
        if let Some(lease) = self.leases.current(class) {
            return Ok(lease);
        }
        let _turn = self.granting.lock().await;
        if let Some(lease) = self.leases.current(class) {
            return Ok(lease);
        }
        let mut client = self.client().await?;
        self.asked("lease");
        let granted = client.lease_grant(class, None).await?;
        Ok(self.leases.granted(granted.id(), class))
    }

    /// Keeps leases alive for ever.
    pub(crate) async fn keep_leases(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            for id in self.leases.due(Instant::now()) {
                if let Err(error) = self.keep(id).await {
                    tracing::debug!(%error, "a lease cannot be kept alive just now");
                    break;
                }
            }
            self.metrics.leases.set(i64::try_from(self.leases.len()).unwrap_or(i64::MAX));
        }
    }

    async fn keep(&self, id: i64) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let asked = Instant::now();
        self.asked("keep_alive");
        if keep_alive(&mut client, id).await? {
            self.leases.kept(id, asked);
        } else {
            tracing::warn!(lease = id, "etcd has ended a lease; its devices are written again");
            self.leases.lost(id);
        }
        Ok(())
    }

    pub(super) async fn check(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        self.asked("lease");
        if client.lease_time_to_live(lease.id, None).await?.ttl() < 0 {
            self.leases.lost(lease.id);
        }
        Ok(())
    }
}

fn is_lease_not_found(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains("lease not found"))
}

/// The end of everything that begins with a prefix, whose last byte is a slash.
pub(super) fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.trim_end_matches('/').as_bytes().to_vec();
    end.push(b'0');
    end
}
