//! What a nats-server asks the callout, without the server: a question can be answered once only, so
//! thousands of them are made beforehand.

use bulkhead_auth_callout::jwt::{AuthResponse, Claims, Unverified};
use bulkhead_auth_callout::nkey::SigningKey;
use bulkhead_auth_callout::xkey::CurveKey;
use jiff::Timestamp;
use nkeys::KeyPairType;
use serde_json::json;

/// How long a question is good for, in seconds: longer than the run, instead of a server's two.
const GOOD_FOR: i64 = 3_600;

/// A server's keys.
pub struct FakeServer {
    key: SigningKey,
    curve: CurveKey,
    sentinel: String,
}

/// One question, as it arrives.
pub struct Question {
    /// The message.
    pub payload: Vec<u8>,
    /// Its header `Nats-Server-Xkey`.
    pub xkey: Option<String>,
}

impl FakeServer {
    /// A server with new keys. `config` is the text of a real one, for its sentinel.
    pub fn new(config: &str) -> Self {
        let sentinel = config.lines().find_map(|line| line.strip_prefix("default_sentinel: "));
        Self {
            key: SigningKey::generate(KeyPairType::Server).unwrap(),
            curve: CurveKey::from_seed(&CurveKey::generate_seed().unwrap()).unwrap(),
            sentinel: sentinel.expect("the configuration names a sentinel").to_owned(),
        }
    }

    /// What nats-server 2.15.1 asks about a client with this token, sealed for this curve key if there
    /// is one.
    pub fn ask(&self, token: &str, seal_for: Option<&str>) -> Question {
        let user = nkeys::KeyPair::new_user().public_key();
        let now = Timestamp::now().as_second();
        let id = self.key.public();
        let mut server_id = json!({"name": id, "host": "127.0.0.1", "id": id, "version": "2.15.1"});
        if seal_for.is_some() {
            server_id["xkey"] = json!(self.curve.public());
        }
        let content = json!({
            "server_id": server_id,
            "user_nkey": user,
            "client_info": {
                "host": "127.0.0.1", "id": 42, "user": id, "name": "bench",
                "name_tag": "sentinel", "kind": "Client", "type": "nats",
            },
            "connect_opts": {
                "jwt": self.sentinel, "auth_token": token, "name": "bench", "lang": "rust",
                "version": "0.1.0", "protocol": 1,
            },
            "type": "authorization_request", "version": 2,
        });
        let mut claims = Claims::about(id, content);
        "nats-authorization-request".clone_into(&mut claims.aud);
        claims.exp = now + GOOD_FOR;
        let plain = claims.sign(&self.key, now).unwrap().into_bytes();
        match seal_for {
            Some(curve) => Question {
                payload: self.curve.seal(&plain, curve).unwrap(),
                xkey: Some(self.curve.public().to_owned()),
            },
            None => Question { payload: plain, xkey: None },
        }
    }

    /// Makes sure that an answer lets its client in.
    pub fn check(&self, answer: &[u8], sealed_by: Option<&str>) {
        let plain = sealed_by.map(|curve| self.curve.open(answer, curve).unwrap());
        let text = std::str::from_utf8(plain.as_deref().unwrap_or(answer)).unwrap();
        let claims = Unverified::<AuthResponse>::decode(text).unwrap().verify().unwrap();
        let answer = claims.nats;
        assert!(answer.error.is_empty() && !answer.jwt.is_empty(), "denied: {}", answer.error);
    }
}
