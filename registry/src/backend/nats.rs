//! NATS: in an account of its own, to which each tenant's account gives its part.
//!
//! The servers keep tenants apart, answers included: a request that crosses accounts has a reply name
//! that leads back there and nowhere else. What a tenant is asked, it is asked with an inbox of its own
//! part. Who asks is told by the server in a header (`request_info`).

use super::{Backend, BackendError, Connections, Hearing, request_info};
use crate::backlog::{Unheard, backlog};
use crate::fleet::{Asked, Asker, Fleet};
use crate::presence::Via;
use crate::wire::Subject;
use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, Message};
use bulkhead_control::config::{Config, RegistryNats};
use bulkhead_control::files::read_text;
use bulkhead_policy::{Broker, DeviceId, TenantId};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Messages of one tenant's kind that wait; beyond that the connection counts as deaf for a moment.
const WAITING: usize = 65_536;

/// Bytes of a tenant's heartbeats that wait, likewise.
const WAITING_BYTES: usize = 32 * 1024 * 1024;

/// How often the server is asked for a sign of life.
const PING: Duration = Duration::from_secs(2);

/// How often something is sent to oneself.
const PULSE: Duration = Duration::from_millis(500);

/// What stands around the answer in the server's accounting of a message.
const ENVELOPE: usize = 1024;

/// The way over NATS.
pub(crate) struct Nats {
    settings: Settings,
    placing: tokio::sync::Mutex<()>,
    connections: Arc<Connections<Connection>>,
}

/// How to connect.
struct Settings {
    servers: Vec<String>,
    credentials: String,
    ca_file: Option<PathBuf>,
    stop: CancellationToken,
}

/// A connection for some tenants. The library gives one up that gets a header which it cannot read, so a
/// tenant has its own where that is possible.
struct Connection {
    client: Client,
    hearing: Arc<Hearing>,
}

impl Settings {
    async fn connect(&self) -> Result<Arc<Connection>, BackendError> {
        let hearing = Arc::new(Hearing::default());
        let (noted, stop) = (Arc::clone(&hearing), self.stop.clone());
        let options = ConnectOptions::with_credentials(&self.credentials).map_err(|error| {
            BackendError::Setting {
                setting: "registry.nats.credentials_file",
                cause: error.to_string(),
                remedy: "make it with `bulkhead init nats`",
            }
        })?;
        let mut options = options
            .name("bulkhead-registry")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(|attempt| {
                Duration::from_millis(50 << attempt.min(6)).min(Duration::from_secs(2))
            })
            .ping_interval(PING)
            .subscription_capacity(WAITING)
            .event_callback(move |event| {
                match event {
                    Event::Connected => noted.begins(),
                    Event::Disconnected | Event::Closed => {
                        noted.ends();
                        if !stop.is_cancelled() {
                            tracing::warn!("a connection of the registry to NATS is away");
                        }
                    }
                    Event::SlowConsumer(_) => {
                        noted.begins();
                        tracing::warn!(
                            "heartbeats were lost: more came over NATS than can be heard"
                        );
                    }
                    other => tracing::debug!(event = %other, "NATS"),
                }
                std::future::ready(())
            });
        if let Some(ca_file) = &self.ca_file {
            options = options.add_root_certificates(ca_file.clone());
        }
        let client =
            options.connect(self.servers.clone()).await.map_err(|error| BackendError::Setting {
                setting: "registry.nats.servers",
                cause: error.to_string(),
                remedy: "list URLs such as nats://127.0.0.1:4222",
            })?;
        let connection = Arc::new(Connection { client, hearing });
        tokio::spawn(feel_pulse(Arc::clone(&connection), self.stop.clone()));
        Ok(connection)
    }
}

/// Sends something to itself time and again: what comes back shows that the server is alive, which a
/// connection alone does not.
async fn feel_pulse(connection: Arc<Connection>, stop: CancellationToken) {
    let inbox = connection.client.new_inbox();
    let Ok(mut pulse) = connection.client.subscribe(inbox.clone()).await else { return };
    let mut beat = tokio::time::interval(PULSE);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beat.tick() => {
                // While it is away there is nothing to feel, and nothing is to be heaped up.
                if connection.client.connection_state() == State::Connected {
                    let _ = connection.client.publish(inbox.clone(), "".into()).await;
                }
            }
            felt = pulse.next() => match felt {
                Some(_) => connection.hearing.lives(),
                None => return,
            },
        }
    }
}

