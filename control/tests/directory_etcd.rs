//! A directory in a real etcd: watched, compacted, cut off, frozen, restarted.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_control::Control;
use bulkhead_control::config::{DirectoryConfig, EtcdConfig, MetricsConfig};
use bulkhead_control::directory::{Directory, Store, StoreError};
use bulkhead_control::metrics::Metrics;
use bulkhead_devkit::{Etcd, Tools};
use bulkhead_policy::{DenyReason, DeviceId, Status, Tenant, TenantId, Verdict};
use common::proxy::{Proxy, Way};
use common::signer::{Signer, claims, jwks};
use common::site::{Site, config, enter, issuer, metric, ready};
use common::{soon, until, until_true};
use etcd_client::Client;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const PREFIX: &str = "/bulkhead/tenants/";

/// An etcd of its own, and a proxy before it.
struct Kept {
    etcd: Option<Etcd>,
    endpoint: String,
    proxy: Proxy,
    client: Client,
    _folder: tempfile::TempDir,
}

impl Kept {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let etcd = blocking(move || {
            let binary = Tools::open().unwrap().etcd().unwrap();
            Etcd::start(&binary, &path).unwrap()
        })
        .await;
        let endpoint = etcd.endpoint().to_owned();
        let address = endpoint.strip_prefix("http://").unwrap().parse().unwrap();
        let proxy = Proxy::start(address).await;
        let client = Client::connect([&endpoint], None).await.unwrap();
        Self { etcd: Some(etcd), endpoint, proxy, client, _folder: folder }
    }

    /// Does something to the server, away from the tasks of this test.
    async fn server(&mut self, act: impl FnOnce(&mut Etcd) + Send + 'static) {
        let mut etcd = self.etcd.take().unwrap();
        self.etcd = Some(
            blocking(move || {
                act(&mut etcd);
                etcd
            })
            .await,
        );
    }

    async fn put(&self, tenant: &str, value: &str) {
        let mut kv = self.client.kv_client();
        kv.put(format!("{PREFIX}{tenant}"), value, None).await.unwrap();
    }

    async fn delete(&self, tenant: &str) {
        let mut kv = self.client.kv_client();
        kv.delete(format!("{PREFIX}{tenant}"), None).await.unwrap();
    }

    /// Forgets all history up to now.
    async fn compact(&self) {
        let mut kv = self.client.kv_client();
        let now = kv.get("x", None).await.unwrap();
        let revision = now.header().unwrap().revision();
        kv.compact(revision, None).await.unwrap();
    }

    async fn store(&self) -> Store {
        Store::open(&in_etcd(&self.endpoint)).await.unwrap()
    }
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}

fn in_etcd(endpoint: &str) -> DirectoryConfig {
    DirectoryConfig::in_etcd(EtcdConfig::at(vec![endpoint.to_owned()]))
}

fn id(text: &str) -> TenantId {
    text.parse().unwrap()
}

/// A process whose directory is behind the proxy.
struct World {
    kept: Kept,
    control: Control,
    key: Signer,
    _site: Site,
}

impl World {
    async fn start(tenants: &[&str], changes: &str) -> Self {
        let kept = Kept::start().await;
        for tenant in tenants {
            kept.put(tenant, "{}").await;
        }
        let (site, key) = (Site::new(), Signer::ed25519("k1"));
        site.write("keys.json", jwks(&[&key]));
        let corp = issuer("tenants = \"all\"\nkeys.jwks_file = \"keys.json\"");
        let changes = format!("{changes}\ndirectory.etcd.endpoints = [\"{}\"]", kept.proxy.url());
        let control = site.start(&config(&changes, vec![corp])).await;
        Self { kept, control, key, _site: site }
    }

    async fn outcome(&self, tenant: &str) -> Verdict<()> {
        let token = self.key.sign(&claims(json!({ "tenant": tenant })));
        enter(self.control.auth(), &token).await.map(|_| ())
    }

    async fn until_outcome(&self, tenant: &str, wanted: Verdict<()>) {
        until(&format!("{tenant}: {wanted:?}"), async || {
            (self.outcome(tenant).await == wanted).then_some(())
        })
        .await;
    }

    /// What was last known to be true before `then` serves no longer once its limit is over. The
    /// second on top is for what was under way.
    async fn is_closed_past_the_limit(&self, then: Instant) {
        until_true("the limit is over", || then.elapsed() > LIMIT + Duration::from_secs(1)).await;
        let closed = Err(DenyReason::DirectoryUnavailable);
        assert_eq!(self.outcome("acme").await, closed);
        assert_eq!(self.control.readiness().missing(), ["directory"]);
    }

