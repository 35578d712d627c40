//! A directory in a file: changed, broken, gone, and back again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::Control;
use bulkhead_control::directory::{Snapshot, Store};
use bulkhead_policy::{DenyReason, Status, Tenant, TenantId, Verdict};
use common::signer::{Signer, claims, jwks};
use common::site::{Site, TENANTS, config, enter, issuer, metric, ready};
use common::{soon, until, until_true};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FILE: &str = "tenants.toml";

struct World {
    site: Site,
    control: Control,
    key: Signer,
}

impl World {
    async fn begin(site: Site, changes: &str) -> Self {
        let key = Signer::ed25519("k1");
        site.write("keys.json", jwks(&[&key]));
        let corp = issuer("tenants = \"all\"\nkeys.jwks_file = \"keys.json\"");
        let control = site.try_start(&config(changes, vec![corp])).await.unwrap();
        Self { site, control, key }
    }

    async fn start(changes: &str) -> Self {
        let world = Self::begin(Site::new(), changes).await;
        ready(&world.control).await;
        world
    }

    fn token(&self, tenant: &str) -> String {
        self.key.sign(&claims(json!({ "tenant": tenant })))
    }

    async fn outcome(&self, tenant: &str) -> Verdict<()> {
        let token = self.token(tenant);
        enter(self.control.auth(), &token).await.map(|_| ())
    }

    async fn until_outcome(&self, tenant: &str, wanted: Verdict<()>) {
        until(&format!("{wanted:?}"), async || {
            (self.outcome(tenant).await == wanted).then_some(())
        })
        .await;
    }

    fn errors(&self, kind: &str) -> f64 {
        let series = format!("bulkhead_directory_errors_total{{kind=\"{kind}\"}}");
        metric(&self.control, &series)
    }
}

fn ids(names: &[&str]) -> BTreeSet<TenantId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_change_is_seen_and_says_whom_it_concerns() {
    let world = World::start("").await;
    let mut changes = world.control.auth().directory().changes();
    let mut state: Arc<Snapshot> = Arc::clone(&changes.borrow_and_update());
    let steps: [(&str, &[&str]); 5] = [
        ("[tenants.acme]\nstatus = \"suspended\"\n[tenants.globex]\n", &["acme"]),
        (
            "# written anew\n[tenants.globex]\n[tenants.acme]\nstatus = \"suspended\"\n\
             [tenants.initech]\nquotas.connections = 3\n",
            &["initech"],
        ),
        (
            "[tenants.globex]\nrevoked_devices.cam-1 = \"2026-01-01T00:00:00Z\"\n",
            &["acme", "globex", "initech"],
        ),
        ("", &["globex"]),
        (TENANTS, &["acme", "globex"]),
    ];
    for (text, concerned) in steps {
        world.site.write(FILE, text);
        let next = soon("the change", async {
            changes.changed().await.unwrap();
            Arc::clone(&changes.borrow_and_update())
        })
        .await;
        assert_eq!(next.changed_since(&state), ids(concerned), "{text}");
        state = next;
    }
    assert_eq!(
        metric(&world.control, "bulkhead_directory_tenants"),
        2.0,
        "as many as the file has"
    );
}

#[tokio::test]
async fn broken_content_keeps_the_last_good_state_and_stays_ready() {
    let world = World::start("directory.stale_after = \"2s\"").await;
    let broken = [
        "[tenants.acme",
        "tenants = 7",
        "[tenant.acme]\n",
        "[tenants.acme]\nstatus = \"gone\"\n",
        "[tenants.acme]\nstatsu = \"suspended\"\n",
        "[tenants.acme]\n[tenants.Acme]\n",
        "[tenants.registry]\n",
        "[tenants.\"a/b\"]\n",
        "[tenants.acme.roles.device]\nsubscribe = [\"device-connect/**\"]\n",
        "[tenants.acme.roles.device]\nmqtt.subscribe = [\"device-connect/*/x\"]\n",
        "\u{0}",
    ];
    for text in broken {
        let before = world.errors("content");
        world.site.write(FILE, text);
        until_true("the fault is counted", || world.errors("content") > before).await;
        assert_eq!(world.outcome("acme").await, Ok(()), "{text}");
        assert_eq!(world.outcome("globex").await, Ok(()), "{text}");
        assert_eq!(world.outcome("registry").await, Err(DenyReason::TenantInvalid));
    }
    // Its author has been told; whoever is connected is not cut off while it is mended.
    let counted = world.errors("content");
    let stale_after = Duration::from_secs(3);
    let since = Instant::now();
    until_true("well past the stale limit", || {
        assert!(world.control.auth().directory().is_fresh());
        since.elapsed() > stale_after
    })
    .await;
    assert_eq!(world.errors("content"), counted, "counted once, not always");
    world.site.write(FILE, "[tenants.acme]\nstatus = \"suspended\"\n");
    world.until_outcome("acme", Err(DenyReason::TenantSuspended)).await;
    assert_eq!(world.outcome("globex").await, Err(DenyReason::TenantUnknown));
}

