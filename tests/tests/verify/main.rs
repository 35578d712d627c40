//! `bulkhead verify` finds the leaks of deployments that have some, and none where there are none.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod site;

use bulkhead_devkit::{Tools, free_port};
use bulkhead_policy::JetStreamQuota;
use bulkhead_tests::mqtt::Mode;
use bulkhead_tests::zenoh::Link;
use bulkhead_tests::{Stack, Token, Transport, eventually, eventually_async};
use serde_json::{Value, json};
use site::{Verdict, mosquitto, mqtt_section, nats, nats_section, open_mosquitto, verify, zenohd};
use std::process::Command;

/// The rows that hold wherever somebody has to say who it is.
const UNINVITED: [&str; 2] = ["reach a tenant without credentials", "come in with a wrong secret"];

/// The rows of MQTT in which tenants of one access list reach each other.
const MQTT: [&str; 11] = [
    "publish to the other tenant",
    "subscribe to the other tenant's names",
    "subscribe to everything",
    "read the other tenant's replies",
    "share the other tenant's subscription",
    "read what the other tenant retains",
    "overwrite what the other tenant retains",
    "leave a will to the other tenant",
    CUT,
    RESUME,
    "use the broker's own topics",
];

const CUT: &str = "cut the other tenant by its client id";

const RESUME: &str = "resume the other tenant's session by its client id";

/// The rows of NATS in which tenants of one account reach each other.
const NATS: [&str; 9] = [
    "publish to the other tenant",
    "subscribe to the other tenant's names",
    "subscribe to everything",
    "join the other tenant's queue group",
    "call the other tenant's service",
    "read the other tenant's replies",
    "answer in the other tenant's place",
    "use the system's subjects",
    "reach the other tenant's streams",
];

/// The rows of Zenoh in which everybody reaches everybody.
const ZENOH: [&str; 8] = [
    "publish to the other tenant",
    "subscribe to the other tenant's names",
    "subscribe to everything",
    "query the other tenant",
    "answer the other tenant's queries",
    "see who is alive",
    "see who subscribes",
    "use the admin space",
];

/// The row of Device Connect's registry.
const REGISTRY: &str = "see the other tenant's devices in the registry";

