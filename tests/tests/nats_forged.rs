//! Requests that no server sent, put to the service itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use async_nats::ConnectOptions;
use bulkhead_auth_callout::jwt::{AuthRequest, AuthResponse, Claims, Permission, Unverified, User};
use bulkhead_auth_callout::nkey::SigningKey;
use bulkhead_auth_callout::xkey::CurveKey;
use bulkhead_auth_callout::{Callout, ConfigMode, Keyring, Mode};
use bulkhead_control::Control;
use bulkhead_policy::{DenyReason, Verdict};
use bulkhead_tests::{Actor, ConfigModeSite, Stack, Token, eventually};
use nkeys::KeyPairType;
use std::sync::Arc;

/// The callout by itself, without a server before it, and a server of the attacker's own.
struct Forger {
    callout: Callout,
    service_curve: String,
    server: SigningKey,
    curve: CurveKey,
    control: Control,
    site: ConfigModeSite,
}

impl Forger {
    async fn new() -> Self {
        let site = ConfigModeSite::new();
        let config = site.configure("nats://127.0.0.1:1");
        let nats = config.nats.clone().unwrap();
        let mode = ConfigMode::open(nats.config_mode.as_ref().unwrap()).unwrap();
        let control = Control::start(config, None).await.unwrap();
        eventually("ready", || control.readiness().missing().is_empty()).await;
        Self {
            callout: Callout::new(control.auth().clone(), Mode::Config(Arc::new(mode)), &nats),
            service_curve: site.curve.public().to_owned(),
            server: SigningKey::generate(KeyPairType::Server).unwrap(),
            curve: CurveKey::from_seed(&CurveKey::generate_seed().unwrap()).unwrap(),
            control,
            site,
        }
    }

    /// A request as a server would make it, about a client that shows this token.
    fn request(&self, token: &str) -> Claims<AuthRequest> {
        let mut request = AuthRequest::default();
        request.server_id.id = self.server.public().to_owned();
        request.server_id.xkey = self.curve.public().to_owned();
        request.user_nkey = SigningKey::generate(KeyPairType::User).unwrap().public().to_owned();
        request.client_info.kind = "Client".to_owned();
        request.client_info.protocol = "nats".to_owned();
        request.client_info.host = "127.0.0.1".to_owned();
        request.connect_opts.auth_token = token.to_owned();
        let mut claims = Claims::about("A", request);
        claims.aud = "nats-authorization-request".to_owned();
        claims.exp = jiff::Timestamp::now().as_second() + 3;
        claims
    }

    fn sign(&self, claims: Claims<AuthRequest>) -> String {
        claims.sign(&self.server, jiff::Timestamp::now().as_second()).unwrap()
    }

    /// Asks with these bytes.
    async fn ask(&self, body: &[u8], sealed: bool) -> Verdict<Vec<u8>> {
        self.callout.answer(body, sealed.then_some(self.curve.public())).await
    }

    async fn ask_sealed(&self, token: &str) -> Verdict<AuthResponse> {
        let sealed = self.curve.seal(token.as_bytes(), &self.service_curve).unwrap();
        let answer = self.ask(&sealed, true).await?;
        let plain = self.curve.open(&answer, &self.service_curve).unwrap();
        let text = String::from_utf8(plain).unwrap();
        let claims = Unverified::<AuthResponse>::decode(&text).unwrap().verify().unwrap();
        assert_eq!(claims.aud, self.server.public());
        Ok(claims.nats)
    }
}

#[tokio::test]
async fn a_real_server_lets_nobody_ask_in_its_name() {
    let stack = Stack::new().start().await;
    let keys = Keyring::read(&stack.folder().join("nats")).unwrap();
    let now = jiff::Timestamp::now();
    // Even with the service's own key.
    let mut user = User::new(Permission::default(), Permission::default());
    user.issuer_account.clone_from(&keys.auth.account);
    let claims = Claims::about(keys.callout_user.public(), user);
    let jwt = claims.sign(keys.auth.signer(now).unwrap(), now.as_second()).unwrap();
    let seed = keys.callout_user.seed().clone();
    let options = ConnectOptions::with_jwt(jwt, move |nonce| {
        let key = SigningKey::from_seed(KeyPairType::User, &seed).unwrap();
        async move { Ok(key.sign(&nonce).to_vec()) }
    });
    let thief = Actor::try_connect(stack.url(), options).await.unwrap();
    thief.publish("$SYS.REQ.USER.AUTH", "forged").await;
    thief.refused("$SYS.REQ.USER.AUTH").await;
}

