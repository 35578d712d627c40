//! Zenoh routers as programs: how they start, and what is left when they have ended.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

use bulkhead_devkit::{Error, Server, free_port};
use bulkhead_tests::mqtt::SERVICE_ISSUER;
use bulkhead_tests::zenoh::{Entrance, Greeting, Link, asked, settle};
use bulkhead_tests::{Stack, Token, eventually, eventually_async};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const ZENOHD: &str = env!("CARGO_BIN_EXE_zenohd");

/// A router's configuration with the gate in it, and the port that the gate is to have.
fn router(stack: &Stack) -> (Value, u16) {
    let (socket, port) = (stack.folder().join("router.sock"), free_port().unwrap());
    let config = json!({
        "mode": "router",
        "listen": { "endpoints": [format!("unixsock-stream/{}", socket.display())] },
        "scouting": { "multicast": { "enabled": false } },
        "plugins": { "bulkhead": {
            "config": stack.config_path(),
            "listeners": [format!("tcp/127.0.0.1:{port}")],
        } },
    });
    (config, port)
}

fn spawn(program: &str, arguments: &[&Path], stack: &Stack) -> Server {
    let mut command = Command::new(program);
    command.args(arguments).env("TMPDIR", temporary(stack)).env_remove("RUST_BACKTRACE");
    Server::spawn("router", command, stack.folder()).unwrap()
}

