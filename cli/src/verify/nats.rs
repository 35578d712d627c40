//! The rows of NATS.

use super::deployment::{Pace, Party, Target};
use super::ear::{Ear, Heard, Mark, Space, random_word};
use super::identity::Shown;
use super::probe::{ANSWER, Client, Listening, Side, Sides, converse, hears_any, spy_on};
use super::registry;
use super::report::{Cannot, Judged, Seen, Trial};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{ConnectOptions, Event, ServerError, Subscriber};
use bulkhead_policy::Broker;
use futures::StreamExt;
use secrecy::ExposeSecret;
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// What the report calls it.
const BACKEND: &str = "nats";

/// Refusals that are kept.
const MAX_REFUSALS: usize = 256;

/// How long the message of a stream is kept that could not be removed.
const STREAM_AGE: Duration = Duration::from_secs(60);

/// How often something is looked at that takes its time.
const LOOK: Duration = Duration::from_millis(50);

/// Tries every row.
pub(super) async fn measure(target: &Target, pace: &Pace) -> Vec<Judged> {
    let space = |party: &Party| Space::new(Broker::Nats, &party.prefix);
    let sides = match Sides::connect(BACKEND, target, pace, space, Nats::connect).await {
        Ok(sides) => sides,
        Err(row) => return vec![row],
    };
    let wait = sides.wait;
    let mut rows = sides.messages().await;
    let group = random_word();
    rows.push(
        sides
            .shared("join the other tenant's queue group", async |client: &Nats, subject| {
                client.subscribe(subject, Some(&group)).await
            })
            .await,
    );
    rows.push(
        sides.each("call the other tenant's service", async |a, v| call(a, v, wait).await).await,
    );
    rows.push(
        sides.each("read the other tenant's replies", async |a, v| snoop(a, v, wait).await).await,
    );
    rows.push(
        sides
            .each("answer in the other tenant's place", async |a, v| forge(a, v, wait).await)
            .await,
    );
    rows.push(sides.each("use the system's subjects", async |a, v| system(a, v, wait).await).await);
    rows.push(
        sides
            .each("reach the other tenant's streams", async |a, v| {
                if target.jetstream {
                    stream(a, v, wait).await
                } else {
                    Err(Cannot::Apply("nats.jetstream is off in the file".to_owned()))
                }
            })
            .await,
    );
    rows.push(registry::judge(&sides).await);
    rows.extend(sides.uninvited(Nats::connect).await);
    rows
}

/// A client that keeps what the server refuses.
#[derive(Clone)]
pub(super) struct Nats {
    client: async_nats::Client,
    refusals: Arc<Mutex<Vec<String>>>,
}

