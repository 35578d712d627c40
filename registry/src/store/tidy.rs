//! What etcd remembers of devices that are gone: what was remembered for long enough is removed.

use super::etcd::{EtcdStore, MAX_ANSWER_BYTES, PAGE, after, remembered_prefix};
use super::{Outlook, Remembered, StoreError};
use crate::ownership::Fence;
use crate::presence::MAX_WRITE_BYTES;
use bulkhead_policy::{DeviceId, TenantId};
use etcd_client::{GetOptions, TxnOp};
use std::collections::HashSet;

/// What one request does; etcd takes 1.5 MiB in all.
#[derive(Default)]
struct Batch {
    operations: Vec<TxnOp>,
    bytes: usize,
    removed: usize,
}

impl Batch {
    fn has_room(&self, bytes: usize) -> bool {
        self.operations.is_empty() || self.bytes + bytes <= MAX_WRITE_BYTES
    }

    fn add(&mut self, operation: TxnOp, bytes: usize) {
        self.operations.push(operation);
        self.bytes += bytes;
    }
}

impl EtcdStore {
    pub(super) async fn tidy(
        &self,
        tenant: &TenantId,
        fence: &Fence,
        present: &HashSet<DeviceId>,
    ) -> Result<usize, StoreError> {
        let client = self.client().await?;
        let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let prefix = remembered_prefix(tenant);
        let end = after(&prefix);
        let mut from = prefix.into_bytes();
        let mut removed = 0;
        loop {
            // A page's operations are fewer than etcd takes in one request, which is 128.
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE / 20);
            self.asked("range");
            let answer = kv.get(from, Some(options)).await?;
            let mut batch = Batch::default();
            for one in answer.kvs() {
                let name = one.key().rsplit(|byte| *byte == b'/').next();
                let name = name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default();
                let outlook =
                    Remembered::outlook(one.value(), self.remember, present.contains(name));
                let text = match outlook {
                    Outlook::Stays => continue,
                    Outlook::Renewed(text) => Some(text),
                    Outlook::Over => None,
                };
                let bytes = one.key().len() + text.as_ref().map_or(0, String::len);
                if !batch.has_room(bytes) {
                    removed += self.tidy_batch(tenant, fence, std::mem::take(&mut batch)).await?;
                }
                batch.removed += usize::from(text.is_none());
                let operation = match text {
                    Some(text) => TxnOp::put(one.key(), text, None),
                    None => TxnOp::delete(one.key(), None),
                };
                batch.add(operation, bytes);
            }
            removed += self.tidy_batch(tenant, fence, batch).await?;
            let Some(last) = answer.kvs().last().filter(|_| answer.more()) else { break };
            from = last.key().to_vec();
            from.push(0);
        }
        Ok(removed)
    }

    /// Returns how many it has removed. What cannot be written does not keep the rest from it.
    async fn tidy_batch(
        &self,
        tenant: &TenantId,
        fence: &Fence,
        batch: Batch,
    ) -> Result<usize, StoreError> {
        if batch.operations.is_empty() {
            return Ok(0);
        }
        let devices = batch.operations.len();
        match self.transact("tidy", fence, batch.operations).await {
            Ok(()) => Ok(batch.removed),
            Err(StoreError::Fenced) => Err(StoreError::Fenced),
            Err(error) => {
                tracing::warn!(%tenant, devices, %error, "what is remembered of devices could not be tidied");
                Ok(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ownership::Fence;
    use crate::store::etcd::remembered_prefix;
    use crate::store::tests::Place;
    use etcd_client::GetOptions;
    use jiff::{SignedDuration, Timestamp};
    use std::collections::HashSet;

    #[tokio::test]
    async fn what_is_tidied_is_cut_to_what_etcd_takes_and_one_fault_stops_nothing() {
        let place = Place::new().await;
        let (store, fence) = place.etcd(SignedDuration::from_hours(10)).await;
        let acme = "acme".parse().unwrap();
        let prefix = remembered_prefix(&acme);
        let mut client = store.client().await.unwrap();
        let aged = Timestamp::now() - SignedDuration::from_hours(11);
        let text = |document: &str| format!("{{\"at\":\"{aged}\",\"document\":{document}}}");
        // Thirty of these are more than etcd takes in one request.
        let large = text(&format!("{{\"x\":\"{}\"}}", "x".repeat(256 * 1024)));
        let mut present = HashSet::new();
        for n in 0..30 {
            client.put(format!("{prefix}cam-{n}"), large.clone(), None).await.unwrap();
            present.insert(format!("cam-{n}").parse().unwrap());
        }
        for n in 0..99 {
            client.put(format!("{prefix}gone-{n}"), text("{}"), None).await.unwrap();
        }
        assert_eq!(store.tidy(&acme, &fence, &present).await.unwrap(), 99);
        let count = Some(GetOptions::new().with_prefix().with_count_only());
        assert_eq!(client.get(prefix.clone(), count).await.unwrap().count(), 30);
        for device in &present {
            let found = client.get(format!("{prefix}{device}"), None).await.unwrap();
            assert_ne!(found.kvs()[0].value(), large.as_bytes(), "it is remembered as of now");
        }
        // Who no longer has the tenant tidies nothing.
        client.put(format!("{prefix}gone"), text("{}"), None).await.unwrap();
        let lost = Fence::of(fence.key(), fence.revision() + 1);
        assert!(store.tidy(&acme, &lost, &present).await.is_err());
        assert_eq!(client.get(format!("{prefix}gone"), None).await.unwrap().kvs().len(), 1);
    }
}