impl Nats {
    /// Connects, now or when a server is there.
    ///
    /// # Errors
    /// [`BackendError`].
    pub(crate) async fn start(
        config: &Config,
        own: &RegistryNats,
        stop: CancellationToken,
    ) -> Result<Self, BackendError> {
        let nats = config.nats.as_ref();
        let operator = nats.and_then(|nats| nats.operator.as_ref());
        let servers = match (&*own.servers, nats) {
            ([], Some(nats)) => nats.servers.clone(),
            (servers, _) => servers.to_vec(),
        };
        let in_keys = || Some(operator?.keys.join("registry.creds"));
        let path = own.credentials_file.clone().or_else(in_keys).unwrap_or_default();
        let ca_file = own.ca_file.clone().or_else(|| nats.and_then(|nats| nats.ca_file.clone()));
        let credentials = read_text(&path).map_err(|cause| BackendError::File {
            setting: "registry.nats.credentials_file",
            cause: named(cause, &path),
        })?;
        let settings = Settings { servers, credentials, ca_file, stop };
        let connections = Arc::<Connections<Connection>>::default();
        // What is wrong with the settings is said at the start.
        connections.add(settings.connect().await?);
        Ok(Self { settings, placing: tokio::sync::Mutex::new(()), connections })
    }

    async fn connection(&self, tenant: &TenantId) -> Option<(u64, Arc<Connection>)> {
        // One after the other, so that no two take the same free one for theirs.
        let _turn = self.placing.lock().await;
        let wanted = self.connections.wants_another();
        let another = if wanted { self.settings.connect().await.ok() } else { None };
        self.connections.place(tenant, || another)
    }
}

impl Connection {
    async fn listen(&self, fleet: &Arc<Fleet>, subject: Subject<'_>, stop: &CancellationToken) {
        let name = subject.on(Broker::Nats, &fleet.tenant);
        // One replica has the tenant, so there is no queue to share: in one, a replica that is frozen would
        // go on getting its part.
        let mut messages = match self.client.subscribe(name).await {
            Ok(messages) => messages,
            // The client has ended, with the process.
            Err(error) => return tracing::debug!(%error, "not subscribed"),
        };
        let (fleet, client, stop) = (Arc::clone(fleet), self.client.clone(), stop.clone());
        let kind = Kind::of(subject);
        // The library counts messages, whatever their size: they are taken from it as they come.
        let (waiting, unheard) = backlog(WAITING, WAITING_BYTES);
        if matches!(kind, Kind::Heartbeat) {
            let (fleet, stop) = (Arc::clone(&fleet), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(hear(fleet, unheard)).await });
        }
        tokio::spawn(async move {
            while let Some(Some(message)) = stop.run_until_cancelled(messages.next()).await {
                match kind {
                    Kind::Heartbeat => {
                        let bytes = message.payload.len();
                        if fleet.may_be_beat(bytes, Via::Nats) && !waiting.push(message, bytes) {
                            fleet.lost(Via::Nats);
                        }
                    }
                    Kind::Asked(asked) => answer(&client, &fleet, asked, message),
                }
                tokio::task::consume_budget().await;
            }
            // The server would go on sending.
            let _ = messages.unsubscribe().await;
        });
    }
}