impl Nats {
    async fn connect(party: &Party) -> Result<Self, Cannot> {
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&refusals);
        let mut options = ConnectOptions::new()
            .name("bulkhead-verify")
            .connection_timeout(ANSWER)
            .request_timeout(Some(ANSWER))
            .event_callback(move |event| {
                // Permission violations come as errors of the connection.
                if let Event::ServerError(ServerError::Other(error)) = event {
                    let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                    if noted.len() < MAX_REFUSALS {
                        noted.push(error);
                    }
                }
                std::future::ready(())
            });
        let identity = &party.identity;
        options = match &identity.shown {
            Shown::Nothing => options,
            Shown::Password { user, password } => {
                options.user_and_password(user.clone(), password.expose_secret().to_owned())
            }
            Shown::Token(token) => options.token(token.expose_secret().to_owned()),
            Shown::Creds(creds) => options
                .credentials(creds.expose_secret())
                .map_err(|_| Cannot::Tell("the .creds file cannot be read".to_owned()))?,
        };
        if party.authorities.is_some() || identity.certificate.is_some() {
            let tls = identity.tls(party.authorities.as_ref()).map_err(Cannot::Tell)?;
            options = options.tls_client_config(tls).require_tls(true);
        }
        if let Some(prefix) = &party.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        let client = timeout(ANSWER * 2, options.connect(party.urls.clone()))
            .await
            .map_err(|_| Cannot::Tell("the server does not answer".to_owned()))?
            .map_err(|error| Cannot::Tell(crate::commands::causes(&error)))?;
        Ok(Self { client, refusals })
    }

    /// Waits until the server has worked off what was sent so far.
    async fn settle(&self) -> Result<(), Cannot> {
        timeout(ANSWER, settle(&self.client))
            .await
            .map_err(|_| Cannot::Tell("the server does not answer any more".to_owned()))?
            .map_err(Cannot::tell)
    }

    /// Whether the server refused something about this subject.
    fn is_refused(&self, subject: &str) -> bool {
        self.is_refused_below(&format!("{subject}\""))
    }

    /// Whether it refused something below this subject.
    fn is_refused_below(&self, subject: &str) -> bool {
        let quoted = format!("\"{subject}");
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.iter().any(|refusal| refusal.contains(&quoted))
    }

    async fn subscribe(&self, subject: &str, group: Option<&str>) -> Result<Listening, Cannot> {
        let subject = subject.to_owned();
        let subscriber = match group {
            None => self.client.subscribe(subject.clone()).await,
            Some(group) => self.client.queue_subscribe(subject.clone(), group.to_owned()).await,
        };
        let subscriber = subscriber.map_err(Cannot::tell)?;
        self.settle().await?;
        let refused = self.is_refused(&subject);
        Ok(Listening { ear: ear(subscriber), refused })
    }

    async fn send(&self, subject: &str, reply: Option<&str>, mark: &Mark) -> Result<bool, Cannot> {
        let (subject, payload) = (subject.to_owned(), mark.text().to_owned().into());
        let sent = match reply {
            None => self.client.publish(subject.clone(), payload).await,
            Some(reply) => {
                self.client.publish_with_reply(subject.clone(), reply.to_owned(), payload).await
            }
        };
        sent.map_err(Cannot::tell)?;
        self.settle().await?;
        Ok(!self.is_refused(&subject))
    }
}

impl Client for Nats {
    /// A server refuses and leaves the connection as it is.
    async fn again(&self) -> Result<Self, Cannot> {
        Ok(self.clone())
    }

    async fn listen(&self, filter: &str) -> Result<Listening, Cannot> {
        self.subscribe(filter, None).await
    }

    async fn publish(&self, name: &str, mark: &Mark) -> Result<bool, Cannot> {
        self.send(name, None, mark).await
    }

    async fn ask(&self, subject: &str, question: &str, within: Duration) -> Option<Vec<u8>> {
        let asked = self.client.request(subject.to_owned(), question.to_owned().into());
        Some(timeout(within, asked).await.ok()?.ok()?.payload.to_vec())
    }
}

/// Waits until the server has worked off everything that the client sent so far, refusals included.
///
/// A flush only writes; draining a subscription waits for the server's answer to a PING.
///
/// # Errors
/// What the client says, above all that it is no longer connected.
pub async fn settle(client: &async_nats::Client) -> Result<(), async_nats::Error> {
    let mut probe = client.subscribe(client.new_inbox()).await?;
    probe.drain().await?;
    while probe.next().await.is_some() {}
    Ok(())
}

/// A task that ends with its owner.
struct Reading(JoinHandle<()>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a subscription brings, read at once so that the server does not wait for us.
fn ear(mut subscriber: Subscriber) -> Ear {
    Ear::new(|heard| {
        Reading(tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                let mark = Mark::read(&message.payload);
                // What the system says is no message of ours.
                let is_event = message.subject.starts_with("$SYS.ACCOUNT.")
                    || message.subject.starts_with("$SYS.SERVER.");
                let wanted = mark.is_some() || is_event;
                let reply = message.reply.map(|reply| reply.to_string());
                let name = Some(message.subject.to_string());
                if wanted && heard.send(Heard { mark, reply, name }).is_err() {
                    return;
                }
            }
        }))
    })
}

