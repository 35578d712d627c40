//! The rows of the registry for which a device has to be registered, over NATS.

use super::environment::{DevError, Environment, TENANTS};
use crate::verify::{Attempt, Judged, Seen, Trial};
use async_nats::{Client, ConnectOptions, RequestErrorKind};
use serde_json::{Value, json};
use std::time::Duration;

/// How long an answer is waited for.
const WAIT: Duration = Duration::from_secs(1);

/// The device that is looked for in each tenant.
const DEVICE: &str = "dev-probe";

pub(super) async fn measure(environment: &Environment) -> Result<Vec<Judged>, DevError> {
    let [a, b] = TENANTS;
    let (of_a, of_b) =
        (Party::connect(environment, a).await?, Party::connect(environment, b).await?);
    let (mut registering, mut finding) = (Vec::new(), Vec::new());
    for ((attacker, party), (victim, own)) in [((a, &of_a), (b, &of_b)), ((b, &of_b), (a, &of_a))] {
        let tried = |own, foreign, did: &str| {
            let leak = format!("{attacker} {did} a device of {victim}");
            Attempt { attacker, victim, came_to: Ok(Trial { own, foreign, leak, note: None }) }
        };
        let (within, across) = (own.register(victim).await?, party.register(victim).await?);
        registering.push(tried(within, across, "registered"));
        let (within, across) = (own.find(victim).await?, party.find(victim).await?);
        finding.push(tried(within, across, "found"));
    }
    Ok(vec![
        Judged::of("registry", "register a device of the other tenant", registering),
        Judged::of("registry", "find a device of the other tenant", finding),
    ])
}

/// A member of a tenant.
struct Party {
    client: Client,
}

impl Party {
    async fn connect(environment: &Environment, tenant: &str) -> Result<Self, DevError> {
        let token = environment.token(tenant, None, "member")?;
        let options = ConnectOptions::with_token(token).request_timeout(Some(WAIT));
        Ok(Self { client: options.connect(environment.nats_url()).await.map_err(failed)? })
    }

    async fn register(&self, tenant: &str) -> Result<Seen, DevError> {
        let params = json!({"device_id": DEVICE, "device_ttl": 5, "capabilities": {},
            "identity": {"device_type": "probe"}, "status": {"ts": "now"}});
        let request = json!({"id": 1, "method": "registerDevice", "params": params});
        self.ask(tenant, "registry", &request, |answer| {
            answer.pointer("/result/status").is_some_and(|status| status == "registered")
        })
        .await
    }

    async fn find(&self, tenant: &str) -> Result<Seen, DevError> {
        let params = json!({"device_id": DEVICE});
        let request = json!({"id": 1, "method": "discovery/getDevice", "params": params});
        self.ask(tenant, "discovery", &request, |answer| {
            answer.pointer("/result/device").is_some_and(Value::is_object)
        })
        .await
    }

    async fn ask(
        &self,
        tenant: &str,
        name: &str,
        request: &Value,
        is_done: impl Fn(&Value) -> bool,
    ) -> Result<Seen, DevError> {
        let subject = format!("device-connect.{tenant}.{name}");
        match self.client.request(subject, request.to_string().into()).await {
            Ok(answer) => {
                let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
                Ok(if is_done(&answer) { Seen::Arrived } else { Seen::Refused })
            }
            Err(error) if matches!(error.kind(), RequestErrorKind::TimedOut) => Ok(Seen::Nothing),
            Err(error) if matches!(error.kind(), RequestErrorKind::NoResponders) => {
                Ok(Seen::Refused)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> DevError {
    DevError::Client(error.to_string())
}
