//! A stock zenohd from crates.io that loads the plugin.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod site;

use bulkhead_devkit::Error;
use bulkhead_tests::eventually_async;
use bulkhead_tests::zenoh::say::{self, key};
use bulkhead_tests::zenoh::{Authentication, Entrance, Greeting, Link};
use serde_json::{Value, json};
use site::{Ear, Realm, Wishes, ask, built_plugin, open, open_as_router, open_trusting};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use zenoh::Wait;

const STRANGERS: &str = "bulkhead_zenoh_strangers_total";

/// A name, what is wrong with the router's configuration, and what is said about it.
type Case = (&'static str, fn(&mut Value), &'static str);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_loads_the_plugin_and_keeps_tenants_apart() {
    let realm = Realm::new();
    let site = realm.start("router").await;
    let acme = open(&site.gate(), Some(&realm.member("acme"))).await.unwrap();
    let sender = open(&site.gate(), Some(&realm.member("acme"))).await.unwrap();
    let globex = open(&site.gate(), Some(&realm.member("globex"))).await.unwrap();
    let own = Ear::of(&acme, "device-connect/acme/**").await;
    let other = Ear::of(&globex, "device-connect/globex/**").await;
    // Of its own: a client hands on what arrives to all of its subscribers, whatever they are for.
    let curious = open(&site.gate(), Some(&realm.member("globex"))).await.unwrap();
    let everything = Ear::of(&curious, "**").await;
    let aimed = Ear::of(&curious, "device-connect/acme/**").await;

    globex.put("device-connect/acme/cam-1/event/forged", "probe").await.unwrap();
    assert!(own.hears(&sender, "device-connect/acme/cam-1/event/motion").await.is_empty());
    let sender = open(&site.gate(), Some(&realm.member("globex"))).await.unwrap();
    assert!(other.hears(&sender, "device-connect/globex/cam-1/event/motion").await.is_empty());
    everything.nothing().await;
    aimed.nothing().await;
    assert!(open(&site.gate(), None).await.is_err(), "nobody comes in without a token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_refuses_a_wrong_configuration_and_says_why() {
    let cases: [Case; 7] = [
        (
            "around",
            |router| {
                let port = bulkhead_devkit::free_port().unwrap();
                let endpoints = router["listen"]["endpoints"].as_array_mut().unwrap();
                endpoints.push(json!(format!("tcp/127.0.0.1:{port}")));
            },
            "tenants could reach the router around the gate by tcp/127.0.0.1:",
        ),
        (
            "no-socket",
            |router| {
                let endpoints = router["listen"]["endpoints"].as_array_mut().unwrap();
                endpoints.remove(0);
            },
            "the router has no socket for the gate; add \"unixsock-stream/\" and a path",
        ),
        (
            "no-config",
            |router| {
                router["plugins"]["bulkhead"].as_object_mut().unwrap().remove("config");
            },
            "plugins/bulkhead of the router's configuration: missing field `config`; it takes",
        ),
        (
            "wrong-name",
            |router| router["plugins"]["bulkhead"]["confg"] = json!("bulkhead.toml"),
            "plugins/bulkhead of the router's configuration: unknown field `confg`",
        ),
        (
            "no-file",
            |router| router["plugins"]["bulkhead"]["config"] = json!("elsewhere.toml"),
            "elsewhere.toml",
        ),
        (
            "no-listener",
            |router| router["plugins"]["bulkhead"]["listeners"] = json!(["udp/127.0.0.1:7447"]),
            "'udp/127.0.0.1:7447' is no listener; write tcp/, tls/, ws/ or quic/",
        ),
        (
            "open-listener",
            |router| router["plugins"]["bulkhead"]["listeners"] = json!(["tcp/0.0.0.0:0"]),
            "zenoh.listeners[0]",
        ),
    ];
    let realm = Realm::new();
    for (name, change, message) in cases {
        let wishes = Wishes { router: Some(change), ..Wishes::default() };
        let log = refused(&realm, name, wishes).await;
        assert!(log.contains("Plugin \"bulkhead\" failed to start"), "{name}: {log}");
        assert!(log.contains(message), "{name}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_of_another_build_is_refused_by_a_message_that_names_both() {
    let realm = Realm::new();
    let plugin = tokio::task::spawn_blocking(built_plugin).await.unwrap();
    // What the loader compares, as the compiler wrote it into the library.
    let commit = rustc_commit();
    let mut other = commit.clone();
    other.replace_range(..6, "000000");
    let other_zenoh = zenoh::GIT_VERSION.replacen('1', "0", 1);
    let features = zenoh::FEATURES.replace("transport_quic", "transport_QUIC");
    for (name, from, to, title) in [
        ("rust", commit.as_str(), other.as_str(), "Incompatible rustc versions"),
        ("zenoh", zenoh::GIT_VERSION, &other_zenoh, "Incompatible Zenoh versions"),
        ("features", zenoh::FEATURES, &features, "Incompatible Zenoh feature sets"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        doctor(plugin, folder.path(), from, to);
        let wishes = Wishes { plugin: Some(folder.path().to_owned()), ..Wishes::default() };
        let log = refused(&realm, name, wishes).await;
        for text in [title, "host: ", "plugin: ", from, to, "libzenoh_plugin_bulkhead.so"] {
            assert!(log.contains(text), "{name}, {text}: {log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_come_back_when_the_router_was_killed() {
    let realm = Realm::new();
    let mut site = realm.start("router").await;
    let acme = open(&site.gate(), Some(&realm.member("acme"))).await.unwrap();
    let sender = open(&site.gate(), Some(&realm.member("acme"))).await.unwrap();
    let globex = open(&site.gate(), Some(&realm.member("globex"))).await.unwrap();
    let own = Ear::of(&acme, "device-connect/acme/**").await;
    let other = Ear::of(&globex, "**").await;
    let name = "device-connect/acme/cam-1/state";
    let _state = acme
        .declare_queryable(name)
        .callback(|query| {
            let key = query.key_expr().clone();
            tokio::task::block_in_place(|| drop(zenoh::Wait::wait(query.reply(key, "1"))));
        })
        .await
        .unwrap();
    let _alive = acme.liveliness().declare_token("device-connect/acme/cam-1").await.unwrap();
    let is_all_there = async || {
        let alive = sender.liveliness().get("device-connect/acme/*").await.unwrap();
        let is_alive = alive.recv_async().await.is_ok_and(|reply| reply.result().is_ok());
        is_alive && ask(&sender, name).await == [(name.to_owned(), json!(1))]
    };
    for round in 0..3 {
        eventually_async("all is there", is_all_there).await;
        let heard = own.hears(&sender, &format!("device-connect/acme/cam-1/event/{round}")).await;
        assert!(!heard.iter().any(|key| key.ends_with("forged")), "{heard:?}");
        // Nothing of it reaches anybody else: neither before the router was killed nor after.
        assert_eq!(ask(&globex, name).await, []);
        globex.put("device-connect/acme/cam-1/event/forged", "probe").await.unwrap();
        other.nothing().await;
        // The very sessions and declarations of before are there again in a moment.
        site.server.kill().unwrap();
        let restarting = tokio::task::spawn_blocking(move || site.server.restart().map(|()| site));
        site = restarting.await.unwrap().unwrap();
    }
    let heard = own.hears(&sender, "device-connect/acme/cam-1/event/last").await;
    assert!(!heard.iter().any(|key| key.ends_with("forged")), "{heard:?}");
    assert_eq!(site.metric(STRANGERS).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_and_the_platforms_own_links_see_the_status_and_no_tenant_does() {
    let realm = Realm::new();
    let site = realm.start("router").await;
    let acme = open(&site.gate(), Some(&realm.member("acme"))).await.unwrap();
    let service = open(&site.gate(), Some(&realm.service())).await.unwrap();
    let platform = open(&site.trusted(), None).await.unwrap();
    let router = platform.info().routers_zid().await.next().expect("a router");
    let below = format!("@/{router}/router/status/plugins/bulkhead");
    let status = format!("{below}/**");

    for session in [&service, &platform] {
        let answers = ask(session, &status).await;
        let tenants = answers.iter().find(|(key, _)| *key == format!("{below}/tenants"));
        let (_, tenants) = tenants.unwrap_or_else(|| panic!("{answers:?}"));
        assert_eq!(tenants["acme"]["sessions"], 1, "{tenants}");
        let of_acme = answers.iter().filter(|(_, value)| value["tenant"] == "acme");
        assert_eq!(of_acme.count(), 1, "{answers:?}");
    }
    // Services see the gate, and nothing else of the router; tenants see nothing of it.
    for keys in [format!("@/{router}/router"), format!("@/{router}/router/**"), "@/**".to_owned()] {
        let of_router = async |session| {
            let mut answers = ask(session, &keys).await;
            // A client tells itself about itself.
            answers.retain(|(key, _)| key.starts_with(&format!("@/{router}/")));
            answers
        };
        assert_eq!(of_router(&service).await, [], "{keys}");
        assert_ne!(of_router(&platform).await, [], "{keys}");
        assert_eq!(of_router(&acme).await, [], "{keys}");
    }
    assert_eq!(ask(&acme, &status).await, []);
    assert_eq!(ask(&acme, &format!("{below}/tenants")).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_around_the_gate_is_counted() {
    let realm = Realm::new();
    let site = realm.start("router").await;
    let _acme = open(&site.gate(), Some(&realm.member("acme"))).await.unwrap();
    assert_eq!(site.metric(STRANGERS).await, 0.0);
    let _stranger = open(&site.trusted(), None).await.unwrap();
    eventually_async("the stranger is counted", async || site.metric(STRANGERS).await == 1.0).await;
    let log = site.server.log();
    assert!(log.contains("somebody reached the router around the gate"), "{log}");
    // To say that one is a router helps nobody who does not come the way that routers do.
    let _pretender = open_as_router(&site.socket()).await.unwrap();
    eventually_async("so is the pretender", async || site.metric(STRANGERS).await == 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_held_up_by_a_reader_around_the_gate_holds_up_nobody_else() {
    nobody_else_is_held_up("[tenants.acme]\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_who_is_held_up_and_publishes_more_than_its_tenant_may() {
    nobody_else_is_held_up("[tenants.acme]\nquotas = { messages_per_second = 50 }\n").await;
}

async fn nobody_else_is_held_up(acme: &str) {
    let realm = Realm::new();
    realm.tenants(&format!("{acme}[tenants.globex]\n"));
    let patient = |router: &mut Value| {
        let control = json!({ "block": { "wait_before_close": 60_000_000 } });
        let queue = json!({ "queue": { "congestion_control": control } });
        router["transport"]["link"] = json!({ "tx": queue });
    };
    let wishes = Wishes { router: Some(patient), ..Wishes::default() };
    let site = realm.try_start("router", wishes).await.unwrap();
    let enter = async |endpoint: &str, greeting: &Greeting| {
        let address = endpoint.trim_start_matches("tcp/").parse().unwrap();
        let (link, certificate) = (Link::Tcp, realm.certificate());
        Entrance { link, address, certificate, identity: None, window: None }.enter(greeting).await
    };
    let mut deaf = enter(&site.trusted(), &Greeting::with(Authentication::None)).await;
    deaf.say([say::subscribe(1, key("device-connect/acme/**"))]).await;
    deaf.sync("device-connect/acme/nobody").await;
    let mut publisher = enter(&site.gate(), &Greeting::new(&realm.member("acme"))).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let publishing = tokio::spawn(async move {
        loop {
            publisher.say([say::kept(key("device-connect/acme/x"), vec![b'x'; 60_000])]).await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut before = 0;
    eventually_async("it is held up", async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = taken.load(Ordering::Relaxed);
        now > 0 && now == std::mem::replace(&mut before, now)
    })
    .await;
    // As many as share every thread with it.
    let cores = std::thread::available_parallelism().unwrap().get();
    for _ in 0..2 * cores {
        let mut other = enter(&site.gate(), &Greeting::new(&realm.member("globex"))).await;
        other.sync("device-connect/globex/nobody").await;
    }
    assert_eq!(taken.load(Ordering::Relaxed), before, "it is held up all the time");
    publishing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_routers_pass_on_a_tenants_messages_to_nobody_else() {
    let realm = Realm::new();
    let one = realm.start("one").await;
    let wishes = Wishes { connect: Some(one.trusted()), ..Wishes::default() };
    let two = realm.try_start("two", wishes).await.unwrap();
    let here = open(&one.gate(), Some(&realm.member("acme"))).await.unwrap();
    let there = open(&two.gate(), Some(&realm.member("acme"))).await.unwrap();
    let globex_here = open(&one.gate(), Some(&realm.member("globex"))).await.unwrap();
    let globex_there = open(&two.gate(), Some(&realm.member("globex"))).await.unwrap();
    let own = Ear::of(&here, "device-connect/acme/**").await;
    let other = Ear::of(&globex_here, "device-connect/globex/**").await;
    let curious = open(&one.gate(), Some(&realm.member("globex"))).await.unwrap();
    let everything = Ear::of(&curious, "**").await;

    other.hears(&globex_there, "device-connect/globex/cam-1/event/motion").await;
    globex_there.put("device-connect/acme/cam-1/event/forged", "probe").await.unwrap();
    assert!(own.hears(&there, "device-connect/acme/cam-1/event/motion").await.is_empty());
    other.nothing().await;
    everything.nothing().await;
    for site in [&one, &two] {
        assert_eq!(site.metric(STRANGERS).await, 0.0, "routers are none");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_that_mesh_answer_within_a_tenant_and_all_cut_it_off() {
    let realm = Realm::new();
    let one = realm.start("one").await;
    let wishes = Wishes { connect: Some(one.trusted()), ..Wishes::default() };
    let two = realm.try_start("two", wishes).await.unwrap();
    let certificate = realm.certificate();
    let at = async |site: &site::Site, link: &str, tenant: &str| {
        let token = realm.member(tenant);
        let endpoint = site.encrypted(link);
        open_trusting(&endpoint, Some(&token), Some(&certificate)).await.unwrap()
    };
    let (here, there) = (at(&one, "tls", "acme").await, at(&two, "quic", "acme").await);
    let (near, far) = (at(&one, "quic", "globex").await, at(&two, "tls", "globex").await);
    let name = "device-connect/acme/cam-1/cmd";
    let answer = move |query: zenoh::query::Query| {
        let answered = query.reply(name, "true").wait();
        answered.unwrap();
    };
    let _asked = there.declare_queryable(name).callback(answer).await.unwrap();
    let _alive = there.liveliness().declare_token("device-connect/acme/cam-1").await.unwrap();
    let alive = async |session: &zenoh::Session, keys: &str| {
        let answers = session.liveliness().get(keys).await.unwrap();
        let mut found = Vec::new();
        while let Ok(answer) = answers.recv_async().await {
            found.extend(answer.result().ok().map(|token| token.key_expr().to_string()));
        }
        found
    };
    eventually_async("it is known on the other side", async || {
        ask(&here, name).await == [(name.to_owned(), json!(true))]
            && alive(&here, "device-connect/acme/**").await == ["device-connect/acme/cam-1"]
    })
    .await;
    for globex in [&near, &far] {
        for keys in [name, "device-connect/**", "**"] {
            assert_eq!(ask(globex, keys).await, [], "{keys}");
            assert_eq!(alive(globex, keys).await, [""; 0], "{keys}");
        }
    }
    // Who is cut off is cut off at both, and nobody else is.
    let other = Ear::of(&near, "device-connect/globex/**").await;
    realm.tenants("[tenants.acme]\nstatus = \"suspended\"\n[tenants.globex]\n");
    for site in [&one, &two] {
        let sessions = async || site.metric("bulkhead_zenoh_sessions").await == 1.0;
        eventually_async("only the other tenant's session is left", sessions).await;
        assert!(open(&site.gate(), Some(&realm.member("acme"))).await.is_err());
    }
    assert!(other.hears(&far, "device-connect/globex/cam-1/event/x").await.is_empty());
    // And comes back when it may.
    realm.tenants("[tenants.acme]\n[tenants.globex]\n");
    eventually_async("it is served again", async || {
        ask(&here, name).await == [(name.to_owned(), json!(true))]
    })
    .await;
}

/// Starts a router that ends at once, and returns what it logged.
async fn refused(realm: &Realm, name: &str, wishes: Wishes) -> String {
    match realm.try_start(name, wishes).await {
        Ok(_) => panic!("{name}: the router runs"),
        Err(Error::Exited { log, .. }) => log,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Copies the plugin with every occurrence of a text replaced by another one of its length.
fn doctor(plugin: &Path, folder: &Path, from: &str, to: &str) {
    const FILE: &str = "libzenoh_plugin_bulkhead.so";
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(plugin.join(FILE)).unwrap();
    let places: Vec<usize> = (0..bytes.len().saturating_sub(from.len()))
        .filter(|&at| bytes[at..].starts_with(from.as_bytes()))
        .collect();
    assert!(!places.is_empty(), "{from} is not in the plugin");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    std::fs::write(folder.join(FILE), bytes).unwrap();
}

/// The commit of the Rust in use.
fn rustc_commit() -> String {
    let output = std::process::Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let commit = text.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    commit.expect("rustc says its commit").to_owned()
}
