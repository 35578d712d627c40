//! What Device Connect's own registry gets wrong, tried on it and on ours in the same way: it has to fail
//! each, or the test shows nothing.
//!
//! The fault of answering into another tenant (2) cannot be had on NATS with an account for each tenant,
//! whichever registry answers; `registry_backends` tries it over MQTT. Losing devices with a replica (6)
//! and under load (7) are in `registry_failure`, `registry_soak` and the benchmark `registry.fleet_100k`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_devkit::{Server, Tools};
use bulkhead_tests::registry::{Keys, Party};
use bulkhead_tests::{Replica, Stack, eventually_async};
use serde_json::json;
use std::process::Command;
use std::time::Duration;
use tokio::time::sleep;

const PROGRAM: &str = env!("CARGO_BIN_EXE_replica");

/// Longer than ours takes for anything, and shorter than the original is held up by one silent device.
const SOON: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    Original,
}

enum Running {
    Ours(Replica),
    Original(Server),
}

impl Running {
    fn kill(&self) {
        match self {
            Self::Ours(replica) => replica.kill().unwrap(),
            Self::Original(server) => server.kill().unwrap(),
        }
    }
}

async fn start(stack: &mut Stack, kind: Kind, name: &str) -> Running {
    if kind == Kind::Ours {
        return Running::Ours(stack.registry_replica(PROGRAM, name).await);
    }
    let endpoint = stack.etcd().endpoint().trim_start_matches("http://").to_owned();
    let (host, port) = endpoint.rsplit_once(':').unwrap();
    let python =
        tokio::task::spawn_blocking(|| Tools::open().unwrap().original_registry().unwrap());
    let mut command = Command::new(python.await.unwrap());
    command
        .env_clear()
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-m", "device_connect_server.registry.service.main"])
        .env("MESSAGING_BACKEND", "nats")
        .env("NATS_URL", stack.url())
        .env("MESSAGING_URLS", stack.url())
        .env("MESSAGING_CREDENTIALS_FILE", stack.folder().join("nats").join("registry.creds"))
        .env("NATS_CREDENTIALS_FILE", stack.folder().join("nats").join("registry.creds"))
        .env("ETCD_HOST", host)
        .env("ETCD_PORT", port);
    let server = Server::spawn(name, command, stack.folder()).unwrap();
    eventually_async("the original listens", async || {
        server.log().contains("listening on all tenants")
    })
    .await;
    Running::Original(server)
}

/// 1: whoever says so is the device.
async fn a_member_takes_a_device_over(kind: Kind) -> bool {
    let mut stack = Stack::new().etcd().start().await;
    let _registry = start(&mut stack, kind, "registry").await;
    let (cam, other) = (
        Party::device(&stack, "acme", "cam-1").await,
        Party::device(&stack, "acme", "cam-2").await,
    );
    cam.register("cam-1", |_| {}).await;
    other.register("cam-1", |params| params["identity"]["device_type"] = json!("mine")).await;
    let console = Party::role(&stack, "acme", "member").await;
    // The original answers from what it saw two seconds ago.
    eventually_async("the device is found", async || !console.get("cam-1").await.is_null()).await;
    console.get("cam-1").await["identity"]["device_type"] == "mine"
}

/// 3: devices that do not answer hold up another tenant.
async fn silent_devices_hold_up_another_tenant(kind: Kind) -> bool {
    let mut stack = Stack::new().etcd().start().await;
    let _registry = start(&mut stack, kind, "registry").await;
    let (acme, globex) = (
        Party::role(&stack, "acme", "member").await,
        Party::role(&stack, "globex", "member").await,
    );
    globex.register("cam-1", |params| params["device_ttl"] = json!(600)).await;
    let _silent = acme.actor.subscribe("device-connect.acme.*.cmd").await;
    for n in 0..3 {
        acme.beat(&format!("silent-{n}"), json!({"battery": 1})).await;
    }
    // It is known to be heard after them.
    sleep(Duration::from_millis(200)).await;
    globex.beat("cam-1", json!({"battery": 5})).await;
    sleep(SOON).await;
    globex.get("cam-1").await["status"]["battery"] != 5
}

/// 4: any text is an id, and any number a time to live.
async fn anything_is_an_id(kind: Kind) -> bool {
    let mut stack = Stack::new().etcd().start().await;
    let _registry = start(&mut stack, kind, "registry").await;
    let console = Party::role(&stack, "acme", "member").await;
    let path = console.register("a/b/../c", |_| {}).await;
    let long = console.register("x", |params| params["device_ttl"] = json!(1_000_000_000)).await;
    path.get("error").is_none() || long.get("error").is_none()
}

/// 5: a heartbeat after a restart leaves a key that never goes.
async fn a_restart_leaves_an_immortal_key(kind: Kind) -> bool {
    let mut stack = Stack::new().etcd().start().await;
    let registry = start(&mut stack, kind, "first").await;
    let console = Party::role(&stack, "acme", "member").await;
    console.register("cam-1", |params| params["device_ttl"] = json!(600)).await;
    registry.kill();
    let _second = start(&mut stack, kind, "second").await;
    let mut keys = Keys::of(&mut stack).await;
    eventually_async("the change is written", async || {
        console.beat("cam-1", json!({"battery": 5})).await;
        keys.get("acme", "cam-1").await.is_some_and(|(found, _)| found["status"]["battery"] == 5)
    })
    .await;
    keys.get("acme", "cam-1").await.unwrap().1 == 0
}

macro_rules! faults {
    ($($fault:ident),+ $(,)?) => {
        $(mod $fault {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn ours_has_it_not() {
                assert!(!super::$fault(super::Kind::Ours).await);
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn the_original_has_it() {
                assert!(super::$fault(super::Kind::Original).await);
            }
        })+
    };
}

faults! {
    a_member_takes_a_device_over,
    silent_devices_hold_up_another_tenant,
    anything_is_an_id,
    a_restart_leaves_an_immortal_key,
}
