//! The admin port: what it says, to whom, and what it does not mind.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::Control;
use bulkhead_policy::DenyReason;
use common::endpoint::{Answer, Endpoint};
use common::signer::{Signer, jwks};
use common::site::{Site, config, issuer};
use common::{soon, until};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Client, Method, Response, StatusCode};
use std::net::TcpListener;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TOKEN: &str = "an-admin-token-of-some-length";

struct World {
    site: Site,
    control: Control,
    client: Client,
}

impl World {
    async fn start(changes: &str) -> Self {
        let site = with_keys();
        site.write("token", format!("{TOKEN}\n"));
        let control = site.start(&configured(changes)).await;
        Self { site, control, client: Client::new() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.control.admin_address())
    }

    async fn get(&self, path: &str, authorization: Option<&str>) -> Response {
        let mut request = self.client.get(self.url(path));
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        soon("an answer", request.send()).await.unwrap()
    }

    /// Makes the process not ready.
    async fn unready(&self) {
        self.site.remove("tenants.toml");
        until("not ready", async || {
            let ready = self.control.readiness().missing().is_empty();
            (!ready).then_some(())
        })
        .await;
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.control.admin_address()).await.unwrap()
    }

    /// The port still serves others.
    async fn is_well(&self) {
        assert_eq!(self.get("/healthz", None).await.status(), StatusCode::OK);
    }
}

fn with_keys() -> Site {
    let site = Site::new();
    site.write("keys.json", jwks(&[&Signer::ed25519("k1")]));
    site
}

fn configured(changes: &str) -> String {
    config(changes, vec![issuer("keys.jwks_file = \"keys.json\"")])
}

#[tokio::test]
async fn it_tells_health_readiness_and_metrics() {
    let world = World::start("directory.stale_after = \"1s\"").await;
    let health = world.get("/healthz", None).await;
    assert_eq!(health.status(), StatusCode::OK);
    let ready = world.get("/readyz", None).await;
    assert_eq!(ready.status(), StatusCode::OK);
    assert_eq!(ready.text().await.unwrap(), "ready\n");

    let reason = Some(DenyReason::TokenExpired);
    world.control.auth().record("nats", None, None, reason, Instant::now());
    let metrics = world.get("/metrics", None).await;
    assert_eq!(metrics.status(), StatusCode::OK);
    assert!(metrics.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("text/plain"));
    let text = metrics.text().await.unwrap();
    let line = "bulkhead_auth_requests_total{backend=\"nats\",outcome=\"denied\",\
                reason=\"token_expired\"} 1";
    assert!(text.contains(line), "{text}");

    world.unready().await;
    let ready = world.get("/readyz", None).await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.text().await.unwrap(), "directory\n");
    // Alive it is: a restart would not bring the directory back.
    world.is_well().await;
}

#[tokio::test]
async fn with_a_token_metrics_and_details_are_for_those_who_have_it() {
    let changes = "admin.token_file = \"token\"\ndirectory.stale_after = \"1s\"";
    let world = World::start(changes).await;
    let bearer = format!("Bearer {TOKEN}");
    let others = [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some(TOKEN.to_owned()),
        Some(format!("Basic {TOKEN}")),
        Some(format!("Bearer {TOKEN}x")),
        Some(format!("Bearer {}", &TOKEN.replace('n', "N"))),
        Some(format!("Bearer {}", TOKEN.split_at(16).0)),
        Some("Bearer wrong-token-of-some-length".to_owned()),
        Some(format!("Bearer {}", "x".repeat(8_000))),
    ];
    for given in &others {
        let answer = world.get("/metrics", given.as_deref()).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{given:?}");
        assert_eq!(answer.headers()[WWW_AUTHENTICATE], "Bearer");
        let text = answer.text().await.unwrap();
        assert!(!text.contains("bulkhead_"), "{text}");
        let answer = world.get("/v1/usage", given.as_deref()).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{given:?}");
        assert!(!answer.text().await.unwrap().contains("tenants"));
    }
    for given in [bearer.clone(), format!("bearer {TOKEN}")] {
        let answer = world.get("/metrics", Some(&given)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.text().await.unwrap().contains("bulkhead_"));
        let answer = world.get("/v1/usage", Some(&given)).await;
        assert!(answer.text().await.unwrap().contains("tenants"));
    }

    world.unready().await;
    for given in &others {
        let answer = world.get("/readyz", given.as_deref()).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.text().await.unwrap(), "not ready\n", "{given:?}");
    }
    let answer = world.get("/readyz", Some(&bearer)).await;
    assert_eq!(answer.text().await.unwrap(), "directory\n");
    world.is_well().await;
}

