//! Devices and tools as the registry knows them, over NATS, and what it leaves in etcd.

use crate::client::Actor;
use crate::stack::{Stack, Token};
use crate::wait::{WITHIN, eventually_async};
use async_nats::{ConnectOptions, Subscriber};
use bulkhead_devkit::{NatsServer, Server, Tools};
use etcd_client::{Client, GetOptions};
use futures::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Somebody of a tenant on NATS.
pub struct Party {
    /// The tenant.
    pub tenant: String,
    /// The connection.
    pub actor: Actor,
}

impl Party {
    /// A device with its own token.
    pub async fn device(stack: &Stack, tenant: &str, device: &str) -> Self {
        Self::with(stack, tenant, &Token::device(tenant, device)).await
    }

    /// Somebody with a role.
    pub async fn role(stack: &Stack, tenant: &str, role: &str) -> Self {
        Self::with(stack, tenant, &Token::role(tenant, role)).await
    }

    /// The same, as soon as a server that has just come back lets anybody in.
    pub async fn role_again(stack: &Stack, tenant: &str, role: &str) -> Self {
        let token = stack.token(&Token::role(tenant, role));
        let mut actor = None;
        eventually_async("somebody is let in again", async || {
            let options = ConnectOptions::with_token(token.clone());
            actor = Actor::try_connect(stack.url(), options).await.ok();
            actor.is_some()
        })
        .await;
        Self { tenant: tenant.to_owned(), actor: actor.unwrap() }
    }

    async fn with(stack: &Stack, tenant: &str, token: &Token) -> Self {
        let actor = Actor::connect(stack.url(), &stack.token(token)).await;
        Self { tenant: tenant.to_owned(), actor }
    }

    /// Asks, and returns the whole answer; null if there is none in time.
    pub async fn try_ask(&self, name: &str, request: &Value) -> Value {
        let subject = format!("device-connect.{}.{name}", self.tenant);
        let asked = self.actor.client.request(subject, request.to_string().into());
        match tokio::time::timeout(Duration::from_secs(6), asked).await {
            Ok(Ok(answer)) => serde_json::from_slice(&answer.payload).unwrap(),
            _ => Value::Null,
        }
    }

    /// Asks until somebody answers: a registry that has just started may not be there yet.
    pub async fn ask(&self, name: &str, request: &Value) -> Value {
        let mut answer = Value::Null;
        eventually_async(&format!("an answer to {request}"), async || {
            answer = self.try_ask(name, request).await;
            !answer.is_null()
        })
        .await;
        answer
    }

    /// Registers a device.
    pub async fn register(&self, device: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut request = registration(device);
        change(&mut request["params"]);
        self.ask("registry", &request).await
    }

    /// Sends a heartbeat.
    pub async fn beat(&self, device: &str, status: Value) {
        let mut beat = json!({"device_id": device, "ts": 1_795_317_234.77});
        for (name, value) in status.as_object().unwrap() {
            beat[name] = value.clone();
        }
        let subject = format!("device-connect.{}.{device}.heartbeat", self.tenant);
        self.actor.publish(&subject, &beat.to_string()).await;
    }

    /// The result of a question.
    pub async fn discover(&self, method: &str, params: Value) -> Value {
        let method = format!("discovery/{method}");
        let answer =
            self.ask("discovery", &json!({"id": 1, "method": method, "params": params})).await;
        assert_eq!(answer["id"], 1, "{answer}");
        answer.get("result").unwrap_or(&answer["error"]).clone()
    }

    /// The ids of all devices.
    pub async fn devices(&self) -> Vec<String> {
        let listed = self.discover("listDevices", json!({})).await;
        let all = listed["devices"].as_array().unwrap();
        all.iter().map(|device| device["device_id"].as_str().unwrap().to_owned()).collect()
    }

    /// A device's document, or null.
    pub async fn get(&self, device: &str) -> Value {
        self.discover("getDevice", json!({"device_id": device})).await["device"].clone()
    }

    /// Hears who comes and goes.
    pub async fn lifecycle(&self) -> Lifecycle {
        let subject = format!("device-connect.{}.device.*", self.tenant);
        Lifecycle { heard: self.actor.subscribe(&subject).await }
    }
}

/// Who comes and goes.
pub struct Lifecycle {
    heard: Subscriber,
}

impl Lifecycle {
    /// The next: `online cam-1`.
    pub async fn next(&mut self) -> String {
        let heard = tokio::time::timeout(WITHIN, self.heard.next());
        let message = heard.await.expect("somebody comes or goes").unwrap();
        let value: Value = serde_json::from_slice(&message.payload).unwrap();
        let kind = message.subject.rsplit('.').next().unwrap();
        assert_eq!(value["method"], format!("device/{kind}"), "{value}");
        assert!(value["params"]["ts"].as_str().unwrap().ends_with('Z'), "{value}");
        format!("{kind} {}", value["params"]["device_id"].as_str().unwrap())
    }

