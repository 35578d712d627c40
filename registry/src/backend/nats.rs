//! NATS: in an account of its own, to which each tenant's account gives its part.
//!
//! The servers keep tenants apart, answers included: a request that crosses accounts has a reply name
//! that leads back there and nowhere else. What a tenant is asked, it is asked with an inbox of its own
//! part. Who asks is told by the server in a header, which no client can write across accounts.

use super::{Backend, BackendError, Hearing, PULL_TIMEOUT};
use crate::fleet::{Asker, Fleet};
use crate::metrics::Metrics;
use crate::presence::Via;
use crate::wire::Subject;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message};
use bulkhead_control::config::{Config, RegistryNats};
use bulkhead_control::files::read_text;
use bulkhead_control::identity::Session;
use bulkhead_policy::{Broker, DeviceId, Requester, TenantId};
use futures::StreamExt;
use futures::future::BoxFuture;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Messages of one tenant's kind that wait; beyond that the connection counts as deaf for a moment.
const WAITING: usize = 65_536;

/// What stands around the answer in the server's accounting of a message.
const ENVELOPE: usize = 1024;

/// The header with which a server tells another account who sent a request.
const INFO: &str = "Nats-Request-Info";

/// What of that is of use.
#[derive(Deserialize)]
struct Info {
    /// The user's name, which the callout has given.
    #[serde(default)]
    user: String,
}

/// The way over NATS.
pub(crate) struct Nats {
    client: Client,
    hearing: Arc<Hearing>,
}