#[tokio::test]
async fn there_is_nothing_else() {
    let world = World::start("").await;
    for path in ["/", "/v1/credentials", "/metrics/", "/healthz/../metrics", "/debug/pprof", "//"] {
        let answer = world.get(path, None).await;
        // A client may tidy a path before it asks.
        let known = answer.url().path() == "/metrics";
        assert!(known || answer.status() == StatusCode::NOT_FOUND, "{path}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        for path in ["/healthz", "/readyz", "/metrics", "/v1/usage"] {
            let request = world.client.request(method.clone(), world.url(path));
            let status = request.send().await.unwrap().status();
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_body_of_a_gigabyte_does_not_matter() {
    let world = World::start("").await;
    for (method, path) in [("GET", "/healthz"), ("GET", "/metrics"), ("POST", "/metrics")] {
        for length in ["Content-Length: 1073741824", "Transfer-Encoding: chunked"] {
            let mut stream = world.connect().await;
            let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            // A chunk of 64 KiB for both: as the body itself it is as good as any other.
            let piece = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
            let pour = async {
                while writer.write_all(&piece).await.is_ok() {}
                // The server has had enough; what it said before is still to be read.
                std::future::pending::<()>().await;
            };
            let answer = async {
                let mut status = [0; 12];
                reader.read_exact(&mut status).await.unwrap();
                String::from_utf8_lossy(&status).into_owned()
            };
            let answered = soon("an answer before the end of the body", async {
                tokio::select! {
                    () = pour => String::new(),
                    status = answer => status,
                }
            })
            .await;
            let status = if method == "GET" { "HTTP/1.1 200" } else { "HTTP/1.1 405" };
            assert_eq!(answered, status, "{method} {path} {length}");
            world.is_well().await;
        }
    }
}

#[tokio::test]
async fn whoever_sends_a_head_for_ever_is_left() {
    let world = World::start("").await;
    let mut slow = world.connect().await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let mut large = world.connect().await;
    let head = format!("GET /healthz HTTP/1.1\r\nX-Large: {}\r\n\r\n", "x".repeat(1024 * 1024));
    let _ = large.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = soon("the large head is refused", large.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    world.is_well().await;
    let mut answer = Vec::new();
    let _ = soon("the slow head is cut off", slow.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn whoever_connects_and_says_nothing_is_left() {
    let world = World::start("").await;
    let mut silent = world.connect().await;
    let _ = soon("the silent connection is closed", silent.read(&mut [0])).await;
    // Also after a request that was answered.
    let mut idle = world.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the idle connection is closed", idle.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_running() {
    let endpoint = Endpoint::start(Answer::ok(jwks(&[&Signer::ed25519("k1")]))).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let corp = format!("[keys]\njwks_url = \"{}\"\nrefresh = \"1s\"", endpoint.url());
    let changes = format!("admin.listen = \"{}\"", taken.local_addr().unwrap());
    let site = Site::new();
    assert!(site.try_start(&config(&changes, vec![issuer(&corp)])).await.is_err());
    // A fetch may have begun before; after it two more would be due by then.
    let since = Instant::now();
    until("two periods of a second", async || {
        (since.elapsed() > Duration::from_millis(2_500)).then_some(())
    })
    .await;
    assert!(endpoint.hits() <= 1, "{} fetches for a process that is none", endpoint.hits());
}

#[tokio::test]
async fn a_hundred_open_connections_keep_nobody_out() {
    let world = World::start("").await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(world.connect().await);
    }
    world.is_well().await;
}

#[test]
fn off_loopback_it_wants_a_token() {
    let site = Site::new();
    let refused = |changes: &str| site.load(&configured(changes)).map(|_| ());
    for address in ["0.0.0.0:9180", "[::]:9180", "192.0.2.1:9180", "[::ffff:192.0.2.1]:9180"] {
        let listen = format!("admin.listen = \"{address}\"");
        let error = refused(&listen).unwrap_err().to_string();
        assert!(error.contains("admin.listen"), "the setting: {error}");
        assert!(error.contains("set token_file"), "the remedy: {error}");
        assert!(error.contains("bulkhead.toml:"), "the line: {error}");
        let guarded = format!("{listen}\nadmin.token_file = \"token\"");
        assert!(refused(&guarded).is_ok(), "{address}");
        let error = refused(&format!("dev = true\n{guarded}")).unwrap_err().to_string();
        assert!(error.contains("loopback"), "{error}");
    }
    for address in ["127.0.0.1:0", "127.0.0.2:9180", "[::1]:9180"] {
        assert!(refused(&format!("admin.listen = \"{address}\"")).is_ok(), "{address}");
    }
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_said_with_setting_and_remedy() {
    let site = with_keys();
    let error = async |changes: &str| {
        let started = site.try_start(&configured(changes)).await;
        started.unwrap_err().to_string()
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = error(&format!("admin.listen = \"{address}\"")).await;
    for part in ["admin.listen", &address.to_string(), "choose another port"] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    for (content, what) in [(None, "absent"), (Some(""), "empty"), (Some("guess me\n"), "short")] {
        if let Some(content) = content {
            site.write("token", content);
        }
        let text = error("admin.token_file = \"token\"").await;
        assert!(text.contains("admin.token_file"), "{what}: {text}");
        assert!(text.contains("at least 16"), "{what}: {text}");
        assert!(!text.contains("guess me"), "{what}: {text}");
    }
}

#[tokio::test]
async fn it_ends_with_its_process() {
    let world = World::start("").await;
    let address = world.control.admin_address();
    // One that keeps its connection open, and one in the middle of a request.
    world.is_well().await;
    let mut half = world.connect().await;
    half.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    soon("the end", world.control.shutdown()).await;
    until("the port is closed", async || TcpStream::connect(address).await.err()).await;
}