    fn directory(&self) -> &Directory {
        self.control.auth().directory()
    }

    fn errors(&self, kind: &str) -> f64 {
        let series = format!("bulkhead_directory_errors_total{{kind=\"{kind}\"}}");
        metric(&self.control, &series)
    }
}

/// How long the last good state serves, where a test waits for its end.
const LIMIT: Duration = Duration::from_secs(5);
const LIMITED: &str = "directory.stale_after = \"5s\"";

const SUSPENDED: &str = r#"{"status": "suspended"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_changed_and_deleted_is_seen() {
    let world = World::start(&["acme"], "").await;
    let mut changes = world.directory().changes();
    let before = changes.borrow_and_update().clone();
    assert_eq!(world.outcome("acme").await, Ok(()));
    assert_eq!(world.outcome("globex").await, Err(DenyReason::TenantUnknown));
    world.kept.put("globex", "{}").await;
    world.until_outcome("globex", Ok(())).await;
    let after = changes.borrow_and_update().clone();
    assert!(after.changed_since(&before).into_iter().eq([id("globex")]));
    world.kept.put("globex", SUSPENDED).await;
    world.until_outcome("globex", Err(DenyReason::TenantSuspended)).await;
    world.kept.delete("globex").await;
    world.until_outcome("globex", Err(DenyReason::TenantUnknown)).await;
    assert_eq!(world.outcome("acme").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_suspended_and_resumed_in_haste_ends_as_it_was_left() {
    let world = World::start(&["acme"], "").await;
    let live = world.key.sign(&claims(json!({})));
    let live = enter(world.control.auth(), &live).await.unwrap();
    for _ in 0..50 {
        world.kept.put("acme", SUSPENDED).await;
        world.kept.put("acme", "{}").await;
    }
    world.kept.put("acme", SUSPENDED).await;
    // A mark behind all of them: whoever sees it has seen what was before.
    world.kept.put("globex", "{}").await;
    world.until_outcome("globex", Ok(())).await;
    let suspended = Err(DenyReason::TenantSuspended);
    assert_eq!(world.outcome("acme").await, suspended);
    let auth = world.control.auth();
    assert_eq!(auth.reassess(&live.principal, live.rights), suspended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_while_it_was_cut_off_and_then_compacted_is_not_missed() {
    let world = World::start(&["acme", "globex"], "").await;
    world.kept.proxy.set(Way::Cut);
    until_true("the outage is seen", || world.errors("etcd") > 0.0).await;
    world.kept.put("acme", SUSPENDED).await;
    world.kept.delete("globex").await;
    world.kept.put("initech", "{}").await;
    world.kept.compact().await;
    assert_eq!(world.outcome("acme").await, Ok(()), "the last good state");
    world.kept.proxy.set(Way::Open);
    world.until_outcome("acme", Err(DenyReason::TenantSuspended)).await;
    assert_eq!(world.outcome("globex").await, Err(DenyReason::TenantUnknown));
    assert_eq!(world.outcome("initech").await, Ok(()));
    // And the watch goes on from there.
    world.kept.put("acme", "{}").await;
    world.until_outcome("acme", Ok(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_falls_silent_makes_the_state_stale_and_is_noticed() {
    let world = World::start(&["acme", "globex"], LIMITED).await;
    let live = world.key.sign(&claims(json!({})));
    let live = enter(world.control.auth(), &live).await.unwrap();
    // No connection ends: only the silence tells.
    world.kept.proxy.set(Way::Silent);
    let then = Instant::now();
    world.kept.put("acme", SUSPENDED).await;
    world.kept.delete("globex").await;
    world.kept.compact().await;
    world.is_closed_past_the_limit(then).await;
    let stays = world.control.auth();
    let stays = stays.reassess(&live.principal, live.rights);
    assert_eq!(stays, Ok(()), "an outage cuts nobody");

    world.kept.proxy.set(Way::Open);
    world.until_outcome("acme", Err(DenyReason::TenantSuspended)).await;
    world.until_outcome("globex", Err(DenyReason::TenantUnknown)).await;
    ready(&world.control).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_freezes_makes_the_state_stale_until_it_goes_on() {
    let mut world = World::start(&["acme"], LIMITED).await;
    world.kept.server(|etcd| etcd.pause().unwrap()).await;
    let then = Instant::now();
    assert_eq!(world.outcome("acme").await, Ok(()), "the last good state");
    // It is seen to grow while etcd is waited for, and not only when that is given up.
    let age = || metric(&world.control, "bulkhead_directory_age_seconds");
    until_true("the age grows", || (1.0..=4.0).contains(&age())).await;
    world.is_closed_past_the_limit(then).await;
    until_true("the age is past the limit", || age() > LIMIT.as_secs_f64()).await;
    world.kept.server(|etcd| etcd.resume().unwrap()).await;
    world.until_outcome("acme", Ok(())).await;
    ready(&world.control).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_down_past_the_limit_closes_the_door_and_opens_it_again() {
    let mut world = World::start(&["acme"], LIMITED).await;
    world.kept.server(|etcd| etcd.kill().unwrap()).await;
    until_true("the outage is seen", || world.errors("etcd") > 0.0).await;
    assert_eq!(world.outcome("acme").await, Ok(()), "the last good state");
    let closed = Err(DenyReason::DirectoryUnavailable);
    world.until_outcome("acme", closed).await;
    assert_eq!(world.outcome("initech").await, closed, "nor is this known");
    assert_eq!(world.control.readiness().missing(), ["directory"]);
    let age = metric(&world.control, "bulkhead_directory_age_seconds");
    assert!(age >= 1.0, "the metric shows the age: {age}");

    world.kept.server(|etcd| etcd.restart().unwrap()).await;
    world.until_outcome("acme", Ok(())).await;
    ready(&world.control).await;
    // What is changed after the restart arrives as before.
    world.kept.put("acme", SUSPENDED).await;
    world.until_outcome("acme", Err(DenyReason::TenantSuspended)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_within_the_limit_is_hardly_noticed() {
    let mut world = World::start(&["acme", "globex"], "").await;
    let before = world.directory().snapshot();
    world.kept.server(|etcd| etcd.restart().unwrap()).await;
    world.kept.put("acme", SUSPENDED).await;
    world.until_outcome("acme", Err(DenyReason::TenantSuspended)).await;
    let after = world.directory().snapshot();
    assert!(
        after.changed_since(&before).into_iter().eq([id("acme")]),
        "reading all again changes only what has changed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_etcd_does_not_go_stale_at_any_limit_that_may_be_configured() {
    let kept = Kept::start().await;
    kept.put("acme", "{}").await;
    let site = Site::new();
    let corp = issuer("keys.jwks_file = \"keys.json\"");
    // The shortest limit that is accepted.
    let shortest = (1..=60).find_map(|seconds| {
        let changes = format!(
            "directory.stale_after = \"{seconds}s\"\ndirectory.etcd.endpoints = [\"{}\"]",
            kept.endpoint
        );
        site.load(&config(&changes, vec![corp.clone()])).ok()
    });
    let config = shortest.unwrap().directory;
    let directory = Directory::new(&config, &Metrics::new(&MetricsConfig::default()).unwrap());
    let stop = CancellationToken::new();
    let follower = tokio::spawn({
        let (directory, stop) = (directory.clone(), stop.clone());
        async move { directory.maintain(&config, stop).await }
    });
    until_true("the directory is read", || directory.is_fresh()).await;
    // Several rounds of asking for a sign of life, with nothing else to see.
    let since = Instant::now();
    let (mut looks, mut stale) = (0, 0);
    until_true("six quiet seconds", || {
        looks += 1;
        stale += u32::from(!directory.is_fresh());
        since.elapsed() > Duration::from_secs(6)
    })
    .await;
    // A machine that is busy elsewhere may have its moments.
    assert!(stale * 10 < looks, "stale at {stale} of {looks} looks, with a healthy etcd");
    stop.cancel();
    soon("the follower ends", follower).await.unwrap();
}

/// A process that does nothing between reading the state and watching it: as one that was stopped,
/// starved or swapped out for hours.
#[test]
fn a_watch_that_begins_behind_a_compaction_starts_over() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (outside, inside) = (runtime(), runtime());
    let kept = outside.block_on(Kept::start());
    outside.block_on(kept.put("acme", "{}"));
    let config = in_etcd(&kept.endpoint);
    let metrics = Metrics::new(&MetricsConfig::default()).unwrap();
    let directory = Directory::new(&config, &metrics);
    let mut following = Box::pin(directory.maintain(&config, CancellationToken::new()));
    // The state is there before the request for the watch has left, and from here on nobody runs
    // the tasks that would send it.
    inside.block_on(async {
        let mut changes = directory.changes();
        tokio::select! {
            biased;
            () = &mut following => {}
            _ = changes.changed() => {}
        }
    });
    assert!(directory.tenant(&id("acme")).is_ok());
    outside.block_on(async {
        for _ in 0..3 {
            kept.put("acme", SUSPENDED).await;
            kept.put("globex", "{}").await;
        }
        kept.compact().await;
    });
    let caught_up = async {
        let suspended = || {
            let acme = directory.tenant(&id("acme"));
            acme.is_ok_and(|tenant| tenant.status == Status::Suspended)
        };
        until_true("it has caught up", || suspended() && directory.tenant(&id("globex")).is_ok())
            .await;
    };
    inside.block_on(async {
        tokio::select! {
            () = &mut following => {}
            () = caught_up => {}
        }
    });
    let text = metrics.encode().unwrap();
    assert!(
        text.contains("bulkhead_directory_errors_total{kind=\"etcd\"} 1"),
        "the watch was not behind: {text}"
    );
    drop(following);
    drop(inside);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_read_keeps_the_tenants_last_good_state() {
    let world = World::start(&["acme", "globex"], "").await;
    let broken = [
        "",
        "{",
        "null",
        "[]",
        r#"{"status": "gone"}"#,
        r#"{"statsu": "suspended"}"#,
        r#"{"roles": {"device": {"subscribe": ["device-connect/**"]}}}"#,
    ];
    for value in broken {
        let before = world.errors("content");
        world.kept.put("acme", value).await;
        let what = format!("{value:?} is refused");
        until_true(&what, || world.errors("content") > before).await;
        assert_eq!(world.outcome("acme").await, Ok(()), "{value}");
        assert_eq!(world.outcome("globex").await, Ok(()), "{value}");
    }
    // What is no tenant's key is nobody's.
    for key in ["a/b", "registry", "", "acme.x", "é"] {
        let before = world.errors("content");
        world.kept.put(key, "{}").await;
        until_true("the fault is counted", || world.errors("content") > before).await;
        assert_eq!(world.directory().snapshot().len(), 2, "{key}");
        world.kept.delete(key).await;
    }
    world.kept.put("acme", SUSPENDED).await;
    world.until_outcome("acme", Err(DenyReason::TenantSuspended)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_read_keeps_it_also_when_all_is_read_again() {
    let world = World::start(&["acme", "globex"], "").await;
    let before = world.errors("content");
    world.kept.put("acme", "{").await;
    until_true("the fault is counted", || world.errors("content") > before).await;
    world.kept.proxy.set(Way::Cut);
    until_true("the outage is seen", || world.errors("etcd") > 0.0).await;
    world.kept.put("initech", "{}").await;
    world.kept.proxy.set(Way::Open);
    world.until_outcome("initech", Ok(())).await;
    assert_eq!(world.outcome("acme").await, Ok(()));
    assert_eq!(world.outcome("globex").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_ids_that_differ_only_in_case_one_is_known() {
    let world = World::start(&["acme"], "").await;
    let before = world.errors("content");
    world.kept.put("Acme", "{}").await;
    until_true("the clash is counted", || world.errors("content") > before).await;
    let known: Vec<_> = ["acme", "Acme"]
        .into_iter()
        .filter(|name| world.directory().tenant(&id(name)).is_ok())
        .collect();
    assert_eq!(known.len(), 1, "{known:?}");

    // When the clash ends, the one that is left is known, whichever that is.
    world.kept.delete("Acme").await;
    world.until_outcome("acme", Ok(())).await;
    assert_eq!(world.outcome("Acme").await, Err(DenyReason::TenantUnknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_creates_changes_and_deletes() {
    let kept = Kept::start().await;
    let store = kept.store().await;
    assert!(store.list().await.unwrap().is_empty());
    let acme = id("acme");
    let unknown = |error: StoreError| {
        assert!(error.to_string().contains("no tenant 'acme'"), "{error}");
    };
    unknown(store.get(&acme).await.unwrap_err());
    unknown(store.update(&acme, |_| {}).await.unwrap_err());
    unknown(store.delete(&acme).await.unwrap_err());

    store.create(&acme, Tenant::default()).await.unwrap();
    for name in ["acme", "ACME", "Acme"] {
        let error = store.create(&id(name), Tenant::default()).await.unwrap_err();
        assert!(error.to_string().contains("'acme' exists"), "{error}");
    }
    let limit = |t: &mut Tenant| t.quotas.connections = Some(3);
    let changed = store.update(&acme, limit).await.unwrap();
    assert_eq!(changed.quotas.connections, Some(3));
    assert_eq!(store.get(&acme).await.unwrap(), changed);
    assert_eq!(store.list().await.unwrap()[&acme], changed);

    let escape = |t: &mut Tenant| {
        let role = r#"{"subscribe": ["device-connect/**"]}"#;
        let role = serde_json::from_str(role).unwrap();
        t.roles.insert("device".parse().unwrap(), role);
    };
    let error = store.update(&acme, escape).await.unwrap_err();
    assert!(error.to_string().contains("{tenant}"), "{error}");
    assert_eq!(store.get(&acme).await.unwrap(), changed, "nothing is written");

    store.delete(&acme).await.unwrap();
    unknown(store.get(&acme).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_get_in_each_others_way_all_arrive() {
    let kept = Kept::start().await;
    let store = kept.store().await;
    let acme = id("acme");
    store.create(&acme, Tenant::default()).await.unwrap();
    let writers: Vec<_> = (0..5)
        .map(|i| {
            let (store, acme) = (store.clone(), acme.clone());
            tokio::spawn(async move {
                for j in 0..5 {
                    let device = format!("cam-{i}-{j}").parse().unwrap();
                    let revoke = |t: &mut Tenant| {
                        t.revoked_devices
                            .insert(DeviceId::clone(&device), jiff::Timestamp::UNIX_EPOCH);
                    };
                    // Whoever loses too often is told, and tries again.
                    let mut lost = 0;
                    while let Err(error) = store.update(&acme, &revoke).await {
                        assert!(matches!(error, StoreError::Contended(_)), "{error}");
                        lost += 1;
                        assert!(lost < 100, "it loses for ever");
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        soon("a writer", writer).await.unwrap();
    }
    assert_eq!(store.get(&acme).await.unwrap().revoked_devices.len(), 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_create_the_same_tenant_at_once_do_not_both_succeed() {
    let kept = Kept::start().await;
    let stores = [kept.store().await, kept.store().await];
    for round in 0..20 {
        let names = [format!("tenant-{round}"), format!("TENANT-{round}")];
        for (first, second) in [(&names[0], &names[0]), (&names[0], &names[1])] {
            let (first, second) = (id(first), id(second));
            let (one, other) = tokio::join!(
                stores[0].create(&first, Tenant::default()),
                stores[1].create(&second, Tenant::default())
            );
            assert!(one.is_ok() ^ other.is_ok(), "{first}: {one:?}, {second}: {other:?}");
            let created = if one.is_ok() { &first } else { &second };
            stores[0].delete(created).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_read_stands_in_nobody_elses_way() {
    let kept = Kept::start().await;
    kept.put("broken", "{").await;
    let store = kept.store().await;
    store.create(&id("acme"), Tenant::default()).await.unwrap();
    let error = store.get(&id("broken")).await.unwrap_err().to_string();
    assert!(error.contains("/bulkhead/tenants/broken"), "{error}");
    store.delete(&id("broken")).await.unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_directory_can_be_read_listed_and_added_to() {
    let kept = Kept::start().await;
    // Five megabytes: more than one answer holds unless it is told to.
    for i in 0..5 {
        let mut tenant = Tenant::default();
        for j in 0..10_000 {
            let token = format!("{j:070}").parse().unwrap();
            tenant.revoked_tokens.insert(token, jiff::Timestamp::UNIX_EPOCH);
        }
        let value = serde_json::to_string(&tenant).unwrap();
        kept.put(&format!("tenant-{i}"), &value).await;
    }
    let config = in_etcd(&kept.endpoint);
    let directory = Directory::new(&config, &Metrics::new(&MetricsConfig::default()).unwrap());
    let stop = CancellationToken::new();
    let follower = tokio::spawn({
        let (directory, stop) = (directory.clone(), stop.clone());
        async move { directory.maintain(&config, stop).await }
    });
    until_true("the directory is read", || directory.snapshot().len() == 5).await;
    let store = kept.store().await;
    assert_eq!(store.list().await.unwrap().len(), 5);
    store.create(&id("acme"), Tenant::default()).await.unwrap();
    until_true("the change is seen", || directory.snapshot().len() == 6).await;
    stop.cancel();
    soon("the follower ends", follower).await.unwrap();
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_said_with_a_remedy() {
    let port = bulkhead_devkit::free_port().unwrap();
    let store = Store::open(&in_etcd(&format!("http://127.0.0.1:{port}"))).await;
    let error = match store {
        Err(error) => error,
        // Connecting may wait until something is asked.
        Ok(store) => soon("an answer", store.list()).await.unwrap_err(),
    };
    assert!(error.to_string().contains("directory.etcd"), "{error}");
}
