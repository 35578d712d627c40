//! Connections per second through the callout, beside servers that check a password or nothing.

use super::site::{DirectoryIn, Site};
use super::wire::{self, ConnectError};
use crate::case::{Case, Goal};
use crate::connecting;
use crate::cpu;
use crate::report::Measured;
use crate::session::Session;
use bulkhead_devkit::{NatsServer, Tools};
use bulkhead_policy::TenantId;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Tokens that one connector uses in turn.
const TOKENS: usize = 4;

/// What is measured with a number of connectors.
pub struct Level {
    connectors: usize,
    /// Against a static user and password.
    pub case: Case,
    /// Against no authentication at all.
    pub noauth: Case,
}

const fn level(connectors: usize, name: &'static str, noauth: &'static str) -> Level {
    let goal = Some(Goal::RatioAtLeast(0.6));
    Level {
        connectors,
        case: Case { name, unit: "1/s", goal },
        noauth: Case { name: noauth, unit: "1/s", goal: None },
    }
}

/// The levels.
pub const LEVELS: [Level; 3] = [
    level(1, "nats.connect.c1", "nats.connect.c1.noauth"),
    level(4, "nats.connect.c4", "nats.connect.c4.noauth"),
    level(16, "nats.connect.c16", "nats.connect.c16.noauth"),
];

/// A server to connect to, and the processes that work for it.
struct Target {
    address: SocketAddr,
    /// What the connectors say, each its own share of it.
    hellos: Vec<Vec<u8>>,
    server: u32,
    service: Option<u32>,
}

/// What came of connecting to a target for a while, again and again.
#[derive(Default)]
struct Samples {
    rates: Vec<f64>,
    connections: f64,
    server_cpu: f64,
    service_cpu: f64,
    client_cpu: f64,
}

/// Measures the cases that are wanted.
pub fn run(session: &mut Session, runtime: &Runtime) {
    let wanted = |level: &&Level| session.wants_any([level.case.name, level.noauth.name]);
    let levels: Vec<&Level> = LEVELS.iter().filter(wanted).collect();
    let Some(most) = levels.iter().map(|level| level.connectors).max() else {
        return;
    };
    session.note("connect: starting three servers");
    let tenants = ["acme", "globex"].map(|id| TenantId::parse(id).unwrap());
    let site = Site::start(runtime, DirectoryIn::File, &tenants);
    let hellos = (0..most * TOKENS)
        .map(|i| site.hello(&tenants[i % tenants.len()], &format!("cam-{i}")))
        .collect();
    let callout = Target {
        address: site.address(),
        hellos,
        server: site.nats().pid(),
        service: Some(site.service_pid()),
    };
    let binary = Tools::open().unwrap().nats_server().unwrap();
    let plain = |name: &str, config: &str, proof: &str| {
        let server = NatsServer::start(&binary, &site.folder().join(name), config).unwrap();
        let hellos = vec![wire::hello(proof); most * TOKENS];
        let address = wire::address(&server);
        let target = Target { address, hellos, server: server.pid(), service: None };
        (server, target)
    };
    let (_password, password) = plain(
        "password",
        "authorization { user: bench, password: bench }",
        "\"user\":\"bench\",\"pass\":\"bench\",",
    );
    let (_noauth, noauth) = plain("noauth", "", "");

    // Every token is verified once, so that its verdict is cached.
    for target in [&callout, &password, &noauth] {
        for hello in &target.hellos {
            drop(admitted(target.address, hello));
        }
    }
    let (runs, length) =
        session.effort().choose((21, Duration::from_millis(400)), (3, Duration::from_millis(300)));
    for level in levels {
        session.note(&format!("connect: {} connectors", level.connectors));
        let [mut ours, mut passwords, mut open] = <[Samples; 3]>::default();
        for _ in 0..runs {
            ours.take(&callout, level.connectors, length);
            passwords.take(&password, level.connectors, length);
            open.take(&noauth, level.connectors, length);
        }
        for (case, name, peer) in [
            (level.case, "static user and password", &passwords),
            (level.noauth, "no authentication", &open),
        ] {
            session.record(
                Measured::new(case, ours.rates.clone())
                    .against(name, peer.rates.clone())
                    .cpu_us_per_op(ours.us(ours.server_cpu + ours.service_cpu))
                    .detail("server_us", ours.us(ours.server_cpu))
                    .detail("service_us", ours.us(ours.service_cpu))
                    .detail("client_us", ours.us(ours.client_cpu))
                    .detail("peer_server_us", peer.us(peer.server_cpu))
                    .detail("peer_client_us", peer.us(peer.client_cpu))
                    .detail("cpu_ratio", peer.us(peer.all_cpu()) / ours.us(ours.all_cpu()))
                    .detail(
                        "ceiling_ratio",
                        peer.us(peer.all_cpu()) / ours.us(ours.cpu_of_others()),
                    ),
            );
        }
    }
}

impl Samples {
    /// Connects to a target for a while, with so many connectors at once.
    fn take(&mut self, target: &Target, connectors: usize, length: Duration) {
        let cpu = || {
            let service = target.service.map_or(0.0, cpu::of_process);
            (cpu::of_process(target.server), service, cpu::of_this_process())
        };
        let before = cpu();
        let shares = target.hellos.chunks_exact(TOKENS).take(connectors);
        let (rate, made) = connecting::for_a_while(shares, length, |_, hello| {
            drop(admitted(target.address, hello));
        });
        let after = cpu();
        self.rates.push(rate);
        self.connections += made;
        self.server_cpu += after.0 - before.0;
        self.service_cpu += after.1 - before.1;
        self.client_cpu += after.2 - before.2;
    }

    /// What everybody used, in seconds.
    fn all_cpu(&self) -> f64 {
        self.cpu_of_others() + self.service_cpu
    }

    /// What everybody but the service used, in seconds.
    fn cpu_of_others(&self) -> f64 {
        self.server_cpu + self.client_cpu
    }

    /// Microseconds per connection.
    fn us(&self, seconds: f64) -> f64 {
        seconds / self.connections * 1e6
    }
}

/// A connection that has to be admitted.
fn admitted(address: SocketAddr, hello: &[u8]) -> std::net::TcpStream {
    match wire::connect(address, hello) {
        Ok(stream) => stream,
        Err(ConnectError::Refused(words)) => panic!("a connection was refused: {words}"),
        Err(ConnectError::Io(error)) => panic!("a connection failed: {error}"),
    }
}