    /// Makes sure that nothing else was heard: what a marker's publisher says now comes next.
    pub async fn nothing_but(&mut self, party: &Party, marker: &str) {
        party.register(marker, |_| {}).await;
        assert_eq!(self.next().await, format!("online {marker}"));
    }
}

/// A registration as a device sends it.
pub fn registration(device: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": format!("{device}-1"), "method": "registerDevice", "params": {
        "device_id": device, "device_ttl": 15,
        "capabilities": {"description": "", "functions": [{"name": "add"}], "events": [], "labels": null},
        "identity": {"device_type": "camera"},
        "status": {"ts": "2026-11-22T02:58:05Z", "availability": "idle", "location": "lab"}}})
}

/// `bulkhead devices` as people call it.
pub struct Person<'a> {
    /// This package's `replica`.
    pub program: &'a str,
    /// Where files are put.
    pub folder: &'a Path,
    /// The registry's admin port: `127.0.0.1:9180`.
    pub admin: &'a str,
    /// Who asks.
    pub token: &'a str,
}

impl Person<'_> {
    /// `devices list` or `devices watch`.
    pub fn devices(&self, what: &str, more: &[&str]) -> Server {
        let path = self.folder.join("person.token");
        std::fs::write(&path, self.token).unwrap();
        let url = format!("http://{}", self.admin);
        let mut command = Command::new(self.program);
        command.args(["devices", what, "--url", &url, "--token-file"]).arg(path).args(more);
        Server::spawn(&format!("devices-{what}"), command, self.folder).unwrap()
    }

    /// What `devices list` prints.
    pub async fn list(&self, more: &[&str]) -> String {
        let server = self.devices("list", more);
        eventually_async("it has ended", async || !server.is_running()).await;
        server.log()
    }
}

/// A look into etcd.
pub struct Keys {
    client: Client,
}

impl Keys {
    /// Of a stack's etcd.
    pub async fn of(stack: &mut Stack) -> Self {
        let endpoint = stack.etcd().endpoint().to_owned();
        Self { client: Client::connect([endpoint], None).await.unwrap() }
    }

    /// A device's document, and the lease that it is under.
    pub async fn get(&mut self, tenant: &str, device: &str) -> Option<(Value, i64)> {
        let key = format!("/device-connect/{tenant}/devices/{device}");
        let found = self.client.get(key, None).await.unwrap();
        let one = found.kvs().first()?;
        Some((serde_json::from_slice(one.value()).unwrap(), one.lease()))
    }

    /// The lease of each of a tenant's devices.
    pub async fn leases(&mut self, tenant: &str) -> BTreeMap<String, i64> {
        let prefix = format!("/device-connect/{tenant}/devices/");
        let options = Some(GetOptions::new().with_prefix().with_keys_only());
        let found = self.client.get(prefix.clone(), options).await.unwrap();
        let name = |key: &[u8]| String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
        found.kvs().iter().map(|one| (name(one.key()), one.lease())).collect()
    }

    /// How many partitions of tenants each replica has.
    pub async fn shares(&mut self) -> BTreeMap<String, usize> {
        let options = Some(GetOptions::new().with_prefix());
        let prefix = "/bulkhead/registry/replicas/partitions/";
        let found = self.client.get(prefix, options).await.unwrap();
        let mut shares = BTreeMap::new();
        for one in found.kvs() {
            let holder = String::from_utf8_lossy(one.value()).into_owned();
            *shares.entry(holder).or_default() += 1;
        }
        shares
    }

    /// How often anything of a tenant's devices was written.
    pub async fn writes(&mut self, tenant: &str) -> i64 {
        let prefix = format!("/device-connect/{tenant}/devices/");
        let options = Some(GetOptions::new().with_prefix());
        let found = self.client.get(prefix, options).await.unwrap();
        found.kvs().iter().map(etcd_client::KeyValue::version).sum()
    }

    /// Everything under a prefix, without what it is.
    pub async fn count(&mut self, prefix: &str) -> i64 {
        let options = Some(GetOptions::new().with_prefix().with_count_only());
        self.client.get(prefix, options).await.unwrap().count()
    }

    /// The client itself.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// A nats-server whose users are all of one account, each tenant with names of its own, and with more lines of
/// configuration.
pub async fn one_account(stack: &Stack, more: &str) -> NatsServer {
    let user = |tenant: &str| {
        let own = format!("\"device-connect.{tenant}.>\", \"_INBOX.>\"");
        let permissions = format!("{{ publish: [{own}], subscribe: [{own}] }}");
        format!("{{ user: {tenant}, password: {tenant}, permissions: {permissions} }}")
    };
    let registry = "{ user: registry, password: registry }".to_owned();
    let users = [user("acme"), user("globex"), registry].join(", ");
    let config = format!("authorization {{ users: [ {users} ] }}\n{more}\n");
    let folder = stack.folder().join("shared");
    let starting = tokio::task::spawn_blocking(move || {
        let binary = Tools::open().unwrap().nats_server().unwrap();
        NatsServer::start(&binary, &folder, &config).unwrap()
    });
    starting.await.unwrap()
}