/// The program's own folder for temporary files.
fn temporary(stack: &Stack) -> PathBuf {
    let folder = stack.folder().join("tmp");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn entrance(stack: &Stack, port: u16) -> Entrance {
    let certificate = stack.folder().join("zenoh.pem");
    let address = ([127, 0, 0, 1], port).into();
    Entrance { link: Link::Tcp, address, certificate, identity: None, window: None }
}

/// Ends a program as a system does, and makes sure that it ends by itself.
async fn terminate(server: Server) {
    let pid = server.pid();
    let ended = tokio::task::spawn_blocking(move || {
        let status = Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap();
        assert!(status.success());
        server.wait_until(Duration::from_secs(20), || None::<()>).unwrap_err()
    });
    match ended.await.unwrap() {
        Error::Exited { status, .. } => assert_eq!(status, "exit status: 0"),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_of_its_own_serves_until_it_is_told_to_end() {
    let stack = Stack::zenoh().without_service().start().await;
    let (config, port) = router(&stack);
    let file = stack.folder().join("router.json5");
    std::fs::write(&file, config.to_string()).unwrap();
    let server = spawn(ZENOHD, &[&file], &stack);
    let entrance = entrance(&stack, port);
    eventually_async("the gate listens", async || entrance.try_knock().await.is_ok()).await;
    let greeting = stack.greeting(&Token::role("acme", "member"));
    let mut raw = entrance.enter(&greeting).await;
    raw.sync("device-connect/acme/nobody").await;
    assert!(entrance.refuse(&Greeting::new("nobody's")).await.is_some());
    let session = entrance.connect(&stack.token(&Token::role("acme", "member"))).await;
    session.put("device-connect/acme/x", "own").await.unwrap();
    terminate(server).await;
    raw.closed().await;
    assert!(entrance.try_knock().await.is_err());
    // What it did is written down to the end.
    let connected = stack.audit().into_iter().filter(|record| record["event"] == "connect");
    assert_eq!(connected.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_of_its_own_tells_services_what_its_gate_does_as_zenohd_would() {
    let stack = Stack::zenoh().config(SERVICE_ISSUER).without_service().start().await;
    // What is a router where nothing is said is one here, too.
    let (mut config, port) = router(&stack);
    config.as_object_mut().unwrap().remove("mode");
    let file = stack.folder().join("router.json5");
    std::fs::write(&file, config.to_string()).unwrap();
    let server = spawn(ZENOHD, &[&file], &stack);
    let entrance = entrance(&stack, port);
    eventually_async("the gate listens", async || entrance.try_knock().await.is_ok()).await;
    let service = entrance.connect(&stack.token(&stack.service_token())).await;
    let acme = entrance.connect(&stack.token(&Token::role("acme", "member"))).await;
    tells_status(&service, &acme).await;
    terminate(server).await;
    // The same within a service.
    let stack = Stack::zenoh().config(SERVICE_ISSUER).start().await;
    let service = stack.zenoh_session(&stack.service_token()).await;
    let acme = stack.zenoh_member("acme").await;
    tells_status(&service, &acme).await;
}

/// Services see the status, and tenants nothing of the router.
async fn tells_status(service: &zenoh::Session, acme: &zenoh::Session) {
    acme.put("device-connect/globex/x", "denied").await.unwrap();
    settle(acme, "acme").await;
    let router = service.info().routers_zid().await.next().expect("a router");
    let below = format!("@/{router}/router/status/plugins/bulkhead");
    let tenants = format!("{below}/tenants ");
    let answers = asked(service, &format!("{below}/**")).await;
    let tenants = answers.iter().find_map(|answer| answer.strip_prefix(&tenants));
    let tenants: Value = serde_json::from_str(tenants.expect("the tenants")).unwrap();
    assert_eq!(tenants["acme"]["sessions"], 1, "{tenants}");
    assert_eq!(tenants["acme"]["denials"], 1, "{tenants}");
    let sessions = answers.iter().filter(|answer| answer.contains("/sessions/"));
    assert_eq!(sessions.count(), 2, "{answers:?}");
    for keys in [format!("@/{router}/**"), "@/**".to_owned()] {
        let mut answers = asked(acme, &keys).await;
        // A client tells itself about itself.
        answers.retain(|answer| answer.starts_with(&format!("@/{router}/")));
        assert_eq!(answers, [""; 0], "{keys}");
    }
}

/// What is wrong, what becomes of the router's and Bulkhead's configuration, and what is said.
type Case = (&'static str, fn(&mut Value), fn(String) -> String, &'static str);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_is_named_and_ends_the_router() {
    let stack = Stack::zenoh().without_service().start().await;
    let good = std::fs::read_to_string(stack.config_path()).unwrap();
    let cases: [Case; 6] = [
        (
            "a setting of the plugin",
            |router| router["plugins"]["bulkhead"]["confg"] = json!("x"),
            |own| own,
            "plugins/bulkhead of the router's configuration: unknown field `confg`",
        ),
        (
            "nothing of the plugin",
            |router| drop(router.as_object_mut().unwrap().remove("plugins")),
            |own| own,
            "plugins/bulkhead",
        ),
        (
            "a listener around the gate",
            |router| {
                let endpoints = router["listen"]["endpoints"].as_array_mut().unwrap();
                endpoints.push(json!(format!("tcp/127.0.0.1:{}", free_port().unwrap())));
            },
            |own| own,
            "tenants could reach the router around the gate by tcp/127.0.0.1:",
        ),
        (
            "a setting of the router",
            |router| router["mod"] = json!("router"),
            |own| own,
            "router.json5: ",
        ),
        ("no issuer", |_| {}, |own| own.replace("[[issuers]]", "[[isuers]]"), "isuers"),
        (
            "a certificate",
            |router| router["plugins"]["bulkhead"]["listeners"] = json!(["tls/127.0.0.1:0"]),
            |own| own.replace("zenoh.pem", "missing.pem"),
            "missing.pem",
        ),
    ];
    for (what, change, change_own, said) in cases {
        let (mut config, _) = router(&stack);
        change(&mut config);
        let file = stack.folder().join("router.json5");
        std::fs::write(&file, config.to_string()).unwrap();
        std::fs::write(stack.config_path(), change_own(good.clone())).unwrap();
        let log = failed(spawn(ZENOHD, &[&file], &stack)).await;
        assert!(log.contains(said), "{what}: {log}");
        assert!(log.contains("bulkhead-zenohd: ") && !log.contains("panicked"), "{what}: {log}");
    }
    let missing = stack.folder().join("missing.json5");
    let log = failed(spawn(ZENOHD, &[&missing], &stack)).await;
    assert!(log.contains("missing.json5"), "{log}");
    let log = failed(spawn(ZENOHD, &[], &stack)).await;
    assert!(log.contains("name the router's configuration file"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_every_user_could_connect_to_is_refused_unless_that_is_wanted() {
    let stack = Stack::zenoh().without_service().start().await;
    let folder = |mode| {
        let rights = Permissions::from_mode(mode);
        tempfile::Builder::new().permissions(rights).tempdir_in("/tmp").unwrap()
    };
    let (open, closed) = (folder(0o755), folder(0o700));
    let (mut config, port) = router(&stack);
    let at = |folder: &Path| json!([format!("unixsock-stream/{}/router.sock", folder.display())]);
    let file = stack.folder().join("router.json5");
    let mut start = |umask: &str, endpoints: Value| {
        config["listen"]["endpoints"] = endpoints;
        std::fs::write(&file, config.to_string()).unwrap();
        let script = format!("umask {umask}; exec \"$0\" \"$1\"");
        spawn("sh", &["-c".as_ref(), script.as_ref(), ZENOHD.as_ref(), &file], &stack)
    };
    let said = "every user of this machine could reach the router around the gate by";
    let log = failed(start("0", at(open.path()))).await;
    assert!(log.contains(said), "{log}");

    let entrance = entrance(&stack, port);
    for (umask, folder) in [("022", open.path()), ("0", closed.path())] {
        let server = start(umask, at(folder));
        eventually_async("the gate listens", async || entrance.try_knock().await.is_ok()).await;
        terminate(server).await;
    }
    let good = std::fs::read_to_string(stack.config_path()).unwrap();
    let wanted = good.replace("[zenoh]", "[zenoh]\naround = \"warn\"");
    std::fs::write(stack.config_path(), wanted).unwrap();
    let server = start("0", at(open.path()));
    eventually_async("the gate listens", async || entrance.try_knock().await.is_ok()).await;
    assert!(server.log().contains(said), "{}", server.log());
    terminate(server).await;
}

/// Waits until a program has ended with a failure, and returns what it said.
async fn failed(server: Server) -> String {
    let ended = tokio::task::spawn_blocking(move || {
        server.wait_until(Duration::from_secs(20), || None::<()>).unwrap_err()
    });
    match ended.await.unwrap() {
        Error::Exited { status, log, .. } => {
            assert_eq!(status, "exit status: 1", "{log}");
            log
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_within_a_service_leaves_nothing_behind() {
    let stack = Stack::zenoh().without_service().start().await;
    let config = stack.config_path();
    let serve = [Path::new("serve"), Path::new("--config"), &config];
    let left = || -> Vec<_> {
        let entries = std::fs::read_dir(temporary(&stack)).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    for killed in [true, false] {
        let server = spawn(env!("CARGO_BIN_EXE_replica"), &serve, &stack);
        eventually("it serves", || server.log().contains("serving")).await;
        let folders = left();
        assert_eq!(folders.len(), 1, "its socket, and what another one left is gone");
        let rights = temporary(&stack).join(&folders[0]).metadata().unwrap().permissions();
        assert_eq!(rights.mode() & 0o777, 0o700, "nobody else comes to its socket");
        if killed {
            server.kill().unwrap();
        } else {
            terminate(server).await;
            assert_eq!(left(), [""; 0]);
        }
    }
}
