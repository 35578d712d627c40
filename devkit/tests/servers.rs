//! Real servers, started, stopped, frozen and restarted.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use bulkhead_devkit::{
    Error as DevkitError, Etcd, Mosquitto, MosquittoServer, NatsServer, Tools, ZenohServer,
    free_port,
};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// How long to wait for an answer that is not to come.
const SHORT: Duration = Duration::from_millis(500);

/// How long to wait for one that is, on a busy machine.
const LONG: Duration = Duration::from_secs(10);

fn nats_binary() -> Result<PathBuf> {
    Ok(Tools::open()?.nats_server()?)
}

fn address(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}

/// The first line a server sends.
fn greeting(patience: Duration, url: &str) -> Result<String> {
    let stream = TcpStream::connect(address(url))?;
    stream.set_read_timeout(Some(patience))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// The body of what is served there.
fn http(patience: Duration, method: &str, url: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address(url))?;
    stream.set_read_timeout(Some(patience))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
    Ok(body.to_owned())
}

fn varz(nats: &NatsServer) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&http(LONG, "GET", nats.monitor_url(), "/varz", "")?)?)
}

#[test]
fn nats_restarts_on_the_same_ports() -> Result {
    let dir = tempfile::tempdir()?;
    let mut nats = NatsServer::start(&nats_binary()?, dir.path(), "max_payload: 1000")?;
    let urls = |nats: &NatsServer| (nats.client_url().to_owned(), nats.monitor_url().to_owned());
    let before = urls(&nats);
    assert!(nats.client_url().starts_with("nats://127.0.0.1:"), "{before:?}");
    assert!(nats.monitor_url().starts_with("http://127.0.0.1:"), "{before:?}");
    assert!(nats.cluster_url().is_none());
    assert!(greeting(LONG, nats.client_url())?.starts_with("INFO "));
    assert!(nats.log().contains("Server is ready"), "{}", nats.log());
    let first = nats.pid();

    nats.restart()?;
    assert_eq!(urls(&nats), before);
    assert_ne!(nats.pid(), first);
    assert_eq!(varz(&nats)?["max_payload"], 1000);

    nats.kill()?;
    assert!(!nats.is_running());
    assert!(greeting(SHORT, nats.client_url()).is_err());
    nats.restart_with("max_payload: 2000")?;
    assert_eq!(urls(&nats), before);
    assert_eq!(varz(&nats)?["max_payload"], 2000);
    assert_eq!(nats.log().matches("Starting nats-server").count(), 1);
    Ok(())
}

#[test]
fn nats_freezes_and_goes_on() -> Result {
    let dir = tempfile::tempdir()?;
    let nats = NatsServer::start(&nats_binary()?, dir.path(), "")?;
    for _ in 0..3 {
        nats.pause()?;
        nats.pause()?;
        assert!(greeting(SHORT, nats.client_url()).is_err());
        assert!(nats.is_running());
        nats.resume()?;
        assert!(greeting(LONG, nats.client_url())?.starts_with("INFO "));
    }

    nats.pause()?;
    nats.stop()?;
    assert!(!nats.is_running());
    assert!(nats.log().contains("Server Exiting"), "{}", nats.log());
    assert!(matches!(nats.pause(), Err(DevkitError::NotRunning { .. })));
    nats.stop()?;
    nats.kill()?;
    Ok(())
}

#[test]
fn nats_reloads() -> Result {
    for block in ["cluster { name: c, listen: \"127.0.0.1:-1\" }", "jetstream {}"] {
        let with = |max_payload: u32| format!("max_payload: {max_payload}\n{block}");
        let dir = tempfile::tempdir()?;
        let mut nats = NatsServer::start(&nats_binary()?, dir.path(), &with(1000))?;
        let urls = |nats: &NatsServer| {
            [Some(nats.client_url()), Some(nats.monitor_url()), nats.cluster_url()]
                .map(|url| url.map(str::to_owned))
        };
        let before = urls(&nats);
        // Once with the ports it found, once with those it was given.
        for max_payload in [2000, 3000] {
            nats.reload()?;
            nats.reload_with(&with(max_payload))?;
            assert_eq!(varz(&nats)?["max_payload"], max_payload);

            let refused = nats.reload_with("no_such_option: 1");
            assert!(matches!(refused, Err(DevkitError::ReloadRefused { .. })), "{refused:?}");
            nats.reload()?;
            assert_eq!(varz(&nats)?["max_payload"], max_payload);

            nats.restart()?;
            assert_eq!(urls(&nats), before);
            assert_eq!(varz(&nats)?["max_payload"], max_payload);
        }
        assert_eq!(dir.path().join("jetstream/jetstream").is_dir(), block.starts_with("jetstream"));
    }
    Ok(())
}

