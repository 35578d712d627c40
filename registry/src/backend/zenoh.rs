//! Zenoh: through the gate of a router as a platform service, or over a link that the router trusts.
//!
//! A question is a query, and its answer goes where it came from. Who asks is told by the gate in the
//! query's attachment, which it writes over whatever a client had there.

use super::{Backend, BackendError, Hearing};
use crate::fleet::{Asked, Asker, Fleet, Permit, Who};
use crate::presence::Via;
use crate::wire::Subject;
use bulkhead_control::config::RegistryZenoh;
use bulkhead_control::files::read_text;
use bulkhead_policy::service::is_told_who_asks;
use bulkhead_policy::{Broker, DeviceId, TenantId};
use futures::future::BoxFuture;
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use zenoh::Session;
use zenoh::query::{Query, QueryTarget};

/// First and longest pause between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// How often the connection, and the token's file, is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Bytes of an answer: far less than a router carries, and more than anyone reads.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The way over Zenoh.
pub(crate) struct Zenoh {
    shared: Arc<Shared>,
}

struct Shared {
    config: RegistryZenoh,
    hearing: Hearing,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    session: Option<Session>,
    /// What is heard, and until when.
    tenants: HashMap<TenantId, (Arc<Fleet>, CancellationToken)>,
}

impl Zenoh {
    /// Connects, now or when a router is there.
    ///
    /// # Errors
    /// [`BackendError`] for a configuration that cannot be used.
    pub(crate) fn start(
        config: &RegistryZenoh,
        stop: CancellationToken,
    ) -> Result<Self, BackendError> {
        let shared = Arc::new(Shared {
            config: config.clone(),
            hearing: Hearing::default(),
            inside: Mutex::default(),
        });
        // What is wrong with the settings is said at the start.
        shared.settings()?;
        tokio::spawn(keep_connected(Arc::clone(&shared), stop));
        Ok(Self { shared })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self) -> Result<Option<String>, BackendError> {
        let read = |path: &PathBuf| read_text(path).map(|text| text.trim().to_owned());
        self.config
            .token_file
            .as_ref()
            .map(read)
            .transpose()
            .map_err(|cause| BackendError::File { setting: "registry.zenoh.token_file", cause })
    }

    fn settings(&self) -> Result<zenoh::Config, BackendError> {
        let mut config = zenoh::Config::default();
        let mut set = |key: &str, value: serde_json::Value| {
            config.insert_json5(key, &value.to_string()).map_err(|error| BackendError::Setting {
                setting: "registry.zenoh",
                cause: format!("{key}: {error}"),
                remedy: "see docs/configuration.md",
            })
        };
        set("mode", json!("client"))?;
        set("connect/endpoints", json!(self.config.connect))?;
        set("connect/timeout_ms", json!(5000))?;
        set("connect/exit_on_failure", json!(true))?;
        set("scouting/multicast/enabled", json!(false))?;
        set("scouting/gossip/enabled", json!(false))?;
        if let Some(ca_file) = &self.config.ca_file {
            set("transport/link/tls/root_ca_certificate", json!(ca_file))?;
        }
        if let Some(token) = self.token()? {
            set("transport/auth/usrpwd/user", json!(token))?;
            set("transport/auth/usrpwd/password", json!("token"))?;
        }
        Ok(config)
    }
}

