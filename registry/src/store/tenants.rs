//! Whose devices are in etcd: tenants that have had a name, one after the other.

use super::StoreError;
use super::etcd::{EtcdStore, PAGE, after, prefix, remembered_prefix};
use crate::ownership::Fence;
use bulkhead_policy::TenantId;
use etcd_client::{DeleteOptions, GetOptions, TxnOp};
use jiff::Timestamp;

/// When each tenant was created whose devices are here.
const TENANTS: &str = "/bulkhead/registry/tenants/";

impl EtcdStore {
    pub(super) async fn forget(&self, tenant: &TenantId, fence: &Fence) -> Result<(), StoreError> {
        let whole =
            |prefix: String| TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix()));
        let mut operations = vec![whole(prefix(tenant)), whole(remembered_prefix(tenant))];
        // With what it stands for: whoever finds none is to look no further.
        operations.push(TxnOp::delete(format!("{TENANTS}{tenant}"), None));
        self.transact("forget", fence, operations).await
    }

    /// Of the tenants that have had the name, the one whose devices these are: removes those of another.
    pub(super) async fn enter(
        &self,
        tenant: &TenantId,
        created: Timestamp,
        fence: &Fence,
    ) -> Result<(), StoreError> {
        let key = format!("{TENANTS}{tenant}");
        let mut client = self.client().await?;
        self.asked("range");
        let found = client.get(key.as_str(), None).await?;
        let own = created.to_string();
        let known = found.kvs().first().map(etcd_client::KeyValue::value);
        if known == Some(own.as_bytes()) {
            return Ok(());
        }
        // Whoever is found before this was written down may be of the tenant of now.
        if known.is_some() {
            self.forget(tenant, fence).await?;
        }
        self.transact("enter", fence, vec![TxnOp::put(key, own, None)]).await
    }

    /// Every tenant that has entered and was not forgotten since.
    pub(super) async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        let mut client = self.client().await?;
        let mut from = TENANTS.as_bytes().to_vec();
        let mut all = Vec::new();
        loop {
            let options = GetOptions::new().with_range(after(TENANTS)).with_limit(PAGE);
            self.asked("range");
            let answer = client.get(from, Some(options.with_keys_only())).await?;
            all.extend(answer.kvs().iter().filter_map(|one| named(one.key())));
            let Some(last) = answer.kvs().last().filter(|_| answer.more()) else { return Ok(all) };
            from = last.key().to_vec();
            from.push(0);
        }
    }
}

fn named(key: &[u8]) -> Option<TenantId> {
    TenantId::parse(std::str::from_utf8(key.strip_prefix(TENANTS.as_bytes())?).ok()?).ok()
}
