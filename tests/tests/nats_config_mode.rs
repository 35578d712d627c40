//! An existing server with fixed accounts in its own file.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_auth_callout::nkey::SigningKey;
use bulkhead_auth_callout::xkey::CurveKey;
use bulkhead_cli::signer::Signer;
use bulkhead_cli::start_services;
use bulkhead_control::Control;
use bulkhead_control::config::Config;
use bulkhead_control::directory::Store;
use bulkhead_devkit::{NatsServer, Tools};
use bulkhead_policy::Status;
use bulkhead_tests::{AUDIENCE, Actor, ISSUER, Token, eventually, eventually_async, next, nothing};
use nkeys::KeyPairType;
use secrecy::ExposeSecret;
use tempfile::TempDir;

struct Fixed {
    control: Control,
    server: NatsServer,
    signer: Signer,
    folder: TempDir,
}

impl Fixed {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let signer = Signer::create(&folder.path().join("issuer.pem")).unwrap();
        write("issuer.jwks.json", &signer.jwks().to_string());
        write("tenants.toml", "[tenants.acme]\n[tenants.globex]\n[tenants.initech]\n");
        let issuer = SigningKey::generate(KeyPairType::Account).unwrap();
        write("issuer.seed", issuer.seed().expose_secret());
        let curve = CurveKey::generate_seed().unwrap();
        write("curve.seed", curve.expose_secret());
        write("password", "s3cret-for-tests\n");
        let server_config = format!(
            "max_control_line: 32KB\n\
             accounts {{\n\
               SYS: {{ users: [ {{ user: sys, password: s3cret-for-tests }} ] }}\n\
               AUTH: {{ users: [ {{ user: auth, password: s3cret-for-tests }} ] }}\n\
               ACME: {{}}\n  GLOBEX: {{}}\n\
             }}\n\
             system_account: SYS\n\
             authorization {{ timeout: 1.9, auth_callout {{\n\
               issuer: {}, account: AUTH, auth_users: [ auth, sys ], xkey: {}\n\
             }} }}\n",
            issuer.public(),
            CurveKey::from_seed(&curve).unwrap().public(),
        );
        let home = folder.path().join("server");
        let server = tokio::task::spawn_blocking(move || {
            let binary = Tools::open().unwrap().nats_server().unwrap();
            NatsServer::start(&binary, &home, &server_config).unwrap()
        })
        .await
        .unwrap();
        write(
            "bulkhead.toml",
            &format!(
                "directory = {{ file = \"tenants.toml\" }}\n\
                 audit = {{ path = \"audit.jsonl\" }}\n\
                 admin = {{ listen = \"127.0.0.1:0\" }}\n\
                 [[issuers]]\nname = \"test\"\nissuer = \"{ISSUER}\"\n\
                 audiences = [\"{AUDIENCE}\"]\nalgorithms = [\"EdDSA\"]\ntenants = \"all\"\n\
                 keys.jwks_file = \"issuer.jwks.json\"\n\
                 [nats]\nservers = [\"{}\"]\n\
                 [nats.config_mode]\nissuer_seed_file = \"issuer.seed\"\n\
                 xkey_seed_file = \"curve.seed\"\nuser = \"auth\"\npassword_file = \"password\"\n\
                 system_user = \"sys\"\nsystem_password_file = \"password\"\n\
                 accounts = {{ acme = \"ACME\", globex = \"GLOBEX\" }}\n",
                server.client_url()
            ),
        );
        let path = folder.path().join("bulkhead.toml");
        let config = Config::load(&path).unwrap();
        let (control, _) = start_services(config, Some(path)).await.unwrap();
        eventually("ready", || control.readiness().missing().is_empty()).await;
        Self { control, server, signer, folder }
    }

    async fn connect(&self, token: &Token) -> Option<Actor> {
        let token = self.signer.sign(&token.claims()).unwrap();
        let options = async_nats::ConnectOptions::with_token(token);
        Actor::try_connect(self.server.client_url(), options).await.ok()
    }

    async fn store(&self) -> Store {
        let config = Config::load(&self.folder.path().join("bulkhead.toml")).unwrap();
        Store::open(&config.directory).await.unwrap()
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
