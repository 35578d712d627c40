use super::{Client, Hello};
use crate::stack::{Stack, Token};
use serde_json::json;

/// An issuer of platform services, for [`config`](crate::StackBuilder::config). Its tokens are those
/// of [`Stack::service_token`].
pub const SERVICE_ISSUER: &str = "[[issuers]]\nname = \"platform\"\n\
     issuer = \"https://platform.test\"\naudiences = [\"bulkhead\"]\nalgorithms = [\"EdDSA\"]\n\
     service = true\nkeys.jwks_file = \"issuer.jwks.json\"\nroles = [\"service\"]\n\
     default_role = \"service\"\n";

impl Stack {
    /// What a client with a token says first.
    pub fn hello(&self, client_id: &str, token: &Token) -> Hello {
        Hello::new(client_id, &self.token(token))
    }

    /// A member of a tenant, connected over TCP.
    pub async fn member(&self, tenant: &str, client_id: &str) -> Client {
        self.tcp().connect(&self.hello(client_id, &Token::role(tenant, "member"))).await
    }

    /// A device of a tenant, connected over TCP under its own name.
    pub async fn device(&self, tenant: &str, device: &str) -> Client {
        self.tcp().connect(&self.hello(device, &Token::device(tenant, device))).await
    }

    /// A member of a tenant that subscribes to everything there.
    pub async fn witness(&self, tenant: &str) -> Client {
        let mut witness = self.member(tenant, &format!("witness-{tenant}")).await;
        witness.subscribed(&format!("device-connect/{tenant}/#")).await;
        witness
    }

    /// The token of a platform service, from [`SERVICE_ISSUER`].
    pub fn service_token(&self) -> Token {
        Token::role("acme", "service").with(json!({"iss": "https://platform.test", "tenant": null}))
    }
}
