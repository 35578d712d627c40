//! The rows of Zenoh.

use super::environment::{DevError, Environment};
use super::matrix::{Row, Seen};
use std::time::Duration;
use tokio::time::timeout;
use zenoh::sample::Locality;
use zenoh::{Config, Session};

/// How long a message is waited for.
const WAIT: Duration = Duration::from_millis(400);

/// How long the router may take to know what a client has declared.
const SETTLE: Duration = Duration::from_millis(100);

pub(super) async fn measure(environment: &Environment) -> Result<Vec<Row>, DevError> {
    let cast = Cast(environment);
    Ok(vec![
        row("put an event", cast.put("acme").await?, cast.put("globex").await?),
        row(
            "subscribe to events",
            cast.subscribe("acme", "device-connect/acme/*/event/**").await?,
            cast.subscribe("globex", "device-connect/globex/*/event/**").await?,
        ),
        row(
            "subscribe with a wildcard over tenants",
            cast.subscribe("acme", "device-connect/acme/**").await?,
            cast.subscribe("globex", "device-connect/*/**").await?,
        ),
        row(
            "subscribe to everything",
            cast.subscribe("acme", "device-connect/acme/**").await?,
            cast.subscribe("globex", "**").await?,
        ),
        row(
            "ask a device",
            cast.query("acme", "device-connect/acme/cam-2/cmd").await?,
            cast.query("globex", "device-connect/globex/cam-2/cmd").await?,
        ),
        row(
            "ask everybody",
            cast.query("acme", "device-connect/acme/**").await?,
            cast.query("globex", "**").await?,
        ),
        row(
            "see who is alive",
            cast.liveliness("acme", "device-connect/acme/**").await?,
            cast.liveliness("globex", "**").await?,
        ),
    ])
}

fn row(action: &'static str, own: Seen, foreign: Seen) -> Row {
    Row { backend: "zenoh", action, own, foreign }
}

/// The clients: a member of acme, and somebody of either tenant on the other side.
struct Cast<'a>(&'a Environment);

impl Cast<'_> {
    async fn member(&self, tenant: &str) -> Result<Session, DevError> {
        let token = self.0.token(tenant, None, "member")?;
        let settings = [
            ("mode", "\"client\"".to_owned()),
            ("connect/endpoints", format!("[\"{}\"]", self.0.zenoh_endpoint())),
            ("connect/timeout_ms", "5000".to_owned()),
            ("scouting/multicast/enabled", "false".to_owned()),
            ("transport/auth/usrpwd/user", format!("\"{token}\"")),
            ("transport/auth/usrpwd/password", "\"any\"".to_owned()),
        ];
        let mut config = Config::default();
        for (setting, value) in settings {
            config.insert_json5(setting, &value).map_err(failed)?;
        }
        zenoh::open(config).await.map_err(failed)
    }

    async fn put(&self, tenant: &str) -> Result<Seen, DevError> {
        let key = format!("device-connect/{tenant}/cam-1/event/motion");
        let witness = self.member(tenant).await?;
        let heard = witness.declare_subscriber(&key).await.map_err(failed)?;
        tokio::time::sleep(SETTLE).await;
        let sender = self.member("acme").await?;
        sender.put(&key, "probe").await.map_err(failed)?;
        Ok(seen(timeout(WAIT, heard.recv_async()).await.is_ok()))
    }

    async fn subscribe(&self, tenant: &str, keys: &str) -> Result<Seen, DevError> {
        let listener = self.member("acme").await?;
        let heard = listener
            .declare_subscriber(keys)
            .allowed_origin(Locality::Remote)
            .await
            .map_err(failed)?;
        tokio::time::sleep(SETTLE).await;
        let sender = self.member(tenant).await?;
        let key = format!("device-connect/{tenant}/cam-1/event/x");
        sender.put(key, "probe").await.map_err(failed)?;
        Ok(seen(timeout(WAIT, heard.recv_async()).await.is_ok()))
    }

    async fn query(&self, tenant: &str, keys: &str) -> Result<Seen, DevError> {
        let device = self.member(tenant).await?;
        let key = format!("device-connect/{tenant}/cam-2/cmd");
        let own = key.clone();
        let _answering = device
            .declare_queryable(&key)
            .callback(move |query| {
                let (key, answer) = (own.clone(), "answer");
                tokio::spawn(async move { query.reply(key, answer).await });
            })
            .await
            .map_err(failed)?;
        tokio::time::sleep(SETTLE).await;
        let asking = self.member("acme").await?;
        let answers = asking.get(keys).await.map_err(failed)?;
        let answered =
            async { matches!(answers.recv_async().await, Ok(reply) if reply.result().is_ok()) };
        Ok(seen(timeout(WAIT, answered).await.unwrap_or(false)))
    }

    async fn liveliness(&self, tenant: &str, keys: &str) -> Result<Seen, DevError> {
        let device = self.member(tenant).await?;
        let key = format!("device-connect/{tenant}/cam-1");
        let _alive = device.liveliness().declare_token(key).await.map_err(failed)?;
        tokio::time::sleep(SETTLE).await;
        let asking = self.member("acme").await?;
        let answers = asking.liveliness().get(keys).await.map_err(failed)?;
        let answered =
            async { matches!(answers.recv_async().await, Ok(reply) if reply.result().is_ok()) };
        Ok(seen(timeout(WAIT, answered).await.unwrap_or(false)))
    }
}

/// Zenoh tells nobody that something was denied.
fn seen(arrived: bool) -> Seen {
    if arrived { Seen::Arrived } else { Seen::Nothing }
}

fn failed(error: impl std::fmt::Display) -> DevError {
    DevError::Client(error.to_string())
}