/// The attacker calls a service of the victim, which answers whoever it hears.
async fn call(attacker: &Side<Nats>, victim: &Side<Nats>, wait: Duration) -> Result<Trial, Cannot> {
    let subject = victim.space.fresh();
    let mut service = victim.hearer.listen(&subject).await?;
    let own = request(&victim.sender, victim, &subject, &mut service, ANSWER).await?;
    let foreign = request(&attacker.sender, victim, &subject, &mut service, wait).await?;
    Ok(Trial {
        note: None,
        own: Seen::of(own.answered, own.agreed),
        foreign: Seen::of(foreign.heard || foreign.answered, foreign.agreed),
        leak: format!(
            "{} called `{subject}`, and {}",
            attacker.name(),
            if foreign.answered {
                format!("{} answered", victim.name())
            } else {
                format!("the call came to {}", victim.name())
            }
        ),
    })
}

/// What became of a request.
struct Called {
    agreed: bool,
    heard: bool,
    answered: bool,
}

/// Sends a request, and answers it in the victim's place if it gets there.
async fn request(
    caller: &Nats,
    victim: &Side<Nats>,
    subject: &str,
    service: &mut Listening,
    within: Duration,
) -> Result<Called, Cannot> {
    let inbox = caller.client.new_inbox();
    let mut answers = caller.listen(&inbox).await?;
    let (asked, answer) = (Mark::new(), Mark::new());
    let agreed = caller.send(subject, Some(&inbox), &asked).await?;
    let wanted = |heard: &Heard| heard.mark.as_ref() == Some(&asked);
    let Some(heard) = service.ear.find(within, wanted).await else {
        return Ok(Called { agreed, heard: false, answered: false });
    };
    if let Some(reply) = &heard.reply {
        victim.hearer.send(reply, None, &answer).await?;
    }
    let answered = answers.ear.hears(&answer, within).await;
    Ok(Called { agreed, heard: true, answered })
}

/// The attacker listens to all inboxes that it can name, while the victim calls a service of its own.
async fn snoop(
    attacker: &Side<Nats>,
    victim: &Side<Nats>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let inbox = victim.sender.client.new_inbox();
    // `_INBOX.<random>.<random>`: the first belongs to the connection, and to the tenant what is before.
    let root = victim.party.inbox_prefix.as_deref().unwrap_or("_INBOX");
    let mut filters = vec![inbox.clone(), "_INBOX.>".to_owned(), format!("{root}.>")];
    filters.dedup();
    let mut spying = spy_on(&attacker.hearer, attacker, &filters).await?;
    let subject = victim.space.fresh();
    let mut service = victim.hearer.listen(&subject).await?;
    let mut answers = victim.sender.listen(&inbox).await?;
    let (asked, answer) = (Mark::new(), Mark::new());
    let mut agreed_within = victim.sender.send(&subject, Some(&inbox), &asked).await?;
    let wanted = |heard: &Heard| heard.mark.as_ref() == Some(&asked);
    if let Some(Heard { reply: Some(reply), .. }) = service.ear.find(ANSWER, wanted).await {
        agreed_within &= victim.hearer.send(&reply, None, &answer).await?;
    }
    let own = Seen::of(answers.ear.hears(&answer, ANSWER).await, agreed_within);
    sleep(wait).await;
    let arrived = hears_any(&mut spying.ears, &[asked, answer]).await;
    Ok(Trial {
        note: None,
        own,
        foreign: spying.end(attacker, arrived).await?,
        leak: format!(
            "{} subscribed to `{}`, and read the answer to a request of {}",
            attacker.name(),
            filters.join("`, `"),
            victim.name()
        ),
    })
}

