//! Stores as such: both keep the same of tenants and of devices.

use super::{EtcdStore, FileStore, Outlook, Remembered, Store};
use crate::metrics::Metrics;
use crate::ownership::Fence;
use crate::presence::{Limits, Presence, Turn, Via, Write};
use crate::wire::Registration;
use bulkhead_control::config::EtcdConfig;
use bulkhead_devkit::{Etcd, Tools};
use bulkhead_policy::{DeviceId, TenantId};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: SignedDuration = SignedDuration::from_hours(10);

/// A folder, and an etcd in it.
pub(super) struct Place {
    etcd: Etcd,
    folder: tempfile::TempDir,
}

impl Place {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd");
        let starting = tokio::task::spawn_blocking(move || {
            Etcd::start(&Tools::open().unwrap().etcd().unwrap(), &path).unwrap()
        });
        Self { etcd: starting.await.unwrap(), folder }
    }

    /// A store in the etcd, and the right to write.
    pub(super) async fn etcd(&self, remember: SignedDuration) -> (Arc<EtcdStore>, Fence) {
        let endpoints = [self.etcd.endpoint()];
        let config: EtcdConfig = serde_json::from_value(json!({"endpoints": endpoints})).unwrap();
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let ttl = Duration::from_secs(10);
        let store = EtcdStore::new(config, remember, ttl, &metrics);
        let mut client = store.client().await.unwrap();
        let revision = client.put("/partition", "", None).await.unwrap();
        let revision = revision.header().unwrap().revision();
        (store, Fence::of("/partition", revision))
    }

    fn file(&self, remember: SignedDuration) -> FileStore {
        FileStore::open(&self.folder.path().join("registry.redb"), remember).unwrap()
    }
}

fn devices<const N: usize>(names: [&str; N]) -> [DeviceId; N] {
    names.map(|name| name.parse().unwrap())
}

/// Registrations over MQTT, so that they are remembered.
fn registered(names: &[DeviceId]) -> Vec<Write> {
    let limits = Limits { devices: 99, bytes: 1 << 20, document: 1 << 16 };
    let mut presence = Presence::new(limits);
    for name in names {
        let params = json!({"device_id": name, "device_ttl": 9, "capabilities": {},
            "identity": {}, "status": {"ts": "t"}});
        let registration = Registration::parse(params.as_object().unwrap().clone()).unwrap();
        let (now, at) = (Instant::now(), Timestamp::now());
        drop(presence.register(registration, Via::Mqtt, now, at).unwrap());
    }
    presence.writes(99, Turn::All)
}

async fn loaded(store: &Store, tenant: &TenantId) -> Vec<DeviceId> {
    let stored = store.load(tenant).await.unwrap();
    stored.into_iter().map(|stored| stored.device).collect()
}

async fn tenants_come_and_go(store: &Store, fence: &Fence) {
    let [acme, globex]: [TenantId; 2] = ["acme", "globex"].map(|id| id.parse().unwrap());
    let names = devices(["cam-1", "cam-2"]);
    let created = Timestamp::UNIX_EPOCH;
    for tenant in [&acme, &globex] {
        store.enter(tenant, created, fence).await.unwrap();
        store.commit(tenant, fence, &registered(&names)).await.unwrap();
    }
    assert_eq!(store.tenants().await.unwrap(), [acme.clone(), globex.clone()]);
    store.enter(&acme, created, fence).await.unwrap();
    assert_eq!(loaded(store, &acme).await, names, "it is the same tenant");
    let remembered = async |tenant| store.remembered(tenant, &names[0]).await.unwrap().is_some();
    assert!(remembered(&acme).await);

    store.enter(&acme, Timestamp::now(), fence).await.unwrap();
    assert_eq!(loaded(store, &acme).await, devices([]), "another of the name finds nothing");
    assert!(!remembered(&acme).await);
    assert_eq!(store.tenants().await.unwrap(), [acme.clone(), globex.clone()]);
    store.forget(&acme, fence).await.unwrap();
    assert_eq!(store.tenants().await.unwrap(), std::slice::from_ref(&globex));
    assert_eq!(loaded(store, &globex).await, names, "others keep what they have");
    assert!(remembered(&globex).await);
    store.forget(&globex, fence).await.unwrap();
    assert!(loaded(store, &globex).await.is_empty() && !remembered(&globex).await);
}

#[tokio::test]
async fn tenants_come_and_go_in_etcd_and_in_a_file() {
    let place = Place::new().await;
    let (etcd, fence) = place.etcd(LONG).await;
    tenants_come_and_go(&Store::Etcd(etcd), &fence).await;
    tenants_come_and_go(&Store::File(place.file(LONG)), &Fence::default()).await;
}

/// Everything is old to a store that remembers nothing for any time.
async fn tidy(store: &Store, fence: &Fence) {
    let [acme, globex]: [TenantId; 2] = ["acme", "globex"].map(|id| id.parse().unwrap());
    let names = devices(["cam-1", "cam-2"]);
    for tenant in [&acme, &globex] {
        store.commit(tenant, fence, &registered(&names)).await.unwrap();
    }
    let present = [names[0].clone()].into();
    assert_eq!(store.tidy(&acme, fence, present).await.unwrap(), 1);
}

async fn is_tidy(store: &Store) {
    let names = devices(["cam-1", "cam-2"]);
    for (tenant, device, is_there) in
        [("acme", 0, true), ("acme", 1, false), ("globex", 0, true), ("globex", 1, true)]
    {
        let found = store.remembered(&tenant.parse().unwrap(), &names[device]).await.unwrap();
        assert_eq!(found.is_some(), is_there, "{tenant} {device}");
    }
}

#[tokio::test]
async fn who_is_gone_for_long_is_forgotten_in_etcd_and_in_a_file() {
    let place = Place::new().await;
    let (etcd, fence) = place.etcd(SignedDuration::ZERO).await;
    tidy(&Store::Etcd(etcd), &fence).await;
    is_tidy(&Store::Etcd(place.etcd(LONG).await.0)).await;
    tidy(&Store::File(place.file(SignedDuration::ZERO)), &Fence::default()).await;
    is_tidy(&Store::File(place.file(LONG))).await;
}

#[test]
fn who_is_present_is_remembered_without_changing() {
    let keep = SignedDuration::from_hours(10);
    let aged = |hours| {
        let at = Timestamp::now() - SignedDuration::from_hours(hours);
        Remembered::write(r#"{"device_ttl":9,"status":{}}"#, at).unwrap().into_bytes()
    };
    let outlook = |hours, is_present| Remembered::outlook(&aged(hours), keep, is_present);
    assert!(matches!(outlook(9, false), Outlook::Stays));
    assert!(matches!(outlook(11, false), Outlook::Over));
    assert!(matches!(outlook(4, true), Outlook::Stays));
    let Outlook::Renewed(text) = outlook(11, true) else { panic!("it is renewed") };
    assert!(Remembered::read(text.as_bytes(), keep).is_some());
    assert!(Remembered::read(&aged(11), keep).is_none());
    assert!(matches!(Remembered::outlook(b"{", keep, true), Outlook::Over));
}
