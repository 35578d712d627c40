//! The routers to load, each in a process of its own.

use crate::issuer::Issuer;
use ::zenoh::{Session, Wait};
use bulkhead_control::config::Config;
use bulkhead_control::directory::Store;
use bulkhead_devkit::{PluginBuild, Tools, ZenohServer};
use bulkhead_policy::TenantId;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use tokio::runtime::Runtime;

/// The tenant whose clients load the routers.
pub const TENANT: &str = "acme";

/// A router: where it is, and how to get in.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    server: &'a ZenohServer,
    /// Whoever signs tokens, where one is wanted.
    issuer: Option<&'a Issuer>,
}

/// One of each kind.
pub struct Routers {
    direct: Plain,
    acl: Plain,
    gated: Gated,
}

/// A stock zenohd without the gate.
pub struct Plain {
    server: ZenohServer,
    _folder: tempfile::TempDir,
}

/// The same with the gate. Everything else is as by default.
pub struct Gated {
    // Fields are dropped in this order: the router before its folder.
    server: ZenohServer,
    issuer: Issuer,
    folder: tempfile::TempDir,
}

impl Routers {
    /// Starts all three.
    pub fn start() -> Self {
        let tenant = TenantId::parse(TENANT).unwrap();
        Self {
            direct: Plain::start(),
            acl: Plain::with_access_control(),
            gated: Gated::start(&[tenant]),
        }
    }

    /// The one with the gate.
    pub fn gated(&self) -> Target<'_> {
        self.gated.target()
    }

    /// The one without anything.
    pub fn direct(&self) -> Target<'_> {
        self.direct.target()
    }

    /// The one with its own access control.
    pub fn acl(&self) -> Target<'_> {
        self.acl.target()
    }
}

impl Plain {
    /// One that lets everybody do everything.
    pub fn start() -> Self {
        Self::start_with(json!({ "enabled": false }))
    }

    /// One that lets whoever connects have the names of one tenant.
    pub fn with_access_control() -> Self {
        let messages =
            ["put", "delete", "declare_subscriber", "query", "reply", "declare_queryable"];
        let rule = json!({
            "id": "tenant", "permission": "allow", "messages": messages,
            "flows": ["ingress", "egress"],
            "key_exprs": [format!("device-connect/{TENANT}/**")],
        });
        Self::start_with(json!({
            "enabled": true, "default_permission": "deny",
            "rules": [rule],
            "subjects": [{ "id": "all", "interfaces": ["lo"] }],
            "policies": [{ "rules": ["tenant"], "subjects": ["all"] }],
        }))
    }

    /// One that lets in who knows a password.
    pub fn with_password() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users");
        std::fs::write(&users, "somebody:secret\n").unwrap();
        Self::start_in(folder, |config| {
            config["transport"]["auth"] = json!({ "usrpwd": {
                "user": "router", "password": "router", "dictionary_file": users,
            } });
        })
    }

    fn start_with(access_control: Value) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), |config| {
            config["access_control"] = access_control.clone();
        })
    }

    fn start_in(folder: tempfile::TempDir, change: impl Fn(&mut Value)) -> Self {
        let server = ZenohServer::start(&zenohd(), folder.path(), |port| {
            let mut config = router(&format!("tcp/127.0.0.1:{port}"));
            change(&mut config);
            config.to_string()
        });
        Self { server: server.unwrap(), _folder: folder }
    }

    /// To be loaded.
    pub fn target(&self) -> Target<'_> {
        Target { server: &self.server, issuer: None }
    }
}

impl Gated {
    /// Starts one, with these tenants in a directory that is a file.
    pub fn start(tenants: &[TenantId]) -> Self {
        // What is not measured is not worth the time that optimising it takes.
        let build = if cfg!(debug_assertions) { PluginBuild::Quick } else { PluginBuild::Release };
        let plugin = Tools::zenoh_plugin(build).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::create(folder.path());
        let mut directory = String::new();
        for tenant in tenants {
            writeln!(directory, "[tenants.{tenant}]").unwrap();
        }
        std::fs::write(folder.path().join("tenants.toml"), directory).unwrap();
        let server = ZenohServer::start(&zenohd(), folder.path(), |port| {
            let gate = format!(
                "directory = {{ file = \"tenants.toml\" }}\n\
                 admin = {{ listen = \"127.0.0.1:0\" }}\n\
                 zenoh = {{ listeners = [\"tcp/127.0.0.1:{port}\"] }}\n\
                 {}",
                issuer.configuration()
            );
            std::fs::write(config_path(folder.path()), gate).unwrap();
            let socket = folder.path().join("router.sock");
            let mut config = router(&format!("unixsock-stream/{}", socket.display()));
            config["plugins_loading"] = json!({ "enabled": true, "search_dirs": [plugin] });
            let path = config_path(folder.path());
            config["plugins"] = json!({ "bulkhead": { "__required__": true, "config": path } });
            config.to_string()
        });
        Self { server: server.unwrap(), issuer, folder }
    }

    /// To be loaded.
    pub fn target(&self) -> Target<'_> {
        Target { server: &self.server, issuer: Some(&self.issuer) }
    }

    /// The directory, to change it.
    pub fn store(&self, runtime: &Runtime) -> Store {
        let config = Config::load(&config_path(self.folder.path())).unwrap();
        runtime.block_on(Store::open(&config.directory)).unwrap()
    }
}

impl Target<'_> {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Where clients connect.
    pub fn endpoint(&self) -> String {
        format!("tcp/{}", self.server.address())
    }

    /// What a device has to show, good for an hour. No two are the same.
    pub fn token(&self, tenant: &TenantId, device: &str) -> Option<String> {
        self.issuer.map(|issuer| issuer.token(tenant, device))
    }

    /// Opens a session of a device of [`TENANT`].
    pub fn open(&self, device: &str) -> Session {
        let mut settings = vec![
            ("mode", json!("client")),
            ("connect/endpoints", json!([self.endpoint()])),
            ("connect/timeout_ms", json!(10_000)),
            ("scouting/multicast/enabled", json!(false)),
        ];
        if let Some(token) = self.token(&TenantId::parse(TENANT).unwrap(), device) {
            settings.push(("transport/auth/usrpwd/user", json!(token)));
            settings.push(("transport/auth/usrpwd/password", json!("any")));
        }
        let mut config = ::zenoh::Config::default();
        for (setting, value) in settings {
            config.insert_json5(setting, &value.to_string()).unwrap();
        }
        ::zenoh::open(config).wait().unwrap()
    }
}

fn zenohd() -> std::path::PathBuf {
    Tools::open().unwrap().zenohd().unwrap()
}

/// What all routers have in common.
fn router(endpoint: &str) -> Value {
    json!({
        "mode": "router",
        "listen": { "endpoints": [endpoint] },
        "scouting": { "multicast": { "enabled": false } },
        "transport": { "unicast": { "max_sessions": 10_000, "accept_pending": 1_000 } },
    })
}

fn config_path(folder: &Path) -> std::path::PathBuf {
    folder.join("bulkhead.toml")
}