/// The attacker publishes to the inbox in which the victim waits for an answer.
async fn forge(
    attacker: &Side<Nats>,
    victim: &Side<Nats>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let (subject, inbox) = (victim.space.fresh(), victim.sender.client.new_inbox());
    let mut service = victim.hearer.listen(&subject).await?;
    let mut answers = victim.sender.listen(&inbox).await?;
    let (asked, answer, forged) = (Mark::new(), Mark::new(), Mark::new());
    let mut agreed_within = victim.sender.send(&subject, Some(&inbox), &asked).await?;
    let wanted = |heard: &Heard| heard.mark.as_ref() == Some(&asked);
    let call = service.ear.find(ANSWER, wanted).await;
    let agreed = attacker.sender.send(&inbox, None, &forged).await?;
    if let Some(Heard { reply: Some(reply), .. }) = call {
        agreed_within &= victim.hearer.send(&reply, None, &answer).await?;
    }
    let own = Seen::of(answers.ear.hears(&answer, ANSWER).await, agreed_within);
    let arrived = answers.ear.hears(&forged, wait).await;
    Ok(Trial {
        note: None,
        own,
        foreign: Seen::of(arrived, agreed),
        leak: format!(
            "{} published to the inbox `{inbox}`, and {} took it for the answer to its request",
            attacker.name(),
            victim.name()
        ),
    })
}

/// The attacker listens to the server's events and asks the server what only its administrators may ask.
async fn system(
    attacker: &Side<Nats>,
    victim: &Side<Nats>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let filters = ["$SYS.>", "$SYS.ACCOUNT.>", "$SYS.SERVER.>"].map(str::to_owned);
    let mut spying = spy_on(&attacker.hearer, attacker, &filters).await?;
    // The server tells its administrators of each connection.
    let another = Nats::connect(&victim.party).await?;
    let name = victim.space.fresh();
    let mut listening = another.listen(&name).await?;
    let own = converse(&victim.sender, &name, &mut listening).await?.seen;
    sleep(wait).await;
    let mut leak = None;
    for ear in &mut spying.ears {
        let is_event = |heard: &Heard| heard.mark.is_none();
        if ear.find(Duration::ZERO, is_event).await.is_some() {
            leak = Some("heard the server's events".to_owned());
        }
    }
    let heard = spying.end(attacker, leak.is_some()).await?;
    drop(spying);
    let mut agreed = heard != Seen::Refused;
    for kind in ["", ".VARZ", ".ACCOUNTZ"] {
        let subject = format!("$SYS.REQ.SERVER.PING{kind}");
        let question = attacker.sender.client.request(subject.clone(), "".into());
        if let Ok(Ok(_)) = timeout(wait, question).await {
            leak = Some(format!("asked `{subject}`, and the server answered"));
        }
        agreed |= !attacker.sender.is_refused(&subject);
    }
    // Every account may ask for its own connections: nobody else's are among them.
    let question = json!({"subscriptions": true, "limit": 1024}).to_string();
    let connections =
        attacker.sender.client.request("$SYS.REQ.ACCOUNT.PING.CONNZ", question.into());
    if let Ok(Ok(answer)) = timeout(wait * 2, connections).await
        && String::from_utf8_lossy(&answer.payload).contains(&name)
    {
        leak = Some(format!(
            "asked `$SYS.REQ.ACCOUNT.PING.CONNZ`, and saw connections and subjects of {}",
            victim.name()
        ));
    }
    Ok(Trial {
        note: None,
        own,
        foreign: Seen::of(leak.is_some(), agreed),
        leak: format!("{} {}", attacker.name(), leak.unwrap_or_default()),
    })
}

