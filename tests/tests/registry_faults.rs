//! What Device Connect's own registry gets wrong, tried on it and on ours in the same way: it has to fail
//! each, or the test shows nothing.
//!
//! The fault of answering into another tenant (2) cannot be had with an account for each tenant, whichever
//! registry answers, so the original has a server where tenants have users; `registry_backends` tries it on
//! ours over MQTT. Losing devices with a replica (6) is in `registry_failure` too, and under load (7) in
//! `registry_soak` and the benchmark `registry.fleet_100k`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use async_nats::ConnectOptions;
use bulkhead_devkit::{NatsServer, Server, Tools};
use bulkhead_tests::registry::{Keys, Party, one_account, registration};
use bulkhead_tests::{Actor, Replica, Stack, eventually_async};
use futures::StreamExt;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

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
    let url = stack.url().to_owned();
    let credentials = stack.folder().join("nats").join("registry.creds");
    start_original(stack, name, &url, Some(&credentials)).await
}

async fn start_original(
    stack: &mut Stack,
    name: &str,
    url: &str,
    credentials: Option<&Path>,
) -> Running {
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
        .env("NATS_URL", url)
        .env("MESSAGING_URLS", url)
        .env("ETCD_HOST", host)
        .env("ETCD_PORT", port);
    if let Some(path) = credentials {
        command.env("MESSAGING_CREDENTIALS_FILE", path).env("NATS_CREDENTIALS_FILE", path);
    }
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

async fn start_at(stack: &mut Stack, server: Option<&NatsServer>, name: &str) -> Running {
    let Some(server) = server else { return start(stack, Kind::Ours, name).await };
    let url = server.client_url().replace("//", "//registry:registry@");
    start_original(stack, name, &url, None).await
}

async fn member_at(stack: &Stack, server: Option<&NatsServer>, tenant: &str) -> Party {
    let Some(server) = server else { return Party::role(stack, tenant, "member").await };
    let options = ConnectOptions::with_user_and_password(tenant.to_owned(), tenant.to_owned());
    let actor = Actor::try_connect(server.client_url(), options).await.unwrap();
    Party { tenant: tenant.to_owned(), actor }
}

/// 2: an answer goes wherever who asks wants it, also where that one itself may not publish.
async fn an_answer_goes_into_another_tenant(kind: Kind) -> bool {
    let mut stack = Stack::new().etcd().start().await;
    let server = if kind == Kind::Original { Some(one_account(&stack, "").await) } else { None };
    let _registry = start_at(&mut stack, server.as_ref(), "registry").await;
    let victim = member_at(&stack, server.as_ref(), "globex").await;
    let attacker = member_at(&stack, server.as_ref(), "acme").await.actor.client;
    let mut commands = victim.actor.subscribe("device-connect.globex.*.cmd").await;
    let request = registration("cam-1").to_string();
    let (name, elsewhere) = ("device-connect.acme.registry", "device-connect.globex.lock-1.cmd");
    attacker.publish_with_reply(name, elsewhere, request.into()).await.unwrap();
    attacker.flush().await.unwrap();
    tokio::time::timeout(SOON, commands.next()).await.is_ok()
}

/// 6: a second replica says again that a device came, once it hears its heartbeats.
async fn two_replicas_say_twice_that_a_device_came(kind: Kind) -> bool {
    let mut stack = Stack::new().etcd().start().await;
    let server = if kind == Kind::Original { Some(one_account(&stack, "").await) } else { None };
    let _first = start_at(&mut stack, server.as_ref(), "first").await;
    let _second = start_at(&mut stack, server.as_ref(), "second").await;
    let console = member_at(&stack, server.as_ref(), "acme").await;
    let mut lifecycle = console.lifecycle().await;
    // It answers whoever asks who it is, as devices do.
    let mut asked = console.actor.subscribe("device-connect.acme.cam-1.cmd").await;
    let device = console.actor.client.clone();
    let _answering = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let params = registration("cam-1")["params"].clone();
            let answer = json!({"jsonrpc": "2.0", "id": 1, "result": params}).to_string();
            device.publish(message.reply.unwrap(), answer.into()).await.unwrap();
        }
    }));
    eventually_async("it registers", async || {
        console.register("cam-1", |_| {}).await.get("result").is_some()
    })
    .await;
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        console.beat("cam-1", json!({"availability": "idle"})).await;
        sleep(Duration::from_millis(200)).await;
    }
    console.register("cam-2", |_| {}).await;
    let mut came = 0;
    loop {
        match &*lifecycle.next().await {
            "online cam-1" => came += 1,
            "online cam-2" => return came > 1,
            other => panic!("{other}"),
        }
    }
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
    an_answer_goes_into_another_tenant,
    two_replicas_say_twice_that_a_device_came,
    silent_devices_hold_up_another_tenant,
    anything_is_an_id,
    a_restart_leaves_an_immortal_key,
}