#[tokio::test]
async fn what_no_server_sent_gets_no_answer() {
    let forger = Forger::new().await;
    let token = forger.site.signer.sign(&Token::device("acme", "cam-1").claims()).unwrap();
    let forged = |outcome: Verdict<AuthResponse>, what: &str| {
        assert_eq!(outcome.map(|_| ()), Err(DenyReason::RequestForged), "{what}");
    };
    let ignored = |outcome: Verdict<Vec<u8>>, what: &str| {
        assert_eq!(outcome.map(|_| ()), Err(DenyReason::RequestForged), "{what}");
    };

    // The very same request, well formed, is answered: the others fail by what is wrong with them.
    let good = forger.sign(forger.request(&token));
    let answer = forger.ask_sealed(&good).await.unwrap();
    assert!(answer.error.is_empty() && !answer.jwt.is_empty(), "{}", answer.error);

    forged(forger.ask_sealed(&good).await, "replayed");
    let fresh = || forger.sign(forger.request(&token));
    ignored(forger.ask(fresh().as_bytes(), false).await, "in the clear");
    ignored(forger.ask(fresh().as_bytes(), true).await, "in the clear, with the header");

    let stranger = SigningKey::generate(KeyPairType::Server).unwrap();
    let now = jiff::Timestamp::now().as_second();
    let other_key = forger.request(&token).sign(&stranger, now).unwrap();
    forged(forger.ask_sealed(&other_key).await, "signed by another server");

    let mut wrong_audience = forger.request(&token);
    wrong_audience.aud = "nats-authorization-response".to_owned();
    forged(forger.ask_sealed(&forger.sign(wrong_audience)).await, "another audience");

    let mut no_user = forger.request(&token);
    no_user.nats.user_nkey = "UNOTAKEY".to_owned();
    forged(forger.ask_sealed(&forger.sign(no_user)).await, "about no connection");

    let mut other_curve = forger.request(&token);
    other_curve.nats.server_id.xkey = "XOTHER".to_owned();
    forged(forger.ask_sealed(&forger.sign(other_curve)).await, "another server's seal");

    let mut sealed = forger.curve.seal(fresh().as_bytes(), &forger.service_curve).unwrap();
    sealed.truncate(sealed.len() - 7);
    ignored(forger.ask(&sealed, true).await, "truncated");
    let unsigned = fresh();
    let (head, _) = unsigned.rsplit_once('.').unwrap();
    forged(forger.ask_sealed(head).await, "unsigned");
    for garbage in [&b""[..], b"\xff\xfe", b"xkv1", &[b'x'; 100_000]] {
        ignored(forger.ask(garbage, true).await, "garbage");
    }

    let mut expired = forger.request(&token);
    expired.exp = now - 1;
    let stale = forger.ask_sealed(&forger.sign(expired)).await;
    assert_eq!(stale.map(|_| ()), Err(DenyReason::RequestStale));

    let metrics = forger.control.auth().metrics().encode().unwrap();
    assert!(metrics.contains("reason=\"request_forged\"}"), "{metrics}");
    assert!(metrics.contains("reason=\"request_stale\"} 1"), "{metrics}");
}

#[tokio::test]
async fn an_error_is_a_code_and_nothing_of_the_clients() {
    let forger = Forger::new().await;
    let secret = "c2VjcmV0LXRva2Vu.c2VjcmV0LXRva2Vu.x";
    let answer = forger.ask_sealed(&forger.sign(forger.request(secret))).await.unwrap();
    assert_eq!(answer.error, "token_malformed");
    assert!(answer.jwt.is_empty());
}

#[tokio::test]
async fn what_the_server_does_not_check_is_checked_here() {
    let forger = Forger::new().await;
    let token = forger.site.signer.sign(&Token::device("acme", "cam-1").claims()).unwrap();
    for (kind, protocol) in
        [("Leafnode", ""), ("Client", "mqtt"), ("Client", "websocket"), ("Gateway", ""), ("", "")]
    {
        let mut request = forger.request(&token);
        request.nats.client_info.kind = kind.to_owned();
        request.nats.client_info.protocol = protocol.to_owned();
        let answer = forger.ask_sealed(&forger.sign(request)).await.unwrap();
        assert_eq!(answer.error, "connection_type_not_allowed", "{kind} {protocol}");
    }
    // Config mode: a tenant that the directory knows and the server has no account for.
    let elsewhere = forger.site.signer.sign(&Token::device("initech", "cam-1").claims()).unwrap();
    let answer = forger.ask_sealed(&forger.sign(forger.request(&elsewhere))).await.unwrap();
    assert_eq!(answer.error, "tenant_unknown");
}
