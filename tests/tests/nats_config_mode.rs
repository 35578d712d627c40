//! An existing server with fixed accounts in its own file.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_cli::{Services, start_services};
use bulkhead_control::Control;
use bulkhead_control::directory::Store;
use bulkhead_devkit::{NatsServer, Tools};
use bulkhead_policy::Status;
use bulkhead_tests::{Actor, ConfigModeSite, Token, eventually, eventually_async, next, nothing};

struct Fixed {
    control: Control,
    server: NatsServer,
    site: ConfigModeSite,
}

impl Fixed {
    async fn start() -> Self {
        let site = ConfigModeSite::new();
        let (home, server_config) = (site.folder().join("server"), site.server_config());
        let server = tokio::task::spawn_blocking(move || {
            let binary = Tools::open().unwrap().nats_server().unwrap();
            NatsServer::start(&binary, &home, &server_config).unwrap()
        })
        .await
        .unwrap();
        let config = site.configure(server.client_url());
        let Services { control, .. } = start_services(config, None).await.unwrap();
        eventually("ready", || control.readiness().missing().is_empty()).await;
        Self { control, server, site }
    }

    async fn connect(&self, token: &Token) -> Option<Actor> {
        let token = self.site.signer.sign(&token.claims()).unwrap();
        let options = async_nats::ConnectOptions::with_token(token);
        Actor::try_connect(self.server.client_url(), options).await.ok()
    }

    async fn store(&self) -> Store {
        Store::open(&self.control.config().directory).await.unwrap()
    }
}

#[tokio::test]
async fn tenants_of_fixed_accounts_are_isolated_and_cut_off() {
    let fixed = Fixed::start().await;
    let device = fixed.connect(&Token::device("acme", "cam-1")).await.unwrap();
    let member = fixed.connect(&Token::role("acme", "member")).await.unwrap();
    let stranger = fixed.connect(&Token::role("globex", "member")).await.unwrap();

    let mut own = member.subscribe("device-connect.acme.>").await;
    let mut stolen = stranger.subscribe("device-connect.globex.>").await;
    device.publish("device-connect.globex.cam-1.event.motion", "attack").await;
    device.refused("device-connect.globex.cam-1.event.motion").await;
    device.publish("device-connect.acme.cam-1.event.motion", "own").await;
    assert_eq!(next(&mut own).await.payload, "own");
    nothing(&mut stolen).await;
    // The same name in another account is another subject altogether.
    let mut inbox = stranger.subscribe("_INBOX.>").await;
    let mut calls = member.subscribe("device-connect.acme.cam-2.cmd").await;
    let asked = device.client.request("device-connect.acme.cam-2.cmd", "call".into());
    let answered = async {
        let call = next(&mut calls).await;
        member.publish(call.reply.unwrap().as_str(), "answer").await;
    };
    let (answer, ()) = tokio::join!(asked, answered);
    assert_eq!(answer.unwrap().payload, "answer");
    nothing(&mut inbox).await;

    let acme = "acme".parse().unwrap();
    fixed.store().await.update(&acme, |t| t.status = Status::Suspended).await.unwrap();
    device.cut().await;
    member.cut().await;
    assert!(!stranger.is_cut());
    assert!(fixed.connect(&Token::device("acme", "cam-1")).await.is_none());
    fixed.store().await.update(&acme, |t| t.status = Status::Active).await.unwrap();
    eventually_async("resumed", async || {
        fixed.connect(&Token::device("acme", "cam-1")).await.is_some()
    })
    .await;
    fixed.control.shutdown().await;
}

#[tokio::test]
async fn a_tenant_without_an_account_is_refused() {
    let fixed = Fixed::start().await;
    assert!(fixed.connect(&Token::device("initech", "cam-1")).await.is_none());
    assert!(fixed.connect(&Token::device("acme", "cam-1")).await.is_some());
    let metrics = fixed.control.auth().metrics().encode().unwrap();
    assert!(metrics.contains("reason=\"tenant_unknown\"} 1"), "{metrics}");
    fixed.control.shutdown().await;
}