/// The victim keeps a message in a stream; the attacker looks for the stream.
async fn stream(
    attacker: &Side<Nats>,
    victim: &Side<Nats>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    // A server says nothing to whoever may not ask.
    let sender = &victim.sender;
    if !sender.send("$JS.API.INFO", Some(&sender.client.new_inbox()), &Mark::new()).await? {
        return Err(Cannot::Apply(format!("{} may not use JetStream", victim.name())));
    }
    let name = random_word();
    let mut context = jetstream::new(sender.client.clone());
    context.set_timeout(ANSWER);
    let subject = victim.space.fresh();
    let config = |storage| Config {
        name: name.clone(),
        subjects: vec![subject.clone()],
        storage,
        max_messages: 1,
        max_bytes: 4096,
        max_age: STREAM_AGE,
        ..Config::default()
    };
    // A tenant may have room for one of them only.
    let mut made = context.create_stream(config(StorageType::Memory)).await;
    if matches!(&made, Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(_))) {
        made = context.create_stream(config(StorageType::File)).await;
    }
    if let Err(error) = made {
        return Err(absent(victim, error.kind(), &error.to_string()));
    }
    let tried = reach_stream(attacker, victim, &name, &subject, wait).await;
    // Whatever came of it, nothing is left behind.
    match context.delete_stream(&name).await {
        Ok(_) => tried,
        Err(error) => {
            let left = format!(
                "the stream {name} of {} could not be removed: {error}; remove it",
                victim.name()
            );
            Trial::left_behind(tried, left)
        }
    }
}

/// Why a tenant can have no stream: because it has no JetStream, or because something went wrong.
fn absent(victim: &Side<Nats>, kind: CreateStreamErrorKind, error: &str) -> Cannot {
    let none = match kind {
        CreateStreamErrorKind::JetStreamUnavailable => true,
        CreateStreamErrorKind::JetStream(error) => {
            let code = error.error_code();
            code == ErrorCode::JETSTREAM_NOT_ENABLED
                || code == ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        }
        CreateStreamErrorKind::TimedOut => victim.sender.is_refused_below("$JS.API."),
        _ => false,
    };
    if none {
        Cannot::Apply(format!("{} has no JetStream", victim.name()))
    } else {
        Cannot::Tell(format!(
            "{} could not make a stream: {error}; nats.jetstream = false does without",
            victim.name()
        ))
    }
}

async fn reach_stream(
    attacker: &Side<Nats>,
    victim: &Side<Nats>,
    name: &str,
    subject: &str,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let stored = Mark::new();
    victim.sender.publish(subject, &stored).await?;
    // A stream keeps what was published a moment later.
    let deadline = Instant::now() + ANSWER;
    let mut kept = None;
    while kept.as_ref() != Some(&stored) && Instant::now() < deadline {
        sleep(LOOK).await;
        kept = last_of(&victim.hearer, name, subject, ANSWER).await;
    }
    let own = Seen::of(kept.as_ref() == Some(&stored), true);
    // Requests to the API say what streams there are.
    let filters = ["$JS.API.>", "$JS.EVENT.>"].map(str::to_owned);
    let mut ears = Vec::new();
    for filter in &filters {
        ears.push(attacker.hearer.listen(filter).await?);
    }
    let agreed = ears.iter().any(|listening| !listening.refused);
    victim.sender.publish(&format!("$JS.API.STREAM.INFO.{name}"), &stored).await?;
    let mut context = jetstream::new(attacker.sender.client.clone());
    context.set_timeout(wait.max(Duration::from_secs(1)));
    let found = context.get_stream(name).await;
    let read = last_of(&attacker.sender, name, subject, wait).await;
    sleep(wait).await;
    let mut heard = false;
    for listening in &mut ears {
        heard |= listening.ear.hears(&stored, Duration::ZERO).await;
    }
    let did = match (read.is_some(), found.is_ok(), heard) {
        (true, _, _) => "read a message of",
        (_, true, _) => "saw the stream of",
        _ => "heard what was asked about the streams of",
    };
    Ok(Trial {
        note: None,
        own,
        foreign: Seen::of(read.is_some() || found.is_ok() || heard, agreed),
        leak: format!("{} {did} {}", attacker.name(), victim.name()),
    })
}

/// The last message of a stream, asked for as a client's library does.
async fn last_of(client: &Nats, name: &str, subject: &str, within: Duration) -> Option<Mark> {
    let mut context = jetstream::new(client.client.clone());
    context.set_timeout(within);
    let stream = context.get_stream_no_info(name).await.ok()?;
    Mark::read(&stream.get_last_raw_message_by_subject(subject).await.ok()?.payload)
}