#[test]
fn nats_says_why_it_does_not_start() -> Result {
    let dir = tempfile::tempdir()?;
    let error = NatsServer::start(&nats_binary()?, dir.path(), "no_such_option: 1")
        .expect_err("the option does not exist");
    assert!(matches!(&error, DevkitError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("nats.conf"), "{error}");

    let error = NatsServer::start("/no/such/nats-server".as_ref(), dir.path(), "")
        .expect_err("there is no such program");
    assert!(matches!(&error, DevkitError::Spawn { .. }), "{error}");
    Ok(())
}

#[test]
fn nats_makes_a_cluster_of_three() -> Result {
    let binary = nats_binary()?;
    let dir = tempfile::tempdir()?;
    let mut servers: Vec<NatsServer> = Vec::new();
    for index in 0..3 {
        let routes: Vec<&str> = servers.iter().filter_map(NatsServer::cluster_url).collect();
        let config = format!(
            "server_name: s{index}\n\
             cluster {{ name: c, listen: 127.0.0.1:-1, routes: [{}] }}",
            routes.join(", ")
        );
        let server = NatsServer::start(&binary, &dir.path().join(index.to_string()), &config)?;
        servers.push(server);
    }
    let complete = |servers: &[NatsServer]| -> Result {
        for server in servers {
            server.wait_until(Duration::from_secs(10), || {
                let routes = http(LONG, "GET", server.monitor_url(), "/routez", "").ok()?;
                let routes: serde_json::Value = serde_json::from_str(&routes).ok()?;
                // Several connections to each.
                let mut others: Vec<_> = routes["routes"].as_array()?.iter().collect();
                others.sort_by_key(|route| route["remote_name"].to_string());
                others.dedup_by_key(|route| route["remote_name"].to_string());
                (others.len() == 2).then_some(())
            })?;
        }
        Ok(())
    };
    complete(&servers)?;

    let route = servers[0].cluster_url().map(str::to_owned);
    servers[0].kill()?;
    servers[0].restart()?;
    assert_eq!(servers[0].cluster_url().map(str::to_owned), route);
    complete(&servers)
}

#[test]
fn etcd_keeps_its_data_over_restarts() -> Result {
    let dir = tempfile::tempdir()?;
    let mut etcd = Etcd::start(&Tools::open()?.etcd()?, dir.path())?;
    let endpoint = etcd.endpoint().to_owned();
    assert!(endpoint.starts_with("http://127.0.0.1:"), "{endpoint}");
    // "k" and "v" in base 64.
    http(LONG, "POST", &endpoint, "/v3/kv/put", r#"{"key":"aw==","value":"dg=="}"#)?;
    let kept = |patience: Duration, etcd: &Etcd| -> Result<bool> {
        let answer = http(patience, "POST", etcd.endpoint(), "/v3/kv/range", r#"{"key":"aw=="}"#)?;
        Ok(answer.contains(r#""value":"dg==""#))
    };

    etcd.restart()?;
    assert_eq!(etcd.endpoint(), endpoint);
    assert!(kept(LONG, &etcd)?);

    etcd.kill()?;
    assert!(!etcd.is_running());
    etcd.restart()?;
    assert_eq!(etcd.endpoint(), endpoint);
    assert!(kept(LONG, &etcd)?);

    etcd.pause()?;
    assert!(kept(SHORT, &etcd).is_err());
    etcd.resume()?;
    assert!(kept(LONG, &etcd)?);
    drop(etcd);

    let elsewhere = Etcd::start(&Tools::open()?.etcd()?, dir.path())?;
    assert_ne!(elsewhere.endpoint(), endpoint);
    assert!(kept(LONG, &elsewhere)?);
    Ok(())
}

/// One of mosquitto's clients, told where the broker is.
fn mosquitto_client(program: &Path, broker: &MosquittoServer) -> Command {
    let mut command = Command::new(program);
    command
        .args(["-h", "127.0.0.1", "-p", &broker.address().port().to_string()])
        .args(["-V", "mqttv5", "-t", "t", "-q", "1"]);
    command
}

/// Whether the broker takes a message to be retained.
fn retains(programs: &Mosquitto, broker: &MosquittoServer, text: &str) -> Result<bool> {
    let mut command = mosquitto_client(&programs.publish, broker);
    Ok(command.args(["-r", "-m", text]).output()?.status.success())
}

fn retained(programs: &Mosquitto, broker: &MosquittoServer) -> Result<String> {
    let mut command = mosquitto_client(&programs.subscribe, broker);
    let output = command.args(["-C", "1", "-W", "10"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn mosquitto_restarts_on_the_same_port() -> Result {
    let programs = Tools::open()?.mosquitto()?;
    let dir = tempfile::tempdir()?;
    let config = "allow_anonymous true\npersistence true\n";
    let mut broker = MosquittoServer::start(&programs.broker, dir.path(), config)?;
    let before = broker.address();
    assert!(before.ip().is_loopback(), "{before}");
    let first = broker.pid();
    assert!(retains(&programs, &broker, "kept")?);
    assert_eq!(retained(&programs, &broker)?, "kept");

    broker.restart()?;
    assert_eq!(broker.address(), before);
    assert_ne!(broker.pid(), first);
    assert_eq!(broker.log().matches("starting").count(), 1, "{}", broker.log());
    assert_eq!(retained(&programs, &broker)?, "kept");

    broker.kill()?;
    assert!(!broker.is_running());
    assert!(TcpStream::connect(before).is_err());
    broker.restart_with("allow_anonymous false")?;
    assert_eq!(broker.address(), before);
    assert!(!retains(&programs, &broker, "refused")?);
    Ok(())
}

#[test]
fn mosquitto_knows_its_users() -> Result {
    let programs = Tools::open()?.mosquitto()?;
    let dir = tempfile::tempdir()?;
    let made = Command::new(&programs.passwd)
        .args(["-c", "-b", "passwords", "user", "secret"])
        .current_dir(dir.path())
        .status()?;
    assert!(made.success());
    let broker = MosquittoServer::start(&programs.broker, dir.path(), "password_file passwords\n")?;
    for (password, accepted) in [("secret", true), ("guess", false)] {
        let status = mosquitto_client(&programs.publish, &broker)
            .args(["-u", "user", "-P", password, "-m", "x"])
            .output()?
            .status;
        assert_eq!(status.success(), accepted, "{password}");
    }
    Ok(())
}

#[test]
fn mosquitto_says_why_it_does_not_start() -> Result {
    let programs = Tools::open()?.mosquitto()?;
    let dir = tempfile::tempdir()?;
    let error = MosquittoServer::start(&programs.broker, dir.path(), "no_such_option 1")
        .expect_err("the option does not exist");
    assert!(matches!(&error, DevkitError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("mosquitto.conf"), "{error}");
    Ok(())
}

/// Has the port of a killed server for 300 ms while `restart` is under way.
fn with_port_taken<E: Error + 'static>(
    url: &str,
    restart: impl FnOnce() -> std::result::Result<(), E>,
) -> Result {
    let taken = TcpListener::bind(address(url))?;
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(300));
            drop(taken);
        });
        Ok(restart()?)
    })
}

#[test]
fn servers_wait_for_their_ports() -> Result {
    let dir = tempfile::tempdir()?;
    let mut nats = NatsServer::start(&nats_binary()?, &dir.path().join("nats"), "")?;
    for url in [nats.client_url().to_owned(), nats.monitor_url().to_owned()] {
        nats.kill()?;
        with_port_taken(&url, || nats.restart())?;
        assert!(greeting(LONG, nats.client_url())?.starts_with("INFO "));
    }

    let mut etcd = Etcd::start(&Tools::open()?.etcd()?, &dir.path().join("etcd"))?;
    etcd.kill()?;
    let endpoint = etcd.endpoint().to_owned();
    with_port_taken(&endpoint, || etcd.restart())?;
    assert!(http(LONG, "GET", &endpoint, "/health", "")?.contains("true"));

    let programs = Tools::open()?.mosquitto()?;
    let config = "allow_anonymous true";
    let mut broker =
        MosquittoServer::start(&programs.broker, &dir.path().join("mosquitto"), config)?;
    broker.kill()?;
    with_port_taken(&broker.address().to_string(), || broker.restart())?;
    assert!(retains(&programs, &broker, "x")?);

    nats.kill()?;
    let _taken = TcpListener::bind(address(nats.client_url()))?;
    let error = nats.restart().expect_err("the port stays taken");
    assert!(error.to_string().contains("address already in use"), "{error}");
    assert!(!nats.is_running());
    Ok(())
}

#[test]
fn many_servers_start_at_once() -> Result {
    let binary = nats_binary()?;
    let etcd = Tools::open()?.etcd()?;
    let dir = tempfile::tempdir()?;
    thread::scope(|scope| -> Result {
        let starts: Vec<_> = (0..4)
            .map(|index| {
                let (binary, etcd, dir) = (&binary, &etcd, dir.path().join(index.to_string()));
                scope.spawn(move || {
                    let nats = NatsServer::start(binary, &dir.join("nats"), "")?;
                    let etcd = Etcd::start(etcd, &dir.join("etcd"))?;
                    Ok::<_, DevkitError>((nats, etcd))
                })
            })
            .collect();
        for start in starts {
            let (nats, etcd) = start.join().expect("a start does not panic")?;
            assert!(nats.is_running() && etcd.is_running());
        }
        Ok(())
    })
}

#[test]
fn a_taken_port_is_not_handed_out() -> Result {
    let port = free_port()?;
    let _held = TcpListener::bind(("127.0.0.1", port))?;
    for _ in 0..100 {
        assert_ne!(free_port()?, port);
    }
    Ok(())
}

#[test]
fn zenohd_restarts_on_the_same_port() -> Result {
    let dir = tempfile::tempdir()?;
    let binary = Tools::open()?.zenohd()?;
    let config = |port: u16| {
        format!(
            "{{ listen: {{ endpoints: [\"tcp/127.0.0.1:{port}\"] }}, \
             scouting: {{ multicast: {{ enabled: false }} }} }}"
        )
    };
    let mut zenohd = ZenohServer::start(&binary, dir.path(), config)?;
    let before = zenohd.address();
    TcpStream::connect(before)?;
    assert!(zenohd.log().contains(&format!("Zenoh can be reached at: tcp/{before}")));
    zenohd.kill()?;
    assert!(TcpStream::connect(before).is_err());
    zenohd.restart()?;
    assert_eq!(zenohd.address(), before);
    TcpStream::connect(before)?;
    drop(zenohd);
    assert!(TcpStream::connect(before).is_err());
    Ok(())
}

#[test]
fn zenohd_takes_another_port_where_one_is_taken_and_says_what_it_does_not_accept() -> Result {
    let dir = tempfile::tempdir()?;
    let binary = Tools::open()?.zenohd()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let mut asked = 0;
    let zenohd = ZenohServer::start(&binary, dir.path(), |port| {
        asked += 1;
        let port = if asked == 1 { taken.local_addr().map_or(0, |own| own.port()) } else { port };
        format!(
            "{{ mode: \"router\", listen: {{ endpoints: [\"tcp/127.0.0.1:{port}\"], \
             exit_on_failure: true }}, scouting: {{ multicast: {{ enabled: false }} }} }}"
        )
    })?;
    TcpStream::connect(zenohd.address())?;
    assert_eq!(asked, 2);

    let wrong = ZenohServer::start(&binary, dir.path(), |_| "{ mode: \"wizard\" }".to_owned());
    let error = wrong.expect_err("there is no such mode");
    assert!(matches!(&error, DevkitError::Exited { log, .. } if log.contains("wizard")), "{error}");
    Ok(())
}