/// Hears heartbeats in their turn, until no more can come.
async fn hear(fleet: Arc<Fleet>, mut unheard: Unheard<Message>) {
    while let Some(message) = unheard.next().await {
        let device = Subject::beating(&message.subject, Broker::Nats);
        fleet.beat(device, &message.payload, Via::Nats);
        tokio::task::consume_budget().await;
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Asked(Asked),
    Heartbeat,
}

impl Kind {
    fn of(subject: Subject<'_>) -> Self {
        match subject {
            Subject::Registry => Self::Asked(Asked::Registration),
            Subject::Discovery => Self::Asked(Asked::Discovery),
            _ => Self::Heartbeat,
        }
    }
}

/// Whether an answer may go somewhere: across accounts, or to an inbox, also of clients that are to have
/// inboxes of their own (`_INBOX_acme`). Within one account it goes with the registry's rights, and what
/// whoever asks may not say is not to be said for it.
fn is_inbox(reply: &str) -> bool {
    reply.starts_with(request_info::CROSSED) || reply.starts_with("_INBOX")
}

/// Answers a request; one that says nowhere to answer, or nowhere that is an inbox, is left. Nothing is
/// waited for here: what has not been heard would heap up meanwhile.
fn answer(client: &Client, fleet: &Arc<Fleet>, asked: Asked, message: Message) {
    let Some(reply) = message.reply else { return };
    if !is_inbox(&reply) {
        tracing::debug!(tenant = %fleet.tenant, "an answer was wanted where none goes");
        return;
    }
    let bytes = message.payload.len();
    let admitted = match fleet.refuse_large(asked, bytes, Via::Nats) {
        Some(refusal) => Err(refusal),
        None => fleet.admit(asked, bytes, Via::Nats),
    };
    let mut permit = match admitted {
        Ok(permit) => permit,
        Err(refusal) => {
            // One that cannot be sent at once is not sent.
            let _ = client.publish(reply, refusal.into()).now_or_never();
            return;
        }
    };
    let most = client.server_info().max_payload;
    let asker = Asker {
        broker: Broker::Nats,
        who: request_info::who(&reply, message.headers.as_ref(), &fleet.tenant),
        most: most.saturating_sub(ENVELOPE),
    };
    let (client, fleet) = (client.clone(), Arc::clone(fleet));
    tokio::spawn(async move {
        let answer = fleet.answer(asked, &message.payload, &asker, Via::Nats, &mut permit).await;
        if let Err(error) = client.publish(reply, answer.into()).await {
            tracing::debug!(%error, "an answer could not be sent");
        }
        drop(permit);
    });
}

fn named(cause: std::io::Error, path: &std::path::Path) -> std::io::Error {
    std::io::Error::new(cause.kind(), format!("{}: {cause}", path.display()))
}

impl Backend for Nats {
    fn via(&self) -> Via {
        Via::Nats
    }

    fn broker(&self) -> Broker {
        Broker::Nats
    }

    fn is_heard(&self) -> bool {
        self.connections.any(|connection| connection.hearing.span().is_some())
    }

    fn heard(&self, tenant: &TenantId) -> Option<(Instant, Instant)> {
        self.connections.of(tenant)?.hearing.span()
    }

    fn attach(&self, fleet: Arc<Fleet>) -> BoxFuture<'_, DropGuard> {
        Box::pin(async move {
            let stop = CancellationToken::new();
            let Some((placement, connection)) = self.connection(&fleet.tenant).await else {
                return stop.drop_guard();
            };
            // Heartbeats first: whoever registers beats soon.
            for subject in [Subject::Heartbeat(None), Subject::Discovery, Subject::Registry] {
                connection.listen(&fleet, subject, &stop).await;
            }
            let (connections, ended) = (Arc::clone(&self.connections), stop.clone());
            tokio::spawn(async move {
                ended.cancelled().await;
                connections.remove(&fleet.tenant, placement);
            });
            stop.drop_guard()
        })
    }

    fn publish(&self, tenant: &TenantId, name: String, payload: Vec<u8>) -> BoxFuture<'_, ()> {
        let connection = self.connections.of(tenant);
        Box::pin(async move {
            let Some(connection) = connection else { return };
            if connection.client.connection_state() != State::Connected {
                // What is told to nobody is not heaped up, and nobody waits for it.
                return;
            }
            if let Err(error) = connection.client.publish(name, payload.into()).await {
                tracing::debug!(%error, "not published");
            }
        })
    }

    fn pull(
        &self,
        tenant: TenantId,
        device: DeviceId,
        question: Vec<u8>,
        patience: Duration,
    ) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let connection = self.connections.of(&tenant)?;
            let client = &connection.client;
            let inbox = format!("_INBOX.{tenant}.{}", client.new_inbox().rsplit('.').next()?);
            let mut answers = client.subscribe(inbox.clone()).await.ok()?;
            answers.unsubscribe_after(1).await.ok()?;
            let name = Subject::Command(&device).on(Broker::Nats, &tenant);
            client.publish_with_reply(name, inbox, question.into()).await.ok()?;
            let answer = tokio::time::timeout(patience, answers.next()).await;
            let answer = answer.ok().flatten()?;
            // A server says at once that nobody is there.
            let is_answer = answer.status.is_none_or(|status| status.as_u16() == 200);
            is_answer.then(|| answer.payload.to_vec())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::is_inbox;

    #[test]
    fn answers_go_to_inboxes_alone() {
        for inbox in ["_INBOX.a.b", "_INBOX_acme.a.b", "_R_.a.b"] {
            assert!(is_inbox(inbox), "{inbox}");
        }
        for other in [
            "device-connect.acme.registry",
            "device-connect.globex.lock-1.cmd",
            "$SYS.REQ.SERVER.PING",
            "$JS.API.STREAM.PURGE.x",
            "_R",
            "",
        ] {
            assert!(!is_inbox(other), "{other}");
        }
    }
}
