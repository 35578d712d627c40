//! The rows of MQTT.

use super::environment::{DevError, Environment};
use super::matrix::{Row, Seen};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, LastWill, Packet, PubAckReason, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a message, or a refusal, is waited for.
const WAIT: Duration = Duration::from_millis(400);

/// How long an answer may take that always comes.
const ANSWER: Duration = Duration::from_secs(5);

/// Requests that wait for the client's loop.
const REQUESTS: usize = 32;

/// A client of MQTT 5, and what it hears.
struct Actor {
    client: AsyncClient,
    heard: UnboundedReceiver<Packet>,
    driver: JoinHandle<()>,
}

/// How a client differs from others.
#[derive(Default)]
struct Manner {
    will: Option<String>,
    /// With this id, and a session that lives on.
    lasting: Option<&'static str>,
}

impl Actor {
    async fn connect(
        environment: &Environment,
        token: String,
        manner: Manner,
    ) -> Result<Self, DevError> {
        let address = environment.mqtt_address();
        let id = manner.lasting.unwrap_or_default();
        let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
        options.set_credentials("any", token).set_clean_start(manner.lasting.is_none());
        if manner.lasting.is_some() {
            options.set_session_expiry_interval(Some(60));
        }
        if let Some(topic) = manner.will {
            options.set_last_will(LastWill::new(topic, "gone", QoS::AtLeastOnce, false, None));
        }
        let (client, events) = AsyncClient::new(options, REQUESTS);
        let (sender, heard) = unbounded_channel();
        let driver = tokio::spawn(drive(events, sender));
        let mut actor = Self { client, heard, driver };
        actor.answer(|packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await?;
        Ok(actor)
    }

    /// Waits for an answer that always comes.
    async fn answer<T>(
        &mut self,
        mut wanted: impl FnMut(&Packet) -> Option<T>,
    ) -> Result<T, DevError> {
        let waiting = async {
            while let Some(packet) = self.heard.recv().await {
                if let Some(found) = wanted(&packet) {
                    return Ok(found);
                }
            }
            Err(failed("the broker ended the connection"))
        };
        timeout(ANSWER, waiting).await.map_err(|_| failed("the broker does not answer"))?
    }

    /// Subscribes, and says whether the broker granted it.
    async fn subscribe(&mut self, filter: &str) -> Result<bool, DevError> {
        let mut wanted = Filter::new(filter, QoS::AtLeastOnce);
        wanted.retain_forward_rule = RetainForwardRule::OnEverySubscribe;
        self.client.subscribe_many([wanted]).await.map_err(failed)?;
        self.answer(|packet| match packet {
            Packet::SubAck(ack) => {
                Some(matches!(ack.return_codes.first(), Some(SubscribeReasonCode::Success(_))))
            }
            _ => None,
        })
        .await
    }

    /// Publishes, and says whether the broker took it.
    async fn publish(&mut self, topic: &str, retain: bool) -> Result<bool, DevError> {
        let sent = self.client.publish(topic, QoS::AtLeastOnce, retain, "probe").await;
        sent.map_err(failed)?;
        self.answer(|packet| match packet {
            Packet::PubAck(ack) => Some(matches!(
                ack.reason,
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers
            )),
            _ => None,
        })
        .await
    }

    /// Whether a message of this topic arrives.
    async fn hears(&mut self, topic: &str) -> bool {
        let waiting = async {
            while let Some(packet) = self.heard.recv().await {
                if matches!(&packet, Packet::Publish(publish) if publish.topic == topic) {
                    return true;
                }
            }
            false
        };
        timeout(WAIT, waiting).await.unwrap_or(false)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Keeps a client going, until its connection ends.
async fn drive(mut events: EventLoop, heard: tokio::sync::mpsc::UnboundedSender<Packet>) {
    while let Ok(event) = events.poll().await {
        if let Event::Incoming(packet) = event
            && heard.send(packet).is_err()
        {
            return;
        }
    }
}

/// What came of it, given whether the broker agreed and the effect was there.
fn seen(agreed: bool, effect: bool) -> Seen {
    match (effect, agreed) {
        (true, _) => Seen::Arrived,
        (false, false) => Seen::Refused,
        (false, true) => Seen::Nothing,
    }
}

pub(super) async fn measure(environment: &Environment) -> Result<Vec<Row>, DevError> {
    let cast = Cast(environment);
    Ok(vec![
        row("publish an event", cast.publish("acme").await?, cast.publish("globex").await?),
        row("subscribe to events", cast.subscribe("acme").await?, cast.subscribe("globex").await?),
        row(
            "subscribe with a wildcard over tenants",
            cast.wildcard("device-connect/acme/#").await?,
            cast.wildcard("device-connect/+/#").await?,
        ),
        row(
            "subscribe to everything",
            cast.wildcard("device-connect/acme/+/event/#").await?,
            cast.wildcard("#").await?,
        ),
        row("read what is retained", cast.retained("acme").await?, cast.retained("globex").await?),
        row("leave a will", cast.will("acme").await?, cast.will("globex").await?),
        row(
            "resume a session by its id",
            cast.session("acme").await?,
            cast.session("globex").await?,
        ),
    ])
}

fn row(action: &'static str, own: Seen, foreign: Seen) -> Row {
    Row { backend: "mqtt", action, own, foreign }
}

/// The clients: a device of acme, and somebody of either tenant to see what arrives there.
struct Cast<'a>(&'a Environment);

impl Cast<'_> {
    async fn device(&self, manner: Manner) -> Result<Actor, DevError> {
        let token = self.0.token("acme", Some("cam-1"), "device")?;
        Actor::connect(self.0, token, manner).await
    }

    async fn member(&self, tenant: &str, manner: Manner) -> Result<Actor, DevError> {
        Actor::connect(self.0, self.0.token(tenant, None, "member")?, manner).await
    }

    async fn publish(&self, tenant: &str) -> Result<Seen, DevError> {
        let topic = format!("device-connect/{tenant}/cam-1/event/motion");
        let mut witness = self.member(tenant, Manner::default()).await?;
        witness.subscribe(&topic).await?;
        let agreed = self.device(Manner::default()).await?.publish(&topic, false).await?;
        Ok(seen(agreed, witness.hears(&topic).await))
    }

    async fn subscribe(&self, tenant: &str) -> Result<Seen, DevError> {
        let topic = format!("device-connect/{tenant}/cam-2/event/x");
        let mut device = self.device(Manner::default()).await?;
        let agreed = device.subscribe(&format!("device-connect/{tenant}/+/event/#")).await?;
        self.member(tenant, Manner::default()).await?.publish(&topic, false).await?;
        Ok(seen(agreed, device.hears(&topic).await))
    }

    /// What counts across tenants is an event of globex, within the tenant one of acme.
    async fn wildcard(&self, filter: &str) -> Result<Seen, DevError> {
        let tenant = if filter.contains("acme") { "acme" } else { "globex" };
        let topic = format!("device-connect/{tenant}/cam-1/event/y");
        let mut member = self.member("acme", Manner::default()).await?;
        let agreed = member.subscribe(filter).await?;
        self.member(tenant, Manner::default()).await?.publish(&topic, false).await?;
        Ok(seen(agreed, member.hears(&topic).await))
    }

    async fn retained(&self, tenant: &str) -> Result<Seen, DevError> {
        let topic = format!("device-connect/{tenant}/cam-2/event/retained");
        self.member(tenant, Manner::default()).await?.publish(&topic, true).await?;
        let mut member = self.member("acme", Manner::default()).await?;
        let agreed = member.subscribe(&topic).await?;
        Ok(seen(agreed, member.hears(&topic).await))
    }

    async fn will(&self, tenant: &str) -> Result<Seen, DevError> {
        let topic = format!("device-connect/{tenant}/cam-1/event/gone");
        let mut witness = self.member(tenant, Manner::default()).await?;
        witness.subscribe(&topic).await?;
        let will = Manner { will: Some(topic.clone()), ..Manner::default() };
        // Whoever cannot say goodbye leaves a will; a refused one has no connection to lose.
        let agreed = self.device(will).await.is_ok();
        Ok(seen(agreed, witness.hears(&topic).await))
    }

    /// A session of the tenant waits for a message; then a member of acme connects with its id.
    async fn session(&self, tenant: &str) -> Result<Seen, DevError> {
        const ID: &str = "the-same-id";
        let topic = format!("device-connect/{tenant}/cam-3/event/queued");
        let lasting = || Manner { lasting: Some(ID), ..Manner::default() };
        let mut owner = self.member(tenant, lasting()).await?;
        owner.subscribe(&topic).await?;
        drop(owner);
        let mut publisher = self.member(tenant, Manner::default()).await?;
        publisher.publish(&topic, false).await?;
        let mut resumed = self.member("acme", lasting()).await?;
        Ok(seen(true, resumed.hears(&topic).await))
    }
}

fn failed(error: impl std::fmt::Display) -> DevError {
    DevError::Client(error.to_string())
}
