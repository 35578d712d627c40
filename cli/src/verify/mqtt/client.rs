//! A client of MQTT 5.

use crate::verify::deployment::Party;
use crate::verify::ear::{Ear, Heard, Mark, random_word};
use crate::verify::identity::Shown;
use crate::verify::probe::{ANSWER, Client, Listening};
use crate::verify::report::Cannot;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAckProperties, Filter, LastWill, LastWillProperties, Packet, PubAckReason,
    PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use secrecy::ExposeSecret;
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Requests that wait for the client's loop.
const REQUESTS: usize = 32;

/// Bytes of a message: what is larger, a broker does not send. Ours are far smaller.
const MAX_MESSAGE: u32 = 256 * 1024;

/// How long a broker keeps what is left there by a run that is killed, in seconds.
const KEPT: u32 = 60;

/// Messages of the broker's own that are looked at.
const MAX_SYSTEM: usize = 64;

/// How a client differs from others.
#[derive(Default)]
pub(super) struct Manner {
    pub(super) will: Option<(String, Mark)>,
    /// With this client id.
    pub(super) id: Option<String>,
    /// With a session that lives on, or one that does.
    pub(super) lasts: bool,
}

/// A client, and what it hears.
pub(super) struct Mqtt {
    party: Party,
    client: AsyncClient,
    answers: AsyncMutex<UnboundedReceiver<Answer>>,
    heard: Arc<Mutex<Ears>>,
    /// What the broker said of itself, if anything.
    offers: Option<ConnAckProperties>,
    ended: watch::Receiver<bool>,
    driver: JoinHandle<()>,
}

/// What a broker answers.
enum Answer {
    Connected(Option<ConnAckProperties>),
    Subscribed(bool),
    Published(bool),
    Failed(String),
}

/// Who gets what is heard.
#[derive(Default)]
struct Ears {
    ears: Vec<UnboundedSender<Heard>>,
    /// What came before the first of them listened.
    early: Vec<Heard>,
}

impl Mqtt {
    pub(super) async fn connect(party: &Party, manner: Manner) -> Result<Self, Cannot> {
        let options = options(party, manner)?;
        let (client, events) = AsyncClient::new(options, REQUESTS);
        let (sender, mut answers) = unbounded_channel();
        let (alive, ended) = watch::channel(false);
        let heard = Arc::new(Mutex::new(Ears::default()));
        let driver = tokio::spawn(drive(events, sender, Arc::clone(&heard), alive));
        let first = timeout(ANSWER * 2, answers.recv()).await;
        let answers = AsyncMutex::new(answers);
        let offers = match first {
            Ok(Some(Answer::Connected(offers))) => offers,
            other => {
                driver.abort();
                return Err(Cannot::Tell(match other {
                    Ok(Some(Answer::Failed(why))) => why,
                    Ok(_) => "the broker ended the connection".to_owned(),
                    Err(_) => "the broker does not answer".to_owned(),
                }));
            }
        };
        Ok(Self { party: party.clone(), client, answers, heard, offers, ended, driver })
    }

    /// Whether the broker keeps retained messages.
    pub(super) fn retains(&self) -> bool {
        self.offers.as_ref().and_then(|offers| offers.retain_available) != Some(0)
    }

    /// Whether it has shared subscriptions.
    pub(super) fn shares(&self) -> bool {
        self.offers.as_ref().and_then(|offers| offers.shared_subscription_available) != Some(0)
    }

    /// Whether it lets sessions outlive their connection.
    pub(super) fn keeps_sessions(&self) -> bool {
        self.offers.as_ref().and_then(|offers| offers.session_expiry_interval) != Some(0)
    }

    /// Whether the broker ends the connection within this time.
    pub(super) async fn ends(&self, within: Duration) -> bool {
        let mut ended = self.ended.clone();
        timeout(within, ended.wait_for(|ended| *ended)).await.is_ok()
    }

    /// Goes away without a word, and keeps its subscription.
    pub(super) async fn vanish(mut self, listening: Listening) {
        self.driver.abort();
        let _ = (&mut self.driver).await;
        drop(listening);
    }