/// Has a session with a router, for as long as the process runs. The library connects again by itself,
/// but with the token that it began with; so a new one means a new session.
async fn keep_connected(shared: Arc<Shared>, stop: CancellationToken) {
    let mut pause = BACKOFF.0;
    while !stop.is_cancelled() {
        let token = shared.token().ok().flatten();
        let opened = async {
            let settings = shared.settings().map_err(|error| error.to_string())?;
            let session = zenoh::open(settings).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(session)
        };
        match stop.run_until_cancelled(opened).await {
            None => break,
            Some(Ok(session)) => {
                pause = BACKOFF.0;
                let tenants: Vec<_> = {
                    let mut inside = shared.lock();
                    inside.session = Some(session.clone());
                    inside.tenants.values().cloned().collect()
                };
                for (fleet, until) in tenants {
                    listen(&session, &fleet, &until).await;
                }
                stop.run_until_cancelled(while_connected(&shared, &session, token)).await;
                shared.lock().session = None;
                shared.hearing.ends();
                let _ = session.close().await;
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the registry's Zenoh is away");
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    break;
                }
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}

/// Looks after a session until another token is to be shown, or a router has not been there for long:
/// the one there was may refuse what was good before.
async fn while_connected(shared: &Shared, session: &Session, token: Option<String>) {
    let mut alone_since: Option<Instant> = None;
    loop {
        if session.is_closed() {
            return;
        }
        let is_there = session.info().routers_zid().await.next().is_some();
        if is_there && shared.hearing.span().is_none() {
            shared.hearing.begins();
        } else if is_there {
            shared.hearing.lives();
        } else if shared.hearing.span().is_some() {
            shared.hearing.ends();
            tracing::warn!("the registry's Zenoh router is away");
        }
        alone_since = if is_there { None } else { alone_since.or(Some(Instant::now())) };
        let renewed = shared.token().is_ok_and(|now| now != token);
        if renewed || alone_since.is_some_and(|since| since.elapsed() > BACKOFF.1) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A tenant that cannot be listened to makes the session begin anew.
async fn listen(session: &Session, fleet: &Arc<Fleet>, until: &CancellationToken) {
    if let Err(error) = try_listen(session, fleet, until).await {
        tracing::warn!(tenant = %fleet.tenant, %error, "not heard over Zenoh");
        let _ = session.close().await;
    }
}

/// What is heard goes straight to the fleet: there is no queue that could outlive who reads it.
async fn try_listen(
    session: &Session,
    fleet: &Arc<Fleet>,
    until: &CancellationToken,
) -> zenoh::Result<()> {
    let heartbeats = Subject::Heartbeat(None).on(Broker::Zenoh, &fleet.tenant);
    let hearing = Arc::clone(fleet);
    let heard = session
        .declare_subscriber(heartbeats)
        .callback(move |sample| {
            let device = Subject::beating(sample.key_expr().as_str(), Broker::Zenoh);
            hearing.post(device, sample.payload().to_bytes().into_owned(), Via::Zenoh);
        })
        .await?;
    hold_until(until, session, heard);
    let runtime = Handle::current();
    for subject in [Subject::Discovery, Subject::Registry] {
        let name = subject.on(Broker::Zenoh, &fleet.tenant);
        let asked = match subject {
            Subject::Registry => Asked::Registration,
            _ => Asked::Discovery,
        };
        let (runtime, fleet) = (runtime.clone(), Arc::clone(fleet));
        let queryable = session
            .declare_queryable(name)
            .complete(true)
            .callback(move |query| {
                let bytes = query.payload().map_or(0, |payload| payload.len());
                let Ok(permit) = fleet.admit(asked, bytes, Via::Zenoh) else { return };
                let fleet = Arc::clone(&fleet);
                runtime.spawn(async move { answer(&fleet, query, asked, permit).await });
            })
            .await?;
        hold_until(until, session, queryable);
    }
    Ok(())
}

/// Keeps a declaration until the tenant goes, or the session does.
fn hold_until(until: &CancellationToken, session: &Session, declared: impl Send + 'static) {
    let (until, session) = (until.clone(), session.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = until.cancelled() => {}
            () = closed(session) => {}
        }
        drop(declared);
    });
}

async fn closed(session: Session) {
    while !session.is_closed() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Answers a query for exactly this name: the gate says who asks of no other.
async fn answer(fleet: &Fleet, query: Query, asked: Asked, mut permit: Permit) {
    if !is_told_who_asks(query.key_expr().as_str()) {
        return;
    }
    let payload =
        query.payload().map(|payload| payload.to_bytes().into_owned()).unwrap_or_default();
    let who = query.attachment().map_or(Who::Untold, |told| {
        let told = told.try_to_string().ok().and_then(|told| told.parse().ok());
        told.map_or(Who::Unreadable, Who::Known)
    });
    let asker = Asker { broker: Broker::Zenoh, who, most: MAX_ANSWER };
    let answer = fleet.answer(asked, &payload, &asker, Via::Zenoh, &mut permit).await;
    let key = query.key_expr().clone();
    if let Err(error) = query.reply(key, answer).await {
        tracing::debug!(%error, "an answer could not be sent");
    }
}

impl Backend for Zenoh {
    fn via(&self) -> Via {
        Via::Zenoh
    }

    fn broker(&self) -> Broker {
        Broker::Zenoh
    }

    fn is_heard(&self) -> bool {
        self.shared.hearing.span().is_some()
    }

    fn heard(&self, _: &TenantId) -> Option<(Instant, Instant)> {
        self.shared.hearing.span()
    }

    fn attach(&self, fleet: Arc<Fleet>) -> BoxFuture<'_, DropGuard> {
        Box::pin(async move {
            let until = CancellationToken::new();
            let session = {
                let mut inside = self.shared.lock();
                inside.tenants.retain(|_, (_, until)| !until.is_cancelled());
                inside.tenants.insert(fleet.tenant.clone(), (Arc::clone(&fleet), until.clone()));
                inside.session.clone()
            };
            if let Some(session) = session {
                listen(&session, &fleet, &until).await;
            }
            until.drop_guard()
        })
    }

    fn publish(&self, _: &TenantId, name: String, payload: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let session = self.shared.lock().session.clone();
            let Some(session) = session else { return };
            if let Err(error) = session.put(name, payload).await {
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
            let session = self.shared.lock().session.clone()?;
            let name = Subject::Command(&device).on(Broker::Zenoh, &tenant);
            let (sender, first) = oneshot::channel();
            let sender = Mutex::new(Some(sender));
            let get = session.get(name).payload(question).target(QueryTarget::BestMatching);
            let asked = get.timeout(patience).callback(move |reply| {
                let taken = sender.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let (Some(sender), Ok(sample)) = (taken, reply.into_result()) {
                    // Whoever asked has given up, if it fails.
                    let _ = sender.send(sample.payload().to_bytes().into_owned());
                }
            });
            asked.await.ok()?;
            first.await.ok()
        })
    }
}