/// What each broker of ours is called, with the tokens of two members.
fn by_token(stack: &Stack) -> String {
    let mut text = String::new();
    for (backend, url, prefix) in [
        ("nats", stack.url().to_owned(), "device-connect."),
        ("mqtt", format!("mqtt://{}", stack.tcp().address), "device-connect/"),
        ("zenoh", format!("tcp/{}", stack.entrance(Link::Tcp).address), "device-connect/"),
    ] {
        text += &format!("[{backend}]\nurls = [\"{url}\"]\n");
        for (which, tenant) in [("a", "acme"), ("b", "globex")] {
            text += &format!(
                "[{backend}.{which}]\nname = \"{tenant}\"\ntoken_file = \"{tenant}.token\"\n\
                 prefix = \"{prefix}{tenant}\"\n"
            );
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_brokers_keep_members_apart() {
    let stack = Stack::new()
        .server_config("jetstream { max_mem: 64MB, max_file: 64MB }")
        .mqtt("")
        .zenoh("")
        .registry("")
        .start()
        .await;
    let quota =
        JetStreamQuota { memory_bytes: 1 << 20, storage_bytes: 1 << 20, streams: 2, consumers: 2 };
    for tenant in ["acme", "globex"] {
        stack.change(tenant, |t| t.quotas.jetstream = Some(quota)).await;
        let token = stack.token(&Token::role(tenant, "member"));
        std::fs::write(stack.folder().join(format!("{tenant}.token")), token).unwrap();
    }
    let verdict = verify(stack.folder(), &by_token(&stack)).await;
    verdict.is_isolated(NATS.len() + MQTT.len() + ZENOH.len() + 3 * UNINVITED.len());
    for (backend, rows) in [("nats", &NATS[..]), ("mqtt", &MQTT), ("zenoh", &ZENOH)] {
        for row in rows.iter().chain(&UNINVITED) {
            assert!(verdict.rows(backend, "isolated").contains(row), "{row}: {verdict}");
        }
    }
    assert!(verdict.reason("nats", "call the other tenant's service").contains("tried by acme"));
    for backend in ["nats", "mqtt", "zenoh"] {
        let reason = verdict.reason(backend, REGISTRY);
        assert!(reason.contains("no device is registered"), "{reason}");
    }
}

/// There, whoever publishes what it may not is cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_closes_what_it_denies_is_no_riddle() {
    let stack = Stack::mqtt().registry("").start().await;
    let address = stack.tcp().address;
    let mut text = format!("[mqtt]\nurls = [\"mqtt://{address}\"]\nversion = \"3.1.1\"\n");
    for (which, tenant) in [("a", "acme"), ("b", "globex")] {
        let token = stack.token(&Token::role(tenant, "member"));
        std::fs::write(stack.folder().join(format!("{tenant}.token")), token).unwrap();
        text += &format!(
            "{which} = {{ token_file = \"{tenant}.token\", prefix = \"device-connect/{tenant}\" }}\n"
        );
    }
    let verdict = verify(stack.folder(), &text).await;
    verdict.is_isolated(MQTT.len() - 1 + UNINVITED.len());
    assert!(verdict.rows("mqtt", "isolated").contains(&REGISTRY), "{verdict}");
}

/// Our own front before a mosquitto, which knows no tenants.
async fn before_a_mosquitto(prefix: &str) -> Verdict {
    let stack = Stack::mqtt_in(Mode::Upstream).upstream_prefix(prefix).registry("");
    let stack = stack.start().await;
    let address = stack.tcp().address;
    let mut text = format!("[mqtt]\nurls = [\"mqtt://{address}\"]\n");
    for (which, tenant) in [("a", "acme"), ("b", "globex")] {
        let token = stack.token(&Token::role(tenant, "member"));
        std::fs::write(stack.folder().join(format!("{tenant}.token")), token).unwrap();
        text += &format!(
            "{which} = {{ token_file = \"{tenant}.token\", prefix = \"device-connect/{tenant}\" }}\n"
        );
    }
    verify(stack.folder(), &text).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_front_before_a_mosquitto_keeps_members_apart() {
    before_a_mosquitto("{tenant}/").await.is_isolated(MQTT.len() + UNINVITED.len() + 1);
    before_a_mosquitto("").await.is_isolated(MQTT.len() + UNINVITED.len() + 1);
}

/// Credentials as the exchange issues them, to devices, over encrypted links.
async fn by_credentials(stack: &Stack, backend: &str, url: &str) -> String {
    let mut text = format!("[{backend}]\nurls = [\"{url}\"]\nca_file = \"{backend}.pem\"\n");
    for (which, tenant) in [("a", "acme"), ("b", "globex")] {
        let token = stack.token(&Token::device(tenant, "cam-1"));
        let request = reqwest::Client::new().post(stack.exchange_url()).bearer_auth(token);
        let asked = json!({"backend": backend, "certificate": backend == "mqtt"});
        let answer = request.json(&asked).send().await.unwrap();
        let file: Value = answer.error_for_status().unwrap().json().await.unwrap();
        std::fs::write(stack.folder().join(format!("{tenant}.json")), file.to_string()).unwrap();
        text += &format!("{which} = {{ credentials_file = \"{tenant}.json\" }}\n");
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_brokers_keep_devices_with_issued_credentials_apart() {
    let stack = Stack::mqtt().issues().start().await;
    let url = format!("mqtts://localhost:{}", stack.door(Transport::Tls).address.port());
    let verdict = verify(stack.folder(), &by_credentials(&stack, "mqtt", &url).await).await;
    verdict.is_isolated(MQTT.len() + UNINVITED.len());
    assert!(verdict.reason("mqtt", CUT).contains("tried by globex"), "{verdict}");

    let stack = Stack::zenoh().issues().start().await;
    let url = format!("tls/localhost:{}", stack.entrance(Link::Tls).address.port());
    let verdict = verify(stack.folder(), &by_credentials(&stack, "zenoh", &url).await).await;
    // A certificate has no secret that could be wrong, and there is no registry.
    verdict.is_isolated(ZENOH.len() + UNINVITED.len() - 1);
    assert_eq!(verdict.report["not_tried"].as_array().unwrap().len(), 2, "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_nats_keeps_devices_with_issued_credentials_apart() {
    let stack = Stack::new().start().await;
    let text = by_credentials(&stack, "nats", stack.url()).await;
    let text = text.replace("ca_file = \"nats.pem\"\n", "");
    let verdict = verify(stack.folder(), &text).await;
    // A device may not use JetStream, and there is no registry.
    verdict.is_isolated(NATS.len() + UNINVITED.len() - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mosquitto_with_one_access_list_for_all_leaks_and_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let list = "topic readwrite #\ntopic read $SYS/#\n";
    let list = ["alice", "bob"].map(|user| format!("user {user}\n{list}")).concat();
    let broker = mosquitto(folder.path(), &list, "sys_interval 1").await;
    let verdict = verify(folder.path(), &mqtt_section(&broker, "", "")).await;
    verdict.leaks_by("mqtt", &MQTT);
    assert_eq!(verdict.rows("mqtt", "isolated"), UNINVITED, "{verdict}");
    let reason = verdict.reason("mqtt", "read what the other tenant retains");
    for part in ["alice subscribed to", "got what bob retains", "bob subscribed to"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    // Nothing is retained, and no session waits for anybody.
    let programs = Tools::open().unwrap().mosquitto().unwrap();
    let heard = |filter: &str| {
        let mut command = Command::new(&programs.subscribe);
        let port = broker.address().port().to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-u", "alice", "-P", "wonder"]);
        command.args(["-t", filter, "-C", "1", "-W", "2", "-F", "%p"]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(heard("#"), "");
    eventually("no session is left", || heard("$SYS/broker/clients/disconnected") == "0\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mosquitto_with_a_list_for_each_leaks_by_client_ids_alone() {
    let folder = tempfile::tempdir().unwrap();
    let list = "user alice\ntopic readwrite tenants/alice/#\n\
                user bob\ntopic readwrite tenants/bob/#\n";
    let broker = mosquitto(folder.path(), list, "").await;
    let (alice, bob) = ("prefix = \"tenants/alice\"", "prefix = \"tenants/bob\"");
    let verdict = verify(folder.path(), &mqtt_section(&broker, alice, bob)).await;
    // Client ids are nobody's own there: whoever takes another's cuts its connection. What waits for it
    // is not handed out, but gone.
    verdict.leaks_by("mqtt", &[CUT, RESUME]);
    assert_eq!(verdict.rows("mqtt", "isolated").len(), MQTT.len() - 2 + UNINVITED.len());
    assert!(verdict.reason("mqtt", RESUME).contains("made it lose what waited"), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mosquitto_for_each_tenant_leaks_nothing() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let list = |user: &str| format!("user {user}\ntopic readwrite #\n");
    let for_alice = mosquitto(folders[0].path(), &list("alice"), "").await;
    let for_bob = mosquitto(folders[1].path(), &list("bob"), "").await;
    let own = format!("urls = [\"mqtt://{}\"]", for_bob.address());
    let verdict = verify(folders[0].path(), &mqtt_section(&for_alice, "", &own)).await;
    verdict.is_isolated(MQTT.len() + UNINVITED.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mosquitto_that_lets_anybody_in_leaks_to_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let list = "topic readwrite #\n\
                user alice\ntopic readwrite tenants/alice/#\n\
                user bob\ntopic readwrite tenants/bob/#\n";
    let broker = mosquitto(folder.path(), list, "allow_anonymous true").await;
    let (alice, bob) = ("prefix = \"tenants/alice\"", "prefix = \"tenants/bob\"");
    let verdict = verify(folder.path(), &mqtt_section(&broker, alice, bob)).await;
    verdict.leaks_by("mqtt", &[CUT, RESUME, UNINVITED[0]]);
    let reason = verdict.reason("mqtt", UNINVITED[0]);
    assert!(reason.contains("without credentials was let in, and heard"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mosquitto_that_checks_nobody_leaks_to_strangers_and_to_wrong_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open_mosquitto(folder.path()).await;
    let (alice, bob) = ("prefix = \"tenants/alice\"", "prefix = \"tenants/bob\"");
    let verdict = verify(folder.path(), &mqtt_section(&broker, alice, bob)).await;
    let leaks = verdict.rows("mqtt", "leak");
    assert!(UNINVITED.iter().all(|row| leaks.contains(row)), "{verdict}");
    assert_eq!(verdict.code, Some(1), "{verdict}");
    let reason = verdict.reason("mqtt", UNINVITED[1]);
    for user in ["alice", "bob"] {
        assert!(reason.contains(&format!("came in as {user} with a wrong secret")), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_of_nats_for_all_leaks_and_two_do_not() {
    let jetstream = "jetstream { max_mem: 64MB, max_file: 64MB }";
    let users = ["alice", "bob"].map(|user| {
        let password = if user == "alice" { "wonder" } else { "builder" };
        format!("{{ user: {user}, password: {password} }}")
    });
    let folder = tempfile::tempdir().unwrap();
    let [alice, bob] = &users;
    let shared = format!("{jetstream}\nauthorization {{ users: [ {alice}, {bob} ] }}\n");
    let server = nats(folder.path(), &shared).await;
    let verdict = verify(folder.path(), &nats_section(&server)).await;
    verdict.leaks_by("nats", &NATS);
    assert_eq!(verdict.rows("nats", "isolated"), UNINVITED, "{verdict}");
    for (row, part) in [
        ("read the other tenant's replies", "read the answer to a request of"),
        ("use the system's subjects", "saw connections and subjects of"),
        ("reach the other tenant's streams", "read a message of bob"),
    ] {
        assert!(verdict.reason("nats", row).contains(part), "{part}: {verdict}");
    }
    let monitor = format!("{}/jsz", server.monitor_url());
    let left: Value = reqwest::get(monitor).await.unwrap().json().await.unwrap();
    assert_eq!(left["streams"], 0, "the streams are removed: {left}");

    let folder = tempfile::tempdir().unwrap();
    let accounts = format!(
        "{jetstream}\naccounts {{\n A: {{ jetstream: enabled, users: [ {alice} ] }}\n \
         B: {{ jetstream: enabled, users: [ {bob} ] }}\n}}\n"
    );
    let server = nats(folder.path(), &accounts).await;
    verify(folder.path(), &nats_section(&server)).await.is_isolated(NATS.len() + UNINVITED.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_that_speaks_mqtt_is_asked_in_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().unwrap();
    let users = [("alice", "wonder"), ("bob", "builder")]
        .map(|(user, password)| format!("{{ user: {user}, password: {password} }}"));
    let [alice, bob] = &users;
    let head = format!(
        "server_name: s\njetstream {{ max_mem: 64MB, max_file: 64MB }}\n\
         mqtt {{ listen: \"127.0.0.1:{port}\" }}\n"
    );
    let accounts = format!(
        "{head}accounts {{\n A: {{ jetstream: enabled, users: [ {alice} ] }}\n \
         B: {{ jetstream: enabled, users: [ {bob} ] }}\n}}\n"
    );
    let mut server = nats(folder.path(), &accounts).await;
    let text =
        nats_section(&server).replace(server.client_url(), &format!("mqtt://127.0.0.1:{port}"));
    let text = text.replace("nats", "mqtt").replace("[mqtt]\n", "[mqtt]\nversion = \"3.1.1\"\n");
    let verdict = verify(folder.path(), &text).await;
    // It has no shared subscriptions, and no registry.
    verdict.is_isolated(MQTT.len() - 1 + UNINVITED.len());
    assert_eq!(verdict.report["not_tried"].as_array().unwrap().len(), 2, "{verdict}");

    let shared = format!("{head}authorization {{ users: [ {alice}, {bob} ] }}\n");
    tokio::task::block_in_place(|| server.restart_with(&shared)).unwrap();
    let verdict = verify(folder.path(), &text).await;
    let leaks =
        MQTT.into_iter().filter(|row| !row.contains("share") && !row.contains("own topics"));
    verdict.leaks_by("mqtt", &leaks.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_of_nats_with_permissions_for_each_user_keeps_them_apart() {
    let user = |user: &str, password: &str| {
        let own = format!("[ \"tenants.{user}.>\", \"_INBOX_{user}.>\" ]");
        format!(
            "{{ user: {user}, password: {password}, \
             permissions: {{ publish: {own}, subscribe: {own}, allow_responses: true }} }}"
        )
    };
    let users = [user("alice", "wonder"), user("bob", "builder")].join(", ");
    let folder = tempfile::tempdir().unwrap();
    let server = nats(folder.path(), &format!("authorization {{ users: [ {users} ] }}\n")).await;
    let mut text = nats_section(&server);
    for user in ["alice", "bob"] {
        let name = format!("name = \"{user}\"\n");
        let own = format!("prefix = \"tenants.{user}\"\ninbox_prefix = \"_INBOX_{user}\"\n");
        text = text.replace(&name, &format!("{name}{own}"));
    }
    let verdict = verify(folder.path(), &text).await;
    verdict.is_isolated(NATS.len() - 1 + UNINVITED.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_of_nats_may_be_told_apart_by_their_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut authorities = String::new();
    for (file, name) in [("server", "localhost"), ("alice", "alice"), ("bob", "bob")] {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(path(&format!("{file}.pem")), made.cert.pem()).unwrap();
        std::fs::write(path(&format!("{file}.key")), made.signing_key.serialize_pem()).unwrap();
        authorities += &made.cert.pem();
    }
    std::fs::write(path("clients.pem"), authorities).unwrap();
    let [cert, key, clients] = ["server.pem", "server.key", "clients.pem"].map(path);
    let config = format!(
        "tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {clients:?}, verify_and_map: true }}\n\
         accounts {{\n A: {{ users: [ {{ user: alice }} ] }}\n B: {{ users: [ {{ user: bob }} ] }}\n}}\n"
    );
    let server = nats(folder.path(), &config).await;
    let port = server.client_url().rsplit(':').next().unwrap();
    let tenant = |user: &str| {
        format!("{{ name = \"{user}\", cert_file = \"{user}.pem\", key_file = \"{user}.key\" }}")
    };
    let text = format!(
        "[nats]\nurls = [\"tls://localhost:{port}\"]\nca_file = \"server.pem\"\na = {}\nb = {}\n",
        tenant("alice"),
        tenant("bob"),
    );
    // There is no secret that could be wrong, and no JetStream.
    verify(folder.path(), &text).await.is_isolated(NATS.len() - 1 + UNINVITED.len() - 1);
    // Both with the same certificate are one tenant.
    let text = text.replace("bob.pem", "alice.pem").replace("bob.key", "alice.key");
    let verdict = verify(folder.path(), &text).await;
    verdict.leaks_by("nats", NATS.split_last().unwrap().1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_system_account_of_nats_is_not_for_tenants() {
    let folder = tempfile::tempdir().unwrap();
    let config = "accounts {\n A: { users: [ { user: alice, password: wonder } ] }\n \
                  SYS: { users: [ { user: bob, password: builder } ] }\n}\nsystem_account: SYS\n";
    let server = nats(folder.path(), config).await;
    let verdict = verify(folder.path(), &nats_section(&server)).await;
    assert!(verdict.rows("nats", "leak").contains(&"use the system's subjects"), "{verdict}");
    assert_eq!(verdict.code, Some(1));
    let reason = verdict.reason("nats", "use the system's subjects");
    assert!(reason.starts_with("bob ") && !reason.contains("alice asked"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_answers_for_every_tenant_leaks() {
    let folder = tempfile::tempdir().unwrap();
    let users = "{ user: alice, password: wonder }, { user: bob, password: builder }";
    let server = nats(folder.path(), &format!("authorization {{ users: [ {users} ] }}\n")).await;
    let options =
        async_nats::ConnectOptions::with_user_and_password("alice".into(), "wonder".into());
    let registry = options.connect(server.client_url()).await.unwrap();
    let mut asked = registry.subscribe("device-connect.*.discovery").await.unwrap();
    let answering = tokio::spawn(async move {
        use futures::StreamExt;
        while let Some(question) = asked.next().await {
            let devices = json!({"result": {"devices": [{"device_id": "cam-1"}]}}).to_string();
            registry.publish(question.reply.unwrap(), devices.into()).await.unwrap();
        }
    });
    let text = nats_section(&server)
        .replace(
            "password_file = \"alice",
            "prefix = \"device-connect.acme\"\npassword_file = \"alice",
        )
        .replace(
            "password_file = \"bob",
            "prefix = \"device-connect.globex\"\npassword_file = \"bob",
        );
    let verdict = verify(folder.path(), &text).await;
    assert!(verdict.rows("nats", "leak").contains(&REGISTRY), "{verdict}");
    answering.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_of_mqtt_that_answers_for_every_tenant_leaks() {
    let folder = tempfile::tempdir().unwrap();
    let list = "user alice\ntopic readwrite #\nuser bob\ntopic readwrite #\n";
    let broker = mosquitto(folder.path(), list, "").await;
    let mut options = rumqttc::MqttOptions::new("registry", "127.0.0.1", broker.address().port());
    options.set_credentials("alice", "wonder");
    let (registry, mut events) = rumqttc::AsyncClient::new(options, 16);
    registry.subscribe("device-connect/+/discovery", rumqttc::QoS::AtLeastOnce).await.unwrap();
    let answering = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            let rumqttc::Event::Incoming(rumqttc::Packet::Publish(question)) = event else {
                continue;
            };
            let question: Value = serde_json::from_slice(&question.payload).unwrap();
            let devices = json!({"result": {"devices": [{"device_id": "cam-1"}]}}).to_string();
            let reply_to = question["reply_to"].as_str().unwrap();
            let qos = rumqttc::QoS::AtLeastOnce;
            registry.publish(reply_to, qos, false, devices).await.unwrap();
        }
    });
    let (alice, bob) = ("prefix = \"device-connect/acme\"", "prefix = \"device-connect/globex\"");
    let verdict = verify(folder.path(), &mqtt_section(&broker, alice, bob)).await;
    assert!(verdict.rows("mqtt", "leak").contains(&REGISTRY), "{verdict}");
    answering.abort();
}

/// A registry of Zenoh that answers these tenants, whoever asks, with these devices.
async fn answers_for(
    router: &bulkhead_devkit::ZenohServer,
    user: Option<&str>,
    tenants: &[&str],
    devices: Value,
) -> zenoh::Session {
    let mut config = zenoh::Config::default();
    config.insert_json5("mode", "\"client\"").unwrap();
    config.insert_json5("scouting/multicast/enabled", "false").unwrap();
    let endpoints = json!([format!("tcp/{}", router.address())]).to_string();
    config.insert_json5("connect/endpoints", &endpoints).unwrap();
    if let Some((user, password)) = user.and_then(|user| user.split_once(':')) {
        let auth = json!({"user": user, "password": password}).to_string();
        config.insert_json5("transport/auth/usrpwd", &auth).unwrap();
    }
    let session = zenoh::open(config).await.unwrap();
    let answer = json!({"result": {"devices": devices}}).to_string();
    for tenant in tenants {
        let answer = answer.clone();
        let key = format!("device-connect/{tenant}/discovery");
        let answering = session.declare_queryable(key).callback(move |query| {
            use zenoh::Wait;
            query.reply(query.key_expr(), answer.clone()).wait().unwrap();
        });
        answering.background().await.unwrap();
    }
    session
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_of_zenoh_that_answers_for_every_tenant_leaks() {
    let folder = tempfile::tempdir().unwrap();
    let router = zenohd(folder.path(), json!({})).await;
    let registry = answers_for(&router, None, &["a", "b"], json!([{"device_id": "cam-1"}])).await;
    let text = open_zenoh(&router).replace("tenants/", "device-connect/");
    let verdict = verify(folder.path(), &text).await;
    assert!(verdict.rows("zenoh", "leak").contains(&REGISTRY), "{verdict}");
    let reason = verdict.reason("zenoh", REGISTRY);
    assert!(reason.contains("a asked for the devices of b, and the registry answered"), "{reason}");
    registry.close().await.unwrap();
}

/// Who has nothing to show, as a router without a list of users takes it.
fn open_zenoh(router: &bulkhead_devkit::ZenohServer) -> String {
    format!(
        "[zenoh]\nurls = [\"tcp/{}\"]\n\
         a = {{ anonymous = true, prefix = \"tenants/a\" }}\n\
         b = {{ anonymous = true, prefix = \"tenants/b\" }}\n",
        router.address()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zenohd_without_rules_leaks() {
    let folder = tempfile::tempdir().unwrap();
    let router = zenohd(folder.path(), json!({})).await;
    let verdict = verify(folder.path(), &open_zenoh(&router)).await;
    let leaks: Vec<_> = ZENOH.into_iter().chain([UNINVITED[0]]).collect();
    verdict.leaks_by("zenoh", &leaks);
    assert!(verdict.reason("zenoh", "use the admin space").contains("`@/"), "{verdict}");
}

/// A zenohd with users that may do everything below their own prefix, and the section for alice and bob.
async fn guarded_zenoh(
    folder: &std::path::Path,
    users: &[(&str, &str, &str)],
) -> (bulkhead_devkit::ZenohServer, String) {
    let mut dictionary = String::new();
    for (user, password, _) in users {
        std::fs::write(folder.join(format!("{user}.password")), password).unwrap();
        dictionary += &format!("{user}:{password}\n");
    }
    let path = folder.join("users");
    std::fs::write(&path, dictionary).unwrap();
    let each = |of: &dyn Fn(&str, &str) -> Value| -> Vec<Value> {
        users.iter().map(|(user, _, prefix)| of(user, prefix)).collect()
    };
    let config = json!({
        "transport": {"auth": {"usrpwd": {"dictionary_file": path}}},
        "access_control": {
            "enabled": true,
            "default_permission": "deny",
            "rules": each(&|user, prefix| json!({
                "id": user, "permission": "allow", "flows": ["ingress", "egress"],
                "messages": ["put", "delete", "declare_subscriber", "query", "reply",
                    "declare_queryable", "liveliness_token", "liveliness_query",
                    "declare_liveliness_subscriber"],
                "key_exprs": [format!("{prefix}/**")],
            })),
            "subjects": each(&|user, _| json!({"id": user, "usernames": [user]})),
            "policies": each(&|user, _| json!({"rules": [user], "subjects": [user]})),
        },
    });
    let router = zenohd(folder, config).await;
    let sections: Vec<_> = users
        .iter()
        .zip(["a", "b"])
        .map(|((user, _, prefix), which)| {
            format!(
                "[zenoh.{which}]\nname = \"{user}\"\nuser = \"{user}\"\n\
             password_file = \"{user}.password\"\nprefix = \"{prefix}\"\n"
            )
        })
        .collect();
    let head = format!("[zenoh]\nurls = [\"tcp/{}\"]\n", router.address());
    (router, head + &sections.concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zenohd_with_rules_for_each_user_keeps_them_apart() {
    let folder = tempfile::tempdir().unwrap();
    let users = [("alice", "wonder", "tenants/alice"), ("bob", "builder", "tenants/bob")];
    let (_router, text) = guarded_zenoh(folder.path(), &users).await;
    verify(folder.path(), &text).await.is_isolated(ZENOH.len() + UNINVITED.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_does_not_answer_a_tenant_shows_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let users = [
        ("alice", "wonder", "device-connect/alice"),
        ("bob", "builder", "device-connect/bob"),
        ("registry", "trusted", "device-connect"),
    ];
    let (router, text) = guarded_zenoh(folder.path(), &users).await;
    let devices = json!([{"device_id": "cam-1"}]);
    let registry = answers_for(&router, Some("registry:trusted"), &["bob"], devices.clone()).await;
    let verdict = verify(folder.path(), &text).await;
    verdict.is_unknown();
    assert_eq!(verdict.rows("zenoh", "unknown"), [REGISTRY], "{verdict}");
    let reason = verdict.reason("zenoh", REGISTRY);
    assert!(reason.contains("the registry answers bob, and not alice"), "{reason}");
    registry.close().await.unwrap();
    // Where it answers both, and each for its own alone, it is told.
    let own = |id: &str| json!([{"device_id": id}]);
    let bobs = answers_for(&router, Some("registry:trusted"), &["bob"], own("cam-2")).await;
    let alices = answers_for(&router, Some("registry:trusted"), &["alice"], own("cam-1")).await;
    verify(folder.path(), &text).await.is_isolated(ZENOH.len() + UNINVITED.len() + 1);
    // And where each is told of the other's.
    bobs.close().await.unwrap();
    alices.close().await.unwrap();
    let all = answers_for(&router, Some("registry:trusted"), &["alice", "bob"], devices).await;
    let verdict = verify(folder.path(), &text).await;
    assert_eq!(verdict.rows("zenoh", "leak"), [REGISTRY], "{verdict}");
    assert!(verdict.reason("zenoh", REGISTRY).contains("is told of devices of"), "{verdict}");
    all.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_work_within_a_tenant_shows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Bob may not say anything.
    let config = "accounts {\n A: { users: [ { user: alice, password: wonder } ] }\n \
                  B: { users: [ { user: bob, password: builder, \
                  permissions: { publish: { deny: \">\" } } } ] }\n}\n";
    let server = nats(folder.path(), config).await;
    let verdict = verify(folder.path(), &nats_section(&server)).await;
    verdict.is_unknown();
    assert_eq!(verdict.rows("nats", "isolated"), UNINVITED, "{verdict}");
    let reason = verdict.reason("nats", "publish to the other tenant");
    assert!(reason.contains("within bob it does not work either (refused)"), "{reason}");
    let reason = verdict.reason("nats", "subscribe to everything");
    assert!(reason.contains("nats.b.prefix"), "the remedy is named: {reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_connect_shows_nothing() {
    let unknown = |verdict: Verdict, who: &str| {
        verdict.is_unknown();
        let rows = verdict.report["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 1, "{verdict}");
        let reason = rows[0]["reason"].as_str().unwrap();
        for part in [who, "cannot connect", "check the address"] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = mosquitto(folder.path(), "topic readwrite #\n", "").await;
    std::fs::write(folder.path().join("bob.password"), "wrong").unwrap();
    unknown(verify(folder.path(), &mqtt_section(&broker, "", "")).await, "bob");

    let folder = tempfile::tempdir().unwrap();
    let config = "authorization { users: [ { user: alice, password: wonder } ] }\n";
    let server = nats(folder.path(), config).await;
    unknown(verify(folder.path(), &nats_section(&server)).await, "bob");

    let folder = tempfile::tempdir().unwrap();
    let router = zenohd(folder.path(), json!({})).await;
    router.kill().unwrap();
    unknown(verify(folder.path(), &open_zenoh(&router)).await, "a cannot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_away_meanwhile_is_no_pass() {
    let check = |verdict: Verdict, backend: &str| {
        verdict.is_unknown();
        assert!(!verdict.rows(backend, "isolated").is_empty(), "some rows came before: {verdict}");
        let reason = verdict.reason(backend, UNINVITED[0]);
        assert!(reason.contains("does not work either (refused)"), "{reason}");
    };
    let folder = tempfile::tempdir().unwrap();
    let config = "accounts {\n A: { users: [ { user: alice, password: wonder } ] }\n \
                  B: { users: [ { user: bob, password: builder } ] }\n}\n";
    let server = nats(folder.path(), config).await;
    let text = nats_section(&server);
    let (verdict, ()) = tokio::join!(verify(folder.path(), &text), async {
        let varz = format!("{}/varz", server.monitor_url());
        eventually_async("some rows have been tried", async || {
            let seen: Value = reqwest::get(&varz).await.unwrap().json().await.unwrap();
            seen["in_msgs"].as_u64().unwrap() > 20
        })
        .await;
        server.kill().unwrap();
    });
    check(verdict, "nats");

    let folder = tempfile::tempdir().unwrap();
    let list = "user alice\ntopic readwrite tenants/alice/#\n\
                user bob\ntopic readwrite tenants/bob/#\n";
    let broker = mosquitto(folder.path(), list, "").await;
    let (alice, bob) = ("prefix = \"tenants/alice\"", "prefix = \"tenants/bob\"");
    let text = mqtt_section(&broker, alice, bob);
    let (verdict, ()) = tokio::join!(verify(folder.path(), &text), async {
        let connected = || broker.log().matches("New client connected").count();
        eventually("some rows have been tried", || connected() > 10).await;
        broker.kill().unwrap();
    });
    check(verdict, "mqtt");
}