    /// What comes without having been subscribed to on this connection.
    pub(super) fn inherited(&self) -> Ear {
        Ear::new(|sender| self.attach(sender))
    }

    /// Keeps a message at the broker, or removes what is kept there.
    pub(super) async fn retain(&self, name: &str, mark: Option<&Mark>) -> Result<bool, Cannot> {
        let payload = mark.map(|mark| mark.text().to_owned()).unwrap_or_default();
        self.send(name, payload, true).await
    }

    /// Asks a mosquitto about its clients, which answers administrators on a topic below `$CONTROL`.
    pub(super) async fn list_clients(&self) -> Result<bool, Cannot> {
        let question = json!({"commands": [{"command": "listClients", "count": 1}]});
        self.send("$CONTROL/dynamic-security/v1", question.to_string(), false).await
    }

    fn attach(&self, sender: UnboundedSender<Heard>) {
        let mut inside = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for heard in inside.early.drain(..) {
            let _ = sender.send(heard);
        }
        inside.ears.push(sender);
    }

    /// A broker that ends the connection over it has not taken it either.
    async fn send(&self, name: &str, payload: String, retain: bool) -> Result<bool, Cannot> {
        let mut answers = self.answers.lock().await;
        let properties = PublishProperties {
            message_expiry_interval: Some(KEPT),
            ..PublishProperties::default()
        };
        let qos = QoS::AtLeastOnce;
        let sent =
            self.client.publish_with_properties(name, qos, retain, payload, properties).await;
        if sent.is_err() {
            return Ok(false);
        }
        let taken = answer(&mut answers, |answer| match answer {
            Answer::Published(taken) => Some(taken),
            _ => None,
        });
        Ok(taken.await?.unwrap_or(false))
    }
}

impl Client for Mqtt {
    async fn again(&self) -> Result<Self, Cannot> {
        Self::connect(&self.party, Manner::default()).await
    }

    async fn listen(&self, filter: &str) -> Result<Listening, Cannot> {
        let mut answers = self.answers.lock().await;
        let ear = Ear::new(|sender| {
            self.attach(sender);
            Subscription { client: self.client.clone(), filter: filter.to_owned() }
        });
        let mut wanted = Filter::new(filter, QoS::AtLeastOnce);
        wanted.retain_forward_rule = RetainForwardRule::OnEverySubscribe;
        if self.client.subscribe_many([wanted]).await.is_err() {
            return Ok(Listening { ear, refused: true });
        }
        let granted = answer(&mut answers, |answer| match answer {
            Answer::Subscribed(granted) => Some(granted),
            _ => None,
        });
        let refused = !granted.await?.unwrap_or(false);
        Ok(Listening { ear, refused })
    }

    async fn publish(&self, name: &str, mark: &Mark) -> Result<bool, Cannot> {
        self.send(name, mark.text().to_owned(), false).await
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Ends with its ear.
struct Subscription {
    client: AsyncClient,
    filter: String,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Its connection may have ended, and the subscription with it.
        let _ = self.client.try_unsubscribe(self.filter.clone());
    }
}

/// Waits for an answer that always comes; `None` if the connection ends instead.
async fn answer<T>(
    answers: &mut UnboundedReceiver<Answer>,
    wanted: impl Fn(Answer) -> Option<T>,
) -> Result<Option<T>, Cannot> {
    let waiting = async {
        while let Some(answer) = answers.recv().await {
            if let Some(found) = wanted(answer) {
                return Some(found);
            }
        }
        None
    };
    let answered = timeout(ANSWER, waiting).await;
    answered.map_err(|_| Cannot::Tell("the broker does not answer any more".to_owned()))
}

/// Keeps a client going, until its connection ends.
async fn drive(
    mut events: EventLoop,
    answers: UnboundedSender<Answer>,
    ears: Arc<Mutex<Ears>>,
    alive: watch::Sender<bool>,
) {
    let mut systems = 0;
    loop {
        let answer = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(ack))) => Answer::Connected(ack.properties),
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                let granted =
                    |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
                Answer::Subscribed(ack.return_codes.iter().all(granted))
            }
            Ok(Event::Incoming(Packet::PubAck(ack))) => Answer::Published(matches!(
                ack.reason,
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers
            )),
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let mark = Mark::read(&publish.payload);
                let is_systems =
                    publish.topic.starts_with(b"$SYS/") || publish.topic.starts_with(b"$CONTROL/");
                if is_systems {
                    systems += 1;
                }
                if mark.is_some() || (is_systems && systems <= MAX_SYSTEM) {
                    let name = String::from_utf8_lossy(&publish.topic).into_owned();
                    tell(&ears, &Heard { mark, reply: None, name: Some(name) });
                }
                continue;
            }
            Ok(_) => continue,
            Err(error) => {
                let _ = answers.send(Answer::Failed(crate::commands::causes(&error)));
                let _ = alive.send(true);
                return;
            }
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}

