//! Unmodified devices with each other, and unmodified tools with them: found through the registry,
//! called, and heard.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

#[path = "../python/script.rs"]
mod script;

use bulkhead_devkit::Tools;
use bulkhead_tests::{Stack, StackBuilder};
use script::Script;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// A device that only waits for others.
async fn device(stack: &Stack, backend: &str, tenant: &str, id: &str) -> Script {
    let input = stack.runtime(backend, tenant, id).await;
    Script::start(stack.folder(), "device.py", &format!("{tenant}-{id}"), &input).await
}

/// What comes of an agent that looks for two devices and calls them.
async fn agent(stack: &Stack, backend: &str, tenant: &str, task: &Value) -> Value {
    let environment = stack.tools(backend, tenant, "agent-1").await;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join("agent.py");
    let task = task.to_string();
    let start = move || {
        let mut command = Command::new(Tools::open().unwrap().agent_tools().unwrap());
        command.env_clear().envs(environment).env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg(program).arg(task);
        command
    };
    Script::of(stack.folder(), "agent", start).await.result().await
}

/// Whether an agent finds the devices of its tenant and no other, has them all do something by a broadcast, and
/// hears of it; and, over NATS and Zenoh, whether it calls one of them by itself.
///
/// Over MQTT the tools find, broadcast and hear as elsewhere, but no device answers a call: device-connect-edge
/// puts a request into an envelope that names the topic of the answer, and at the other end takes the
/// envelope for the request.
async fn an_agent_works_with_devices(stack: StackBuilder, backend: &str) {
    let stack = stack.registry("").start().await;
    let devices = [
        device(&stack, backend, "acme", "cam-1").await,
        device(&stack, backend, "acme", "cam-2").await,
        device(&stack, backend, "globex", "cam-3").await,
    ];
    devices[2].prints("online cam-3").await;
    let answers_calls = backend != "mqtt";
    let task =
        if answers_calls { json!({"devices": 2, "calls": "cam-1"}) } else { json!({"devices": 2}) };
    let agent = agent(&stack, backend, "acme", &task).await;
    assert_eq!(
        agent["found"],
        json!([["cam-1", "camera", "lab"], ["cam-2", "camera", "lab"]]),
        "{agent}"
    );
    let called =
        json!({"success": true, "device_id": "cam-1", "function": "add", "result": {"sum": 5}});
    assert_eq!(agent["called"], if answers_calls { called } else { Value::Null }, "{agent}");
    let told = |id| json!({"device_id": id, "success": true, "result": {"sum": 23}});
    assert_eq!(agent["told"], json!([told("cam-1"), told("cam-2")]), "{agent}");
    let heard = if answers_calls { json!([5, 23, 23]) } else { json!([23, 23]) };
    assert_eq!(agent["heard"], heard, "{agent}");
    let functions = json!(["add", "call", "forge", "overhear", "peers", "reach", "seen"]);
    assert_eq!(agent["status"], json!(["cam-1", functions]), "{agent}");

    let [first, second, foreign] = devices;
    let own =
        if answers_calls { json!([[null, 2, 3], [null, 20, 3]]) } else { json!([[null, 20, 3]]) };
    assert_eq!(first.stop().await["calls"], own);
    assert_eq!(second.stop().await["calls"], json!([[null, 20, 3]]));
    let foreign = foreign.stop().await;
    assert_eq!((&foreign["calls"], &foreign["events"]), (&json!([]), &json!([])), "{foreign}");
    assert!(foreign["registrations"].as_u64() > Some(0), "{foreign}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_works_with_devices_over_nats() {
    an_agent_works_with_devices(Stack::new(), "nats").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_works_with_devices_over_mqtt() {
    an_agent_works_with_devices(Stack::mqtt(), "mqtt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_works_with_devices_over_zenoh() {
    an_agent_works_with_devices(Stack::zenoh().issues(), "zenoh").await;
}

/// Whether a device finds another through the registry, calls it, and is heard by it, all by
/// device-connect-edge's own means.
///
/// Over MQTT a call gets there and is not understood (see [`an_agent_works_with_devices`]): finding and
/// hearing each other is what unmodified devices can do there.
async fn devices_work_with_each_other(stack: StackBuilder, backend: &str) {
    let stack = stack.registry("").start().await;
    let mut input = stack.runtime(backend, "acme", "cam-1").await;
    input["meets"] = json!("cam-2");
    let first = Script::start(stack.folder(), "device.py", "acme-cam-1", &input).await;
    // From here on it hears who comes.
    first.prints("online cam-1").await;
    // Another tenant's has the same to say, and the name of the one that is sought.
    let foreign = device(&stack, backend, "globex", "cam-2").await;
    let second = device(&stack, backend, "acme", "cam-2").await;
    let answers_calls = backend != "mqtt";
    first.prints("met cam-2").await;
    for device in [&first, &second] {
        device.prints("heard cam-1 7").await;
        if answers_calls {
            device.prints("heard cam-2 5").await;
        }
    }
    for device in [&first, &second, &foreign] {
        device.prints("online cam-2").await;
    }

    let [first, second, foreign] = [first.stop().await, second.stop().await, foreign.stop().await];
    let called = &first["met"]["add"];
    let (calls, events) = if answers_calls {
        assert_eq!(called["result"], json!({"sum": 5}), "{first}");
        (json!([["cam-1", 2, 3]]), json!([["cam-1", 7], ["cam-2", 5]]))
    } else {
        let error = called["error"].as_str().unwrap();
        assert!(error.contains("timed out"), "{error}");
        (json!([]), json!([["cam-1", 7]]))
    };
    assert_eq!(second["calls"], calls, "{second}");
    for seen in [&first, &second] {
        let mut heard = seen["events"].as_array().unwrap().clone();
        heard.sort_by_key(Value::to_string);
        assert_eq!(json!(heard), events, "{seen}");
    }
    assert_eq!(foreign["online"], json!(["cam-2"]), "{foreign}");
    assert_eq!((&foreign["calls"], &foreign["events"]), (&json!([]), &json!([])), "{foreign}");
    for seen in [&first, &second, &foreign] {
        assert_eq!((&seen["ended"], &seen["errors"]), (&Value::Null, &json!([])), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_work_with_each_other_over_nats() {
    devices_work_with_each_other(Stack::new(), "nats").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_work_with_each_other_over_mqtt() {
    devices_work_with_each_other(Stack::mqtt(), "mqtt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_work_with_each_other_over_zenoh() {
    devices_work_with_each_other(Stack::zenoh().issues(), "zenoh").await;
}
