//! What the registry measures: every one of its metrics moves by what it is about, and of those that it
//! shares with other services, the ones of the directory and of the issuers' keys.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

#[path = "../python/script.rs"]
mod script;

use bulkhead_policy::Tenant;
use bulkhead_tests::registry::{Keys, Party};
use bulkhead_tests::{Passage, Replica, Stack, eventually_async};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType};
use script::Script;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

const PROGRAM: &str = env!("CARGO_BIN_EXE_replica");

/// Where the registry's metrics are made: the list of all of them, also of those that nothing ever counts.
const SOURCE: &str = include_str!("../../registry/src/metrics.rs");

/// What a series has to come to.
#[derive(Clone, Copy, Debug)]
enum Comes {
    /// Above zero.
    Above,
    Below(f64),
    To(f64),
}
use Comes::{Above, Below, To};

/// A replica's metrics, and which of them have moved as they should.
struct Metrics {
    url: String,
    moved: BTreeSet<String>,
}

impl Metrics {
    fn of(replica: &Replica) -> Self {
        Self { url: format!("http://{}/metrics", replica.admin()), moved: BTreeSet::new() }
    }

    /// A series, written with its labels; 0 as long as it is not there.
    async fn value(&self, series: &str) -> f64 {
        let text = reqwest::get(&self.url).await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until each series has come to where it should.
    async fn move_when(&mut self, happened: &str, rows: &[(&str, &str, Comes)]) {
        for (metric, labels, comes) in rows {
            let series = format!("bulkhead_{metric}{labels}");
            let what = format!("{happened}: {series} comes {comes:?}");
            eventually_async(&what, async || {
                let value = self.value(&series).await;
                match comes {
                    Above => value > 0.0,
                    Below(number) => value < *number,
                    To(number) => (value - number).abs() < f64::EPSILON,
                }
            })
            .await;
            let family = metric.trim_end_matches("_count");
            self.moved.insert(format!("bulkhead_{family}"));
        }
    }
}

/// Everything that the source names.
fn all() -> BTreeSet<String> {
    let literals = SOURCE.split('"').filter(|text| text.starts_with("bulkhead_registry_"));
    literals.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_moves_by_what_it_is_about() {
    let stack = Stack::new().etcd().mqtt("").zenoh("").issues().registry_elsewhere();
    let mut stack = stack.start().await;
    let target = stack.etcd().endpoint().trim_start_matches("http://").parse().unwrap();
    let way_to_etcd = Passage::to(target).await;
    let by = format!("http://{}", way_to_etcd.address());
    let first = stack.registry_replica_by(PROGRAM, "first", &by).await;
    let mut metrics = Metrics::of(&first);
    let console = Party::role(&stack, "acme", "member").await;

    let mut devices = Vec::new();
    for backend in ["nats", "mqtt", "zenoh"] {
        let device = format!("cam-{backend}");
        let mut input = stack.runtime(backend, "acme", &device).await;
        input["meets"] = json!("cam-nats");
        devices.push(Script::start(stack.folder(), "device.py", &device, &input).await);
    }
    let everywhere = ["nats", "mqtt", "zenoh"];
    for backend in everywhere {
        let label = |outcome| format!("{{backend=\"{backend}\",outcome=\"{outcome}\"}}");
        let own = format!("{{backend=\"{backend}\"}}");
        let rows = [
            ("registry_backend_up", &*own, To(1.0)),
            ("registry_registrations_total", &label("registered"), Above),
            ("registry_beats_total", &label("unchanged"), Above),
            ("registry_beat_age_seconds_count", &own, Above),
            ("registry_discoveries_total", &label("answered"), Above),
        ];
        metrics.move_when("a device comes and asks for another", &rows).await;
    }
    let rows = [
        ("registry_transitions_total", "{kind=\"online\"}", Above),
        ("registry_devices", "", To(3.0)),
        ("registry_writes_saved_total", "", Above),
        ("registry_inbox", "", Above),
        ("registry_store_up", "", To(1.0)),
        ("registry_partitions", "", To(64.0)),
        ("directory_tenants", "", To(2.0)),
        ("key_refreshes_total", "{issuer=\"test\",outcome=\"ok\"}", Above),
        ("keys_updated_timestamp_seconds", "{issuer=\"test\"}", Above),
        ("registry_leases", "", Above),
        ("registry_etcd_space_ratio", "", Above),
        ("registry_etcd_requests_total", "{kind=\"range\"}", Above),
        ("registry_etcd_requests_total", "{kind=\"enter\"}", Above),
        ("registry_etcd_requests_total", "{kind=\"lease\"}", Above),
        ("registry_etcd_requests_total", "{kind=\"commit\"}", Above),
        ("registry_etcd_requests_total", "{kind=\"keep_alive\"}", Above),
        ("registry_etcd_requests_total", "{kind=\"status\"}", Above),
    ];
    metrics.move_when("devices are there", &rows).await;

    console.beat("cam-nats", json!({"battery": 5})).await;
    console.beat("cam-nats", json!({"device_id": "cam-mqtt"})).await;
    console.discover("listDevices", json!({"limit": 0})).await;
    console.register("cam-9", |params| params["device_ttl"] = json!(0)).await;
    let rows = [
        ("registry_beats_total", "{backend=\"nats\",outcome=\"changed\"}", To(1.0)),
        ("registry_beats_total", "{backend=\"nats\",outcome=\"refused\"}", To(1.0)),
        ("registry_discoveries_total", "{backend=\"nats\",outcome=\"refused\"}", To(1.0)),
        ("registry_registrations_total", "{backend=\"nats\",outcome=\"refused\"}", To(1.0)),
        ("registry_transitions_total", "{kind=\"changed\"}", Above),
    ];
    metrics.move_when("a device changes, and some are wrong", &rows).await;

    devices.iter().for_each(Script::pause);
    let gone = [
        ("registry_transitions_total", "{kind=\"offline\"}", Above),
        ("registry_devices", "", To(0.0)),
    ];
    metrics.move_when("devices sleep", &gone).await;
    devices.iter().for_each(Script::resume);
    for backend in everywhere {
        let pulled = format!("{{backend=\"{backend}\",outcome=\"registered\"}}");
        metrics.move_when("devices wake up", &[("registry_pulls_total", &pulled, Above)]).await;
    }
    let _asked = console.actor.subscribe("device-connect.acme.mute.cmd").await;
    let client = console.actor.client.clone();
    let mute = AbortOnDropHandle::new(tokio::spawn(async move {
        let beat = json!({"device_id": "mute", "ts": 1.5}).to_string();
        loop {
            let subject = "device-connect.acme.mute.heartbeat";
            client.publish(subject, beat.clone().into()).await.unwrap();
            sleep(Duration::from_millis(500)).await;
        }
    }));
    let rows = [
        ("registry_beats_total", "{backend=\"nats\",outcome=\"unknown\"}", Above),
        ("registry_pulls_total", "{backend=\"nats\",outcome=\"silent\"}", Above),
        ("registry_pulls_pending", "", To(1.0)),
    ];
    metrics.move_when("a device does not say who it is", &rows).await;
    drop(mute);
    metrics.move_when("it is gone", &[("registry_pulls_pending", "", To(0.0))]).await;

    way_to_etcd.cut().await;
    console.beat("cam-nats", json!({"battery": 6})).await;
    let rows = [
        ("registry_write_errors_total", "", Above),
        ("registry_waiting", "", Above),
        ("registry_store_up", "", To(0.0)),
    ];
    metrics.move_when("etcd is away", &rows).await;
    let rows = [
        ("directory_errors_total", "{kind=\"etcd\"}", Above),
        ("directory_age_seconds", "", Above),
    ];
    metrics.move_when("the directory is there too", &rows).await;
    way_to_etcd.mend();
    let back = [("registry_store_up", "", To(1.0)), ("registry_waiting", "", To(0.0))];
    metrics.move_when("etcd is back", &back).await;
    stack.store().await.create(&"late".parse().unwrap(), Tenant::default()).await.unwrap();
    let rows = [("directory_tenants", "", To(3.0)), ("directory_age_seconds", "", To(0.0))];
    metrics.move_when("a tenant comes", &rows).await;

    let second = stack.registry_replica(PROGRAM, "second").await;
    metrics.move_when("another replica comes", &[("registry_partitions", "", Below(64.0))]).await;
    second.kill().unwrap();
    let rows = [("registry_takeovers_total", "", Above), ("registry_partitions", "", To(64.0))];
    metrics.move_when("it dies", &rows).await;

    let mut keys = Keys::of(&mut stack).await;
    let alarm = Some(AlarmOptions::new());
    keys.client().alarm(AlarmAction::Activate, AlarmType::Nospace, alarm).await.unwrap();
    metrics.move_when("etcd is full", &[("registry_etcd_full", "", To(1.0))]).await;

    stack.servers()[0].kill().unwrap();
    stack.stop_service().await;
    for backend in everywhere {
        let own = format!("{{backend=\"{backend}\"}}");
        metrics.move_when("the brokers go", &[("registry_backend_up", &own, To(0.0))]).await;
    }
    let untouched: Vec<_> = all().difference(&metrics.moved).cloned().collect();
    assert_eq!(untouched, [""; 0], "each metric of the source has to move here");
}