fn tell(ears: &Mutex<Ears>, heard: &Heard) {
    let mut inside = ears.lock().unwrap_or_else(PoisonError::into_inner);
    inside.ears.retain(|ear| ear.send(heard.clone()).is_ok());
    if inside.ears.is_empty() && inside.early.len() < MAX_SYSTEM {
        inside.early.push(heard.clone());
    }
}

fn options(party: &Party, manner: Manner) -> Result<MqttOptions, Cannot> {
    let url = party.urls.first().map(String::as_str).unwrap_or_default();
    let (host, port, encrypted) = host_and_port(url)
        .ok_or_else(|| Cannot::Tell(format!("'{url}' is no address such as mqtts://host:8883")))?;
    let id = manner.id.unwrap_or_else(|| format!("{}{}", party.client_id_prefix, random_word()));
    let mut options = MqttOptions::new(id, host, port);
    options.set_max_packet_size(Some(MAX_MESSAGE));
    options.set_clean_start(!manner.lasts);
    if manner.lasts {
        options.set_session_expiry_interval(Some(KEPT));
    }
    if let Some((topic, mark)) = manner.will {
        let properties = LastWillProperties {
            delay_interval: None,
            payload_format_indicator: None,
            message_expiry_interval: Some(KEPT),
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let (payload, qos) = (mark.text().to_owned(), QoS::AtLeastOnce);
        options.set_last_will(LastWill::new(topic, payload, qos, false, Some(properties)));
    }
    match &party.identity.shown {
        Shown::Nothing => {}
        Shown::Password { user, password } => {
            options.set_credentials(user, password.expose_secret());
        }
        Shown::Token(token) => {
            options.set_credentials("any", token.expose_secret());
        }
        Shown::Creds(_) => {
            return Err(Cannot::Tell("a .creds file is for NATS; use another".to_owned()));
        }
    }
    if encrypted {
        let tls = party.identity.tls(party.authorities.as_ref()).map_err(Cannot::Tell)?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
    }
    Ok(options)
}

/// The parts of `mqtt://host:1883`, and whether it is encrypted.
fn host_and_port(url: &str) -> Option<(&str, u16, bool)> {
    let (scheme, rest) = url.split_once("://")?;
    let encrypted = scheme == "mqtts";
    let rest = rest.split('/').next()?;
    let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (rest, if encrypted { 8883 } else { 1883 }),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some((host, port, encrypted))
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn addresses_are_taken_apart() {
        for (url, parts) in [
            ("mqtt://127.0.0.1:1884", Some(("127.0.0.1", 1884, false))),
            ("mqtts://broker.example", Some(("broker.example", 8883, true))),
            ("mqtts://[::1]:8884/", Some(("::1", 8884, true))),
            ("mqtt://[::1]", Some(("::1", 1883, false))),
            ("mqtt://:1883", None),
            ("mqtt://host:many", None),
        ] {
            assert_eq!(host_and_port(url), parts, "{url}");
        }
    }
}
