//! The rows of NATS.

use super::environment::{DevError, Environment};
use super::matrix::{Row, Seen};
use async_nats::{Client, ConnectOptions, Event, ServerError, Subscriber};
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a message, or a refusal, is waited for.
const WAIT: Duration = Duration::from_millis(400);

/// A client that counts what the server refuses.
struct Actor {
    client: Client,
    refusals: Arc<AtomicUsize>,
}

impl Actor {
    async fn connect(environment: &Environment, token: String) -> Result<Self, DevError> {
        let refusals = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&refusals);
        let client = ConnectOptions::with_token(token)
            .event_callback(move |event| {
                let counter = Arc::clone(&counter);
                async move {
                    // Permission violations come as errors of the connection.
                    if matches!(event, Event::ServerError(ServerError::Other(_))) {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
            .connect(environment.nats_url())
            .await
            .map_err(failed)?;
        Ok(Self { client, refusals })
    }

    async fn subscribe(&self, subject: String) -> Result<Subscriber, DevError> {
        let subscriber = self.client.subscribe(subject).await.map_err(failed)?;
        settle(&self.client).await.map_err(failed)?;
        Ok(subscriber)
    }

    async fn publish(&self, subject: String) -> Result<(), DevError> {
        self.client.publish(subject, "probe".into()).await.map_err(failed)?;
        settle(&self.client).await.map_err(failed)
    }

    /// What became of something this client did, given where its effect would be seen.
    async fn seen(&self, before: usize, effect: &mut Subscriber) -> Seen {
        if tokio::time::timeout(WAIT, effect.next()).await.is_ok_and(|message| message.is_some()) {
            Seen::Arrived
        } else if self.refusals.load(Ordering::Relaxed) > before {
            Seen::Refused
        } else {
            Seen::Nothing
        }
    }

    fn refusals(&self) -> usize {
        self.refusals.load(Ordering::Relaxed)
    }
}

/// Waits until the server has worked off everything that the client sent so far, refusals included.
///
/// A flush only writes; draining a subscription waits for the server's answer to a PING.
///
/// # Errors
/// What the client says, above all that it is no longer connected.
pub async fn settle(client: &Client) -> Result<(), async_nats::Error> {
    let mut probe = client.subscribe(client.new_inbox()).await?;
    probe.drain().await?;
    while probe.next().await.is_some() {}
    Ok(())
}

/// The clients: a member and a device of one tenant, a member of the other.
struct Cast {
    member: Actor,
    device: Actor,
    stranger: Actor,
}

pub(super) async fn measure(environment: &Environment) -> Result<Vec<Row>, DevError> {
    let cast = Cast {
        member: Actor::connect(environment, environment.token("acme", None, "member")?).await?,
        device: Actor::connect(environment, environment.token("acme", Some("cam-1"), "device")?)
            .await?,
        stranger: Actor::connect(environment, environment.token("globex", None, "member")?).await?,
    };
    Ok(vec![
        row("publish an event", cast.publish("acme").await?, cast.publish("globex").await?),
        row("subscribe to events", cast.subscribe("acme").await?, cast.subscribe("globex").await?),
        row("call a device", cast.request("acme").await?, cast.request("globex").await?),
        row("read others' replies", cast.snoop("acme").await?, cast.snoop("globex").await?),
        row(
            "subscribe with a wildcard over tenants",
            cast.wildcard("device-connect.acme.>").await?,
            cast.wildcard("device-connect.>").await?,
        ),
        row(
            "subscribe to everything",
            cast.wildcard("device-connect.acme.*.event.>").await?,
            cast.wildcard(">").await?,
        ),
    ])
}

fn row(action: &'static str, own: Seen, foreign: Seen) -> Row {
    Row { backend: "nats", action, own, foreign }
}

impl Cast {
    /// Somebody of the tenant, to see what arrives there.
    fn witness(&self, tenant: &str) -> &Actor {
        if tenant == "acme" { &self.member } else { &self.stranger }
    }

    /// A device of acme publishes an event of the tenant's.
    async fn publish(&self, tenant: &str) -> Result<Seen, DevError> {
        let subject = format!("device-connect.{tenant}.cam-1.event.motion");
        let mut effect = self.witness(tenant).subscribe(subject.clone()).await?;
        let before = self.device.refusals();
        self.device.publish(subject).await?;
        Ok(self.device.seen(before, &mut effect).await)
    }

    /// A device of acme subscribes to the tenant's events, and somebody there publishes one.
    async fn subscribe(&self, tenant: &str) -> Result<Seen, DevError> {
        let before = self.device.refusals();
        let mut effect =
            self.device.subscribe(format!("device-connect.{tenant}.*.event.>")).await?;
        self.witness(tenant).publish(format!("device-connect.{tenant}.cam-2.event.x")).await?;
        Ok(self.device.seen(before, &mut effect).await)
    }

    /// A device of acme calls a device of the tenant, which would answer.
    async fn request(&self, tenant: &str) -> Result<Seen, DevError> {
        let subject = format!("device-connect.{tenant}.cam-2.cmd");
        let callee = self.witness(tenant);
        let mut calls = callee.subscribe(subject.clone()).await?;
        let before = self.device.refusals();
        let answering = async {
            if let Ok(Some(call)) = tokio::time::timeout(WAIT, calls.next()).await
                && let Some(reply) = call.reply
            {
                let _ = callee.client.publish(reply, "answer".into()).await;
                let _ = callee.client.flush().await;
            }
        };
        let calling =
            tokio::time::timeout(WAIT, self.device.client.request(subject, "call".into()));
        let (answer, ()) = tokio::join!(calling, answering);
        Ok(match answer {
            Ok(Ok(_)) => Seen::Arrived,
            _ if self.device.refusals() > before => Seen::Refused,
            _ => Seen::Nothing,
        })
    }

    /// A member of acme listens to all inboxes it can name, while a reply is sent within the tenant.
    async fn snoop(&self, tenant: &str) -> Result<Seen, DevError> {
        let before = self.member.refusals();
        let mut effect = self.member.subscribe("_INBOX.>".to_owned()).await?;
        let somebody = if tenant == "acme" { &self.device } else { &self.stranger };
        let subject = format!("device-connect.{tenant}.cam-3.cmd");
        let mut calls = self.witness(tenant).subscribe(subject.clone()).await?;
        let inbox = somebody.client.new_inbox();
        let _replies = somebody.subscribe(inbox.clone()).await?;
        somebody.client.publish_with_reply(subject, inbox, "call".into()).await.map_err(failed)?;
        if let Ok(Some(call)) = tokio::time::timeout(WAIT, calls.next()).await
            && let Some(reply) = call.reply
        {
            let callee = self.witness(tenant);
            callee.client.publish(reply, "answer".into()).await.map_err(failed)?;
            callee.client.flush().await.map_err(failed)?;
        }
        Ok(self.member.seen(before, &mut effect).await)
    }

    /// A member of acme subscribes to a wildcard; what counts across tenants is an event of globex,
    /// within the tenant one of acme.
    async fn wildcard(&self, subject: &str) -> Result<Seen, DevError> {
        let tenant = if subject.contains("acme") { "acme" } else { "globex" };
        let before = self.member.refusals();
        let mut effect = self.member.subscribe(subject.to_owned()).await?;
        let publisher = if tenant == "acme" { &self.device } else { &self.stranger };
        publisher.publish(format!("device-connect.{tenant}.cam-1.event.y")).await?;
        Ok(self.member.seen(before, &mut effect).await)
    }
}

fn failed(error: impl std::fmt::Display) -> DevError {
    DevError::Client(error.to_string())
}