impl Nats {
    /// Connects, now or when a server is there.
    ///
    /// # Errors
    /// [`BackendError`].
    pub(crate) async fn start(
        config: &Config,
        own: &RegistryNats,
        metrics: &Metrics,
        stop: CancellationToken,
    ) -> Result<Self, BackendError> {
        let nats = config.nats.as_ref();
        let operator = nats.and_then(|nats| nats.operator.as_ref());
        let servers = match (&*own.servers, nats) {
            ([], Some(nats)) => nats.servers.clone(),
            (servers, _) => servers.to_vec(),
        };
        let in_keys = || Some(operator?.keys.join("registry.creds"));
        let credentials = own.credentials_file.clone().or_else(in_keys).unwrap_or_default();
        let ca_file: Option<PathBuf> =
            own.ca_file.clone().or_else(|| nats.and_then(|nats| nats.ca_file.clone()));
        let text = read_text(&credentials).map_err(|cause| BackendError::File {
            setting: "registry.nats.credentials_file",
            cause: named(cause, &credentials),
        })?;
        let hearing = Arc::new(Hearing::default());
        let up = metrics.backend_up.with_label_values(&["nats"]);
        let noted = Arc::clone(&hearing);
        let options =
            ConnectOptions::with_credentials(&text).map_err(|error| BackendError::Setting {
                setting: "registry.nats.credentials_file",
                cause: error.to_string(),
                remedy: "make it with `bulkhead init nats`",
            })?;
        let mut options = options
            .name("bulkhead-registry")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(|attempt| {
                Duration::from_millis(50 << attempt.min(6)).min(Duration::from_secs(2))
            })
            .subscription_capacity(WAITING)
            .request_timeout(Some(PULL_TIMEOUT))
            .event_callback(move |event| {
                match event {
                    Event::Connected => {
                        noted.begins();
                        up.set(1);
                    }
                    Event::Disconnected | Event::Closed => {
                        noted.ends();
                        up.set(0);
                        if !stop.is_cancelled() {
                            tracing::warn!("the registry's NATS is away");
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
        if let Some(ca_file) = ca_file {
            options = options.add_root_certificates(ca_file);
        }
        let client = options.connect(servers).await.map_err(|error| BackendError::Setting {
            setting: "registry.nats.servers",
            cause: error.to_string(),
            remedy: "list URLs such as nats://127.0.0.1:4222",
        })?;
        Ok(Self { client, hearing })
    }

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
        tokio::spawn(async move {
            while let Some(Some(message)) = stop.run_until_cancelled(messages.next()).await {
                match kind {
                    Kind::Heartbeat => {
                        let device = Subject::beating(&message.subject, Broker::Nats);
                        fleet.beat(device, &message.payload, Via::Nats);
                        tokio::task::consume_budget().await;
                    }
                    Kind::Registry | Kind::Discovery => answer(&client, &fleet, kind, message),
                }
            }
            // The server would go on sending.
            let _ = messages.unsubscribe().await;
        });
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Registry,
    Discovery,
    Heartbeat,
}

impl Kind {
    fn of(subject: Subject<'_>) -> Self {
        match subject {
            Subject::Registry => Self::Registry,
            Subject::Discovery => Self::Discovery,
            _ => Self::Heartbeat,
        }
    }
}

/// Answers a request; one that says nowhere to answer is left.
fn answer(client: &Client, fleet: &Arc<Fleet>, kind: Kind, message: Message) {
    let Some(reply) = message.reply else { return };
    let most = client.server_info().max_payload;
    let asker = Asker {
        broker: Broker::Nats,
        requester: message.headers.as_ref().and_then(|headers| requester(headers, &fleet.tenant)),
        most: most.saturating_sub(ENVELOPE),
    };
    let (client, fleet) = (client.clone(), Arc::clone(fleet));
    tokio::spawn(async move {
        let answer = match kind {
            Kind::Registry => fleet.register(&message.payload, &asker, Via::Nats).await,
            _ => fleet.discover(&message.payload, &asker, Via::Nats),
        };
        if let Err(error) = client.publish(reply, answer.into()).await {
            tracing::debug!(%error, "an answer could not be sent");
        }
    });
}

/// Who asks, if a server says so. A name that the callout has not given is nobody's.
fn requester(headers: &HeaderMap, tenant: &TenantId) -> Option<Requester> {
    let info: Info = serde_json::from_str(headers.get(INFO)?.as_str()).ok()?;
    let principal = Session::parse(&info.user)?.principal;
    let own = principal.tenant().cloned();
    Some(Requester {
        // A service is of no tenant, and may what it may in each.
        tenant: own.unwrap_or_else(|| tenant.clone()),
        device: principal.device,
        role: principal.role,
    })
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

    fn heard_since(&self) -> Option<Instant> {
        self.hearing.since()
    }

    fn attach(&self, fleet: Arc<Fleet>) -> BoxFuture<'_, DropGuard> {
        Box::pin(async move {
            let stop = CancellationToken::new();
            // Heartbeats first: whoever registers beats soon.
            for subject in [Subject::Heartbeat(None), Subject::Discovery, Subject::Registry] {
                self.listen(&fleet, subject, &stop).await;
            }
            stop.drop_guard()
        })
    }

    fn publish(&self, name: String, payload: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.client.publish(name, payload.into()).await {
                tracing::debug!(%error, "not published");
            }
        })
    }

    fn pull(
        &self,
        tenant: TenantId,
        device: DeviceId,
        question: Vec<u8>,
    ) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let inbox = format!("_INBOX.{tenant}.{}", self.client.new_inbox().rsplit('.').next()?);
            let mut answers = self.client.subscribe(inbox.clone()).await.ok()?;
            answers.unsubscribe_after(1).await.ok()?;
            let name = Subject::Command(&device).on(Broker::Nats, &tenant);
            self.client.publish_with_reply(name, inbox, question.into()).await.ok()?;
            let answer = tokio::time::timeout(PULL_TIMEOUT, answers.next()).await;
            let answer = answer.ok().flatten()?;
            // A server says at once that nobody is there.
            let is_answer = answer.status.is_none_or(|status| status.as_u16() == 200);
            is_answer.then(|| answer.payload.to_vec())
        })
    }
}