#[tokio::test]
async fn a_file_that_is_gone_closes_the_door_after_a_while_and_cuts_nobody() {
    let world = World::start("directory.stale_after = \"3s\"").await;
    let live = enter(world.control.auth(), &world.token("acme")).await.unwrap();
    world.site.remove(FILE);
    until_true("the fault is counted", || world.errors("read") > 0.0).await;
    assert_eq!(world.outcome("acme").await, Ok(()), "the last good state");
    assert!(world.control.readiness().missing().is_empty());

    let closed = Err(DenyReason::DirectoryUnavailable);
    world.until_outcome("acme", closed).await;
    assert_eq!(world.outcome("globex").await, closed);
    assert_eq!(world.outcome("initech").await, closed, "nor is this known");
    assert_eq!(world.control.readiness().missing(), ["directory"]);
    let stays = world.control.auth().reassess(&live.principal, live.rights);
    assert_eq!(stays, Ok(()), "an outage cuts nobody");

    world.site.write(FILE, TENANTS);
    world.until_outcome("acme", Ok(())).await;
    ready(&world.control).await;
    assert_eq!(world.errors("read"), 1.0, "counted once, not always");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_closes_the_door_after_a_while() {
    let world = World::start("directory.stale_after = \"1s\"").await;
    // It is there, and it can be looked at, but not read.
    world.site.remove(FILE);
    std::fs::create_dir(world.site.path(FILE)).unwrap();
    world.until_outcome("acme", Err(DenyReason::DirectoryUnavailable)).await;
    std::fs::remove_dir(world.site.path(FILE)).unwrap();
    world.site.write(FILE, TENANTS);
    world.until_outcome("acme", Ok(())).await;
}

#[tokio::test]
async fn the_age_of_the_state_grows_while_the_file_is_gone() {
    let world = World::start("").await;
    let age = || metric(&world.control, "bulkhead_directory_age_seconds");
    assert!(age() < 2.0);
    world.site.remove(FILE);
    until_true("the metric shows the age", || age() >= 2.0).await;
    world.site.write(FILE, TENANTS);
    until_true("and that it is over", || age() < 2.0).await;
}

#[tokio::test]
async fn before_the_file_is_there_nobody_is_let_in() {
    let site = Site::new();
    site.remove(FILE);
    let world = World::begin(site, "").await;
    until_true("the fault is counted", || world.errors("read") > 0.0).await;
    assert_eq!(world.outcome("acme").await, Err(DenyReason::DirectoryUnavailable));
    assert_eq!(world.control.readiness().missing(), ["directory"]);
    world.site.write(FILE, "[tenants.acme");
    until_true("the fault is counted", || world.errors("content") > 0.0).await;
    assert_eq!(world.control.readiness().missing(), ["directory"]);
    let since = Instant::now();
    until_true("a second of the same", || since.elapsed() > Duration::from_secs(1)).await;
    assert_eq!(world.errors("content"), 1.0, "said once for each change of the file");
    world.site.write(FILE, TENANTS);
    world.until_outcome("acme", Ok(())).await;
}

#[tokio::test]
async fn a_tenant_that_is_not_there_is_refused_unless_that_is_configured_otherwise() {
    let closed = World::start("").await;
    let unknown = Err(DenyReason::TenantUnknown);
    assert_eq!(closed.outcome("initech").await, unknown);
    assert_eq!(closed.outcome("Acme").await, unknown, "case matters");
    assert_eq!(closed.outcome("default").await, unknown);

    let open = World::start("directory.open = true").await;
    assert_eq!(open.outcome("initech").await, Ok(()));
    for name in ["default", "Default", "DEFAULT"] {
        assert_eq!(open.outcome(name).await, unknown, "{name}");
    }
    open.site.write(FILE, "[tenants.initech]\nstatus = \"suspended\"\n");
    open.until_outcome("initech", Err(DenyReason::TenantSuspended)).await;

    let all = World::start("directory = { open = true, allow_default_tenant = true }").await;
    assert_eq!(all.outcome("default").await, Ok(()));
}

#[tokio::test]
async fn a_file_behind_a_link_that_is_swapped_is_read_again() {
    let site = Site::new();
    site.remove(FILE);
    // As an orchestrator mounts it: the file is a link into a folder that is itself exchanged.
    for (folder, status) in [("v1", "active"), ("v2", "suspended")] {
        std::fs::create_dir(site.path(folder)).unwrap();
        let text = format!("[tenants.acme]\nstatus = \"{status}\"\n");
        site.write(&format!("{folder}/{FILE}"), text);
    }
    std::os::unix::fs::symlink("v1", site.path("current")).unwrap();
    std::os::unix::fs::symlink(format!("current/{FILE}"), site.path(FILE)).unwrap();
    let world = World::begin(site, "").await;
    world.until_outcome("acme", Ok(())).await;
    let next = world.site.path("next");
    std::os::unix::fs::symlink("v2", &next).unwrap();
    std::fs::rename(next, world.site.path("current")).unwrap();
    world.until_outcome("acme", Err(DenyReason::TenantSuspended)).await;
}

#[tokio::test]
async fn what_the_store_writes_the_directory_reads() {
    let world = World::start("").await;
    let store = Store::open(&world.control.config().directory).await.unwrap();
    let initech: TenantId = "initech".parse().unwrap();
    store.create(&initech, Tenant::default()).await.unwrap();
    world.until_outcome("initech", Ok(())).await;
    let suspend = |t: &mut Tenant| t.status = Status::Suspended;
    store.update(&initech, suspend).await.unwrap();
    world.until_outcome("initech", Err(DenyReason::TenantSuspended)).await;
    store.delete(&initech).await.unwrap();
    world.until_outcome("initech", Err(DenyReason::TenantUnknown)).await;
    assert_eq!(world.outcome("acme").await, Ok(()));
}

#[test]
fn a_directory_has_exactly_one_source() {
    let site = Site::new();
    let corp = || vec![issuer("keys.jwks_file = \"keys.json\"")];
    for changes in [
        "directory = { file = \"tenants.toml\", etcd = { endpoints = [\"http://127.0.0.1:1\"] } }",
        "directory = { etcd = { endpoints = [] } }",
        "directory.stale_after = \"0s\"",
        "directory.stale_after = \"-5m\"",
    ] {
        let error = site.load(&config(changes, corp())).unwrap_err().to_string();
        assert!(error.contains("directory"), "{changes}: {error}");
    }
}
