//! Connections per second with a token that is known, beside mosquitto that checks a password.

use super::brokers::{Mosquitto, Target};
use super::site::Site;
use super::wire;
use crate::case::{Case, Goal};
use crate::connecting;
use crate::cpu;
use crate::report::Measured;
use crate::session::Session;
use bulkhead_policy::TenantId;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The case.
pub const CASE: Case =
    Case { name: "mqtt.connect", unit: "1/s", goal: Some(Goal::RatioAtLeast(1.0)) };

/// Threads that connect, each from an address of its own.
const CONNECTORS: usize = 4;

/// Clients that one connector is in turn.
const CLIENTS: usize = 4;

/// What came of connecting to a broker for a while, again and again.
#[derive(Default)]
struct Samples {
    rates: Vec<f64>,
    connections: f64,
    broker_cpu: f64,
    client_cpu: f64,
}

/// Measures the case if it is wanted.
pub fn run(session: &mut Session) {
    if !session.wants(CASE.name) {
        return;
    }
    session.note(CASE.name);
    let tenant = TenantId::parse("acme").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mosquitto = Mosquitto::with_password(folder.path());
    let site = Site::start(std::slice::from_ref(&tenant));
    let [ours, peer] = [Target::of_site(&site), mosquitto.target()].map(|target| {
        let hello = |i| target.hello(&tenant, &format!("cam-{i}"));
        let hellos: Vec<_> = (0..CONNECTORS * CLIENTS).map(hello).collect();
        // Every token is verified once, so that its verdict is cached.
        for hello in &hellos {
            drop(wire::admitted(target.address, hello));
        }
        (target, hellos)
    });
    let (runs, length) =
        session.effort().choose((9, Duration::from_millis(500)), (3, Duration::from_millis(200)));
    let [mut of_ours, mut of_peer] = <[Samples; 2]>::default();
    for _ in 0..runs {
        of_ours.take(ours.0, &ours.1, length);
        of_peer.take(peer.0, &peer.1, length);
    }
    session.record(
        Measured::new(CASE, of_ours.rates.clone())
            .against("mosquitto with a password file", of_peer.rates.clone())
            .cpu_us_per_op(of_ours.us(of_ours.broker_cpu))
            .detail("client_us", of_ours.us(of_ours.client_cpu))
            .detail("peer_us", of_peer.us(of_peer.broker_cpu))
            .detail("peer_client_us", of_peer.us(of_peer.client_cpu))
            .detail("cpu_ratio", of_peer.us(of_peer.broker_cpu) / of_ours.us(of_ours.broker_cpu)),
    );
}

impl Samples {
    /// Connects for a while, all connectors at once.
    fn take(&mut self, target: Target<'_>, hellos: &[Vec<u8>], length: Duration) {
        let cpu = || (cpu::of_process(target.pid), cpu::of_this_process());
        let before = cpu();
        let shares = hellos.chunks_exact(CLIENTS);
        let (rate, made) = connecting::for_a_while(shares, length, |connector, hello| {
            let last = u8::try_from(connector + 2).unwrap();
            let source = Ipv4Addr::new(127, 0, 0, last);
            drop(wire::connect_from(source, target.address, hello).unwrap());
        });
        let after = cpu();
        self.rates.push(rate);
        self.connections += made;
        self.broker_cpu += after.0 - before.0;
        self.client_cpu += after.1 - before.1;
    }

    /// Microseconds per connection.
    fn us(&self, seconds: f64) -> f64 {
        seconds / self.connections * 1e6
    }
}
