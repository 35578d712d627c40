//! What unmodified Device Connect devices and tools are told about where they belong.

use crate::stack::{Stack, Token};
use crate::zenoh::Link;
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Stack {
    /// What an unmodified device's runtime is made of, for a backend: over MQTT what it is told in code,
    /// else a credentials file of the exchange.
    pub async fn runtime(&self, backend: &str, tenant: &str, device: &str) -> Value {
        let token = Token::device(tenant, device);
        if backend == "mqtt" {
            return json!({"messaging_backend": "mqtt", "messaging_urls": [self.mqtt_url()],
                "tenant": tenant, "device_id": device,
                "messaging_auth": {"username": device, "password": self.token(&token)}});
        }
        json!({"credentials_file": self.credentials_file(backend, device, &token).await})
    }

    /// The environment of unmodified tools of a tenant's member, who is known by a name.
    pub async fn tools(
        &self,
        backend: &str,
        tenant: &str,
        name: &str,
    ) -> BTreeMap<&'static str, String> {
        let token = Token::device(tenant, name).with(json!({"role": "member"}));
        let own = if backend == "mqtt" {
            vec![
                ("MESSAGING_URLS", self.mqtt_url()),
                ("MESSAGING_USERNAME", name.to_owned()),
                ("MESSAGING_PASSWORD", self.token(&token)),
                ("TENANT", tenant.to_owned()),
            ]
        } else {
            let file = self.credentials_file(backend, name, &token).await;
            vec![("MESSAGING_CREDENTIALS_FILE", file)]
        };
        let backend = ("MESSAGING_BACKEND", backend.to_owned());
        own.into_iter().chain([backend]).collect()
    }

    fn mqtt_url(&self) -> String {
        format!("mqtt://{}", self.tcp().address)
    }

    /// Where the credentials file is that the exchange has given for a token.
    async fn credentials_file(&self, backend: &str, name: &str, token: &Token) -> String {
        let response = reqwest::Client::new()
            .post(self.exchange_url())
            .bearer_auth(self.token(token))
            .json(&json!({"backend": backend}))
            .send()
            .await
            .unwrap();
        let mut file: Value = response.error_for_status().unwrap().json().await.unwrap();
        if backend == "zenoh" {
            let port = self.entrance(Link::Tls).address.port();
            file["zenoh"]["urls"] = json!([format!("zenoh+tls://localhost:{port}")]);
        }
        let tenant = file["tenant"].as_str().unwrap();
        let path = self.folder().join(format!("{tenant}-{name}.json"));
        std::fs::write(&path, file.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
