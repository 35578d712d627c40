use super::load::name;
use super::site::tenant;
use etcd_client::{Client, GetOptions, KeyValue, Txn, TxnOp, WatchOptions};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Operations of one transaction; an etcd takes 128.
const BATCH: usize = 100;

/// Largest message of what happened.
const MAX_EVENTS_BYTES: usize = 64 * 1024 * 1024;

/// How long what was heard may take until it is written: the original hears fewer than a hundred changed
/// heartbeats a second.
const WRITTEN: Duration = Duration::from_secs(120);

/// An etcd itself, as nobody's registry sees it.
pub struct Etcd {
    client: Client,
}

fn key(device: &str) -> String {
    format!("/device-connect/{}/devices/{device}", tenant())
}

impl Etcd {
    pub fn connect(runtime: &Runtime, endpoint: &str) -> Self {
        Self { client: runtime.block_on(Client::connect([endpoint], None)).unwrap() }
    }

    /// Which revision it is at.
    pub fn revision(&self, runtime: &Runtime) -> i64 {
        let mut client = self.client.clone();
        let options = Some(GetOptions::new().with_count_only());
        let answer = runtime.block_on(client.get(key(""), options)).unwrap();
        answer.header().unwrap().revision()
    }

    /// Waits until the first device's document says this of its battery. Returns in how many revisions
    /// anything was written of devices since one: whoever else writes there is not counted.
    ///
    /// # Panics
    /// If that does not come.
    pub fn until_battery(&self, runtime: &Runtime, after: i64, battery: usize) -> usize {
        // A thousand revisions may come at once.
        let mut client = self.client.watch_client().max_decoding_message_size(MAX_EVENTS_BYTES);
        let first = key(&name(0));
        let is_last = |one: &KeyValue| {
            one.key() == first.as_bytes()
                && serde_json::from_slice::<Value>(one.value())
                    .is_ok_and(|document| document["status"]["battery"] == battery)
        };
        let options = WatchOptions::new().with_prefix().with_start_revision(after + 1);
        let revisions = async {
            let mut events = client.watch(key(""), Some(options)).await.unwrap();
            let mut revisions = BTreeSet::new();
            loop {
                let message = events.message().await.unwrap().expect("the watch goes on");
                assert!(!message.canceled(), "etcd has compacted what is counted");
                for one in message.events().iter().filter_map(|event| event.kv()) {
                    revisions.insert(one.mod_revision());
                    if is_last(one) {
                        return revisions.len();
                    }
                }
            }
        };
        let revisions = async { tokio::time::timeout(WRITTEN, revisions).await };
        runtime.block_on(revisions).expect("heartbeats are lost, or not written")
    }

    /// Writes the documents of devices as a registry would have, were they registered: `params` is what
    /// one registers with.
    pub fn seed(&self, runtime: &Runtime, devices: usize, params: impl Fn(&str) -> Value) {
        let mut client = self.client.clone();
        runtime.block_on(async {
            for first in (0..devices).step_by(BATCH) {
                let batch = first..devices.min(first + BATCH);
                let operations: Vec<_> = batch
                    .map(|n| {
                        let mut document = params(&name(n));
                        document["registry"] = json!({
                            "device_registration_id": "00000000-0000-4000-8000-000000000000",
                            "registered_at": "2026-11-22T02:58:05Z",
                        });
                        TxnOp::put(key(&name(n)), document.to_string(), None)
                    })
                    .collect();
                client.txn(Txn::new().and_then(operations)).await.unwrap();
            }
        });
    }
}
