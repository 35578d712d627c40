//! A client of MQTT, and what it hears.

use super::wire::{Hello, Incoming, Listener, Speaker, v5, v311};
use crate::verify::deployment::Party;
use crate::verify::ear::{Ear, Heard, Mark, random_word};
use crate::verify::identity::Shown;
use crate::verify::probe::{ANSWER, Client, Listening};
use crate::verify::report::Cannot;
use data_encoding::BASE64;
use rumqttc::v5::mqttbytes::v5::ConnAckProperties;
use rumqttc::{TlsConfiguration, Transport};
use secrecy::ExposeSecret;
use serde_json::json;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex as AsyncMutex, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

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
    client: Speaker,
    answers: AsyncMutex<UnboundedReceiver<Answer>>,
    heard: Arc<Mutex<Ears>>,
    /// What the broker said of itself, if anything.
    offers: Option<Box<ConnAckProperties>>,
    ended: watch::Receiver<bool>,
    driver: JoinHandle<()>,
}

/// What a broker answers.
enum Answer {
    Connected(Option<Box<ConnAckProperties>>),
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
    /// Where the answer to a question comes, and who waits for it.
    asked: Option<(String, oneshot::Sender<Vec<u8>>)>,
}

impl Mqtt {
    pub(super) async fn connect(party: &Party, manner: Manner) -> Result<Self, Cannot> {
        let (client, events) = open(party, manner)?;
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
        if matches!(self.client, Speaker::V311(_)) {
            return false;
        }
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

    /// Says goodbye, and keeps its subscription. Once the broker has closed the connection, what comes
    /// waits in the session.
    pub(super) async fn leave(mut self, listening: Listening) -> Result<(), Cannot> {
        self.client.disconnect().await;
        let closed = self.ends(ANSWER).await;
        self.driver.abort();
        let _ = (&mut self.driver).await;
        drop(listening);
        if closed {
            return Ok(());
        }
        Err(Cannot::Tell("the broker does not close a connection that says goodbye".to_owned()))
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

    /// Whether the broker grants it.
    async fn subscribe(&self, filter: &str) -> Result<bool, Cannot> {
        let mut answers = self.answers.lock().await;
        if !self.client.subscribe(filter).await {
            return Ok(false);
        }
        let granted = answer(&mut answers, |answer| match answer {
            Answer::Subscribed(granted) => Some(granted),
            _ => None,
        });
        Ok(granted.await?.unwrap_or(false))
    }

    fn ears(&self) -> MutexGuard<'_, Ears> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(&self, sender: UnboundedSender<Heard>) {
        let mut inside = self.ears();
        for heard in inside.early.drain(..) {
            let _ = sender.send(heard);
        }
        inside.ears.push(sender);
    }

    /// A broker that ends the connection over it has not taken it either.
    async fn send(&self, name: &str, payload: String, retain: bool) -> Result<bool, Cannot> {
        let mut answers = self.answers.lock().await;
        if !self.client.publish(name, payload, retain).await {
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
        let ear = Ear::new(|sender| {
            self.attach(sender);
            Subscription { client: self.client.clone(), filter: filter.to_owned() }
        });
        let refused = !self.subscribe(filter).await?;
        Ok(Listening { ear, refused })
    }

    async fn publish(&self, name: &str, mark: &Mark) -> Result<bool, Cannot> {
        self.send(name, mark.text().to_owned(), false).await
    }

    async fn ask(&self, name: &str, question: &str, within: Duration) -> Option<Vec<u8>> {
        let id = Uuid::new_v4().simple();
        let reply_to = format!("_reply/{id}");
        let (sender, answered) = oneshot::channel();
        self.ears().asked = Some((reply_to.clone(), sender));
        let _subscription = match self.subscribe(&reply_to).await {
            Ok(true) => Subscription { client: self.client.clone(), filter: reply_to.clone() },
            _ => return None,
        };
        let question = json!({"data": BASE64.encode(question.as_bytes()), "reply_to": reply_to,
            "request_id": id.to_string()});
        self.send(name, question.to_string(), false).await.ok().filter(|taken| *taken)?;
        timeout(within, answered).await.ok()?.ok()
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Ends with its ear.
struct Subscription {
    client: Speaker,
    filter: String,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.client.unsubscribe(&self.filter);
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
    mut events: Listener,
    answers: UnboundedSender<Answer>,
    ears: Arc<Mutex<Ears>>,
    alive: watch::Sender<bool>,
) {
    let mut systems = 0;
    loop {
        let answer = match events.next().await {
            Incoming::Connected(offers) => Answer::Connected(offers),
            Incoming::Subscribed(granted) => Answer::Subscribed(granted),
            Incoming::Published(taken) => Answer::Published(taken),
            Incoming::Message { topic, payload } => {
                if let Some(asked) = take_asked(&ears, &topic) {
                    let _ = asked.send(payload);
                    continue;
                }
                let mark = Mark::read(&payload);
                // Questions to the broker may be anybody's; its answers are its own.
                let is_answer = topic.starts_with("$CONTROL/") && topic.ends_with("/response");
                let is_systems = topic.starts_with("$SYS/") || is_answer;
                if is_systems {
                    systems += 1;
                }
                if mark.is_some() || (is_systems && systems <= MAX_SYSTEM) {
                    tell(&ears, &Heard { mark, reply: None, name: Some(topic) });
                }
                continue;
            }
            Incoming::Other => continue,
            Incoming::Ended(why) => {
                let _ = answers.send(Answer::Failed(why));
                let _ = alive.send(true);
                return;
            }
        };
        if answers.send(answer).is_err() {
            return;
        }
    }
}

/// Who waits for an answer that comes to this topic.
fn take_asked(ears: &Mutex<Ears>, topic: &str) -> Option<oneshot::Sender<Vec<u8>>> {
    let mut inside = ears.lock().unwrap_or_else(PoisonError::into_inner);
    inside.asked.take_if(|(reply_to, _)| reply_to == topic).map(|(_, asked)| asked)
}

fn tell(ears: &Mutex<Ears>, heard: &Heard) {
    let mut inside = ears.lock().unwrap_or_else(PoisonError::into_inner);
    inside.ears.retain(|ear| ear.send(heard.clone()).is_ok());
    if inside.ears.is_empty() && inside.early.len() < MAX_SYSTEM {
        inside.early.push(heard.clone());
    }
}

fn open(party: &Party, manner: Manner) -> Result<(Speaker, Listener), Cannot> {
    let url = party.urls.first().map(String::as_str).unwrap_or_default();
    let (host, port, encrypted) = host_and_port(url)
        .ok_or_else(|| Cannot::Tell(format!("'{url}' is no address such as mqtts://host:8883")))?;
    let login = match &party.identity.shown {
        Shown::Nothing => None,
        Shown::Password { user, password } => Some((user.as_str(), password.expose_secret())),
        Shown::Token(token) => Some(("any", token.expose_secret())),
        Shown::Creds(_) => {
            return Err(Cannot::Tell("a .creds file is for NATS; use another".to_owned()));
        }
    };
    let transport = if encrypted {
        let tls = party.identity.tls(party.authorities.as_ref()).map_err(Cannot::Tell)?;
        Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls)))
    } else {
        Transport::tcp()
    };
    let Manner { will, id, lasts } = manner;
    let id = id.unwrap_or_else(|| format!("{}{}", party.client_id_prefix, random_word()));
    let hello = Hello { id, host, port, transport, login, will, lasts };
    Ok(if party.is_mqtt_311 { v311(hello) } else { v5(hello) })
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
