//! The brokers to load, each in a process of its own.

use super::site::Site;
use super::wire;
use bulkhead_control::config::MqttConfig;
use bulkhead_devkit::{MosquittoServer, Server, Tools, free_port};
use bulkhead_mqtt_broker::Broker;
use bulkhead_mqtt_broker::hook::AllowAll;
use bulkhead_policy::TenantId;
use rumqttd::{ConnectionSettings, RouterConfig, ServerSettings};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What mosquitto is told beside who may connect: to keep everything in memory, to hold nothing back
/// that ours does not, to drop nothing, and to write no log of connections.
const MOSQUITTO: &str = "persistence false\n\
     max_inflight_messages 100\n\
     max_queued_messages 0\n\
     set_tcp_nodelay true\n\
     connection_messages false\n\
     log_type error\n\
     log_type warning\n\
     log_type information\n";

/// User and password where a broker wants them.
const USER: &str = "bench";

/// How long a broker may take to listen.
const READY: Duration = Duration::from_secs(30);

/// A broker: where it is, and how to get in. One behind a front is the front's address.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// What it is called where it fails.
    pub name: &'static str,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Its process.
    pub pid: u32,
    /// What it wants to see.
    pub proof: Proof<'a>,
}

/// What a client has to show.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// Nothing.
    Nothing,
    /// User and password.
    Password,
    /// A token of the client's own.
    Token(&'a Site),
}

impl<'a> Target<'a> {
    /// The service of a site, with the tenants' policy.
    pub fn of_site(site: &'a Site) -> Self {
        let proof = Proof::Token(site);
        Self { name: "bulkhead", address: site.address(), pid: site.pid(), proof }
    }

    /// What a client says first.
    pub fn hello(&self, tenant: &TenantId, client: &str) -> Vec<u8> {
        match self.proof {
            Proof::Nothing => wire::hello(client, None),
            Proof::Password => wire::hello(client, Some((USER, USER))),
            Proof::Token(site) => wire::hello(client, Some((client, &site.token(tenant, client)))),
        }
    }
}

/// mosquitto, in a folder of its own.
pub struct Mosquitto {
    server: MosquittoServer,
    proof: Proof<'static>,
}

impl Mosquitto {
    /// One that lets everybody in.
    pub fn open(folder: &Path) -> Self {
        let binary = Tools::open().unwrap().mosquitto().unwrap().broker;
        let config = format!("{MOSQUITTO}allow_anonymous true\n");
        let server = MosquittoServer::start(&binary, folder, &config).unwrap();
        Self { server, proof: Proof::Nothing }
    }

    /// One with a password file.
    pub fn with_password(folder: &Path) -> Self {
        let programs = Tools::open().unwrap().mosquitto().unwrap();
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join("passwords");
        let mut passwd = Command::new(&programs.passwd);
        let status = passwd.args(["-b", "-c"]).arg(&file).args([USER, USER]).status().unwrap();
        assert!(status.success(), "mosquitto_passwd: {status}");
        let config = format!("{MOSQUITTO}password_file {}\n", file.display());
        let server = MosquittoServer::start(&programs.broker, folder, &config).unwrap();
        Self { server, proof: Proof::Password }
    }

    /// To be loaded.
    pub fn target(&self) -> Target<'static> {
        let Self { server, proof } = self;
        let (address, pid) = (server.address(), server.pid());
        Target { name: "mosquitto", address, pid, proof: *proof }
    }
}

/// A broker that is this program once more, and lets everybody in.
pub struct Open {
    name: &'static str,
    server: Server,
    address: SocketAddr,
}

impl Open {
    /// Ours, with a hook that allows all.
    pub fn ours(folder: &Path) -> Self {
        Self::start("bulkhead without a policy", crate::SERVE_OPEN, folder)
    }

    /// Stock rumqttd.
    pub fn rumqttd(folder: &Path) -> Self {
        Self::start("rumqttd", crate::SERVE_RUMQTTD, folder)
    }

    fn start(name: &'static str, what: &str, folder: &Path) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([what, &address.to_string()]);
        let server = Server::spawn(what, command, folder).unwrap();
        server.wait_until(READY, || TcpStream::connect(address).ok()).unwrap();
        Self { name, server, address }
    }

    /// To be loaded.
    pub fn target(&self) -> Target<'static> {
        let (name, address, pid) = (self.name, self.address, self.server.pid());
        Target { name, address, pid, proof: Proof::Nothing }
    }
}

/// The process of [`Open::ours`]: everything as by default but the hook.
pub fn serve_open(address: &str) -> ExitCode {
    let config = MqttConfig::new(vec![format!("tcp://{address}").parse().unwrap()]);
    let everybody = AllowAll::of(TenantId::parse("acme").unwrap());
    let registry = prometheus::Registry::new();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let _broker = Broker::start(&config, everybody, &registry, &tasks, &stop).unwrap();
        stop.cancelled().await;
    });
    ExitCode::SUCCESS
}

/// The process of [`Open::rumqttd`]: the settings of the file that comes with it.
pub fn serve_rumqttd(address: &str) -> ExitCode {
    let connections = ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 20_480,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let listener = ServerSettings {
        name: "v4-1".to_owned(),
        listen: address.parse().unwrap(),
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = RouterConfig {
        max_connections: 10_010,
        max_outgoing_packet_count: 200,
        max_segment_size: 104_857_600,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    let v4 = Some(HashMap::from([("1".to_owned(), listener)]));
    let config = rumqttd::Config { router, v4, ..rumqttd::Config::default() };
    rumqttd::Broker::new(config).start().unwrap();
    ExitCode::SUCCESS
}
