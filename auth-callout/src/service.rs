//! The service: it listens to the servers and answers them.

use crate::callout::Callout;
use crate::credentials::NatsCredentials;
use crate::jwt::{Claims, Permission, User};
use crate::keyring::{AccountKeys, Keyring, KeyringError};
use crate::live::{Accounts, Follower, Provisioner, Sweeper, SystemClient, UsageReader};
use crate::mode::{ConfigMode, ConfigModeError, Mode};
use crate::nkey::SigningKey;
use crate::operator::Operator;
use async_nats::{Auth, AuthError, Client, ConnectOptions, Event, Subscriber};
use bulkhead_control::Control;
use bulkhead_control::config::{AccountMode, ConfigModeAccounts, NatsConfig};
use bulkhead_control::files::read_text;
use bulkhead_control::http::exchange::CredentialIssuer;
use futures::StreamExt;
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where servers ask.
const SUBJECT: &str = "$SYS.REQ.USER.AUTH";

/// The replicas' queue group.
const QUEUE: &str = "bulkhead";

/// Requests that wait for their turn; more are dropped by the client, and their servers refuse.
const WAITING: usize = 16 * 1024;

/// How long the last answers may take to leave.
const FLUSH: Duration = Duration::from_secs(1);

/// Longest pause between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(500);

/// Why the backend cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// No `[nats]`, or no mode in it.
    #[error("[nats] is not configured; run `bulkhead init nats`")]
    NotConfigured,
    /// Operator mode's keys.
    #[error("nats.operator.keys: {0}")]
    Keyring(#[from] KeyringError),
    /// Config mode's.
    #[error(transparent)]
    ConfigMode(#[from] ConfigModeError),
    /// A file.
    #[error("nats: {0}")]
    File(#[from] std::io::Error),
    /// The servers' addresses, or the way to them.
    #[error("nats.servers: {0}; check the URLs")]
    Connect(#[from] async_nats::ConnectError),
    /// A subscription.
    #[error("nats: {SUBJECT} cannot be subscribed: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The service's own user.
    #[error("nats: the service's own user cannot be signed: {0}")]
    User(String),
}

/// Starts the backend within a running [`Control`]: it answers from now on, and follows the
/// directory. Returns what issues credentials, in operator mode.
///
/// # Errors
/// [`NatsError`]. A server that is not there yet is none: the backend waits for it and is not ready
/// meanwhile.
pub async fn start(control: &Control) -> Result<Option<Arc<dyn CredentialIssuer>>, NatsError> {
    let config = control.config().nats.as_ref().ok_or(NatsError::NotConfigured)?;
    let auth = Arc::clone(control.auth());
    let reconnected = Arc::new(Notify::new());
    control.count_usage();
    let (mode, accounts, client, system, issuer) = match config
        .mode()
        .ok_or(NatsError::NotConfigured)?
    {
        AccountMode::Operator(keys) => {
            let operator = Arc::new(Operator::open(&keys.keys)?);
            let callout = own_user(&operator, |keys| (&keys.auth, &keys.callout_user))?;
            let system = own_user(&operator, |keys| (&keys.system, &keys.system_user))?;
            let client = connect(control, config, callout, "nats callout", None).await?;
            let system =
                connect(control, config, system, "nats system account", Some(&reconnected)).await?;
            let system = SystemClient::new(system);
            let provisioner = Arc::new(Provisioner::new(
                system.clone(),
                Arc::clone(&operator),
                Arc::clone(&auth),
            ));
            let issuer: Arc<dyn CredentialIssuer> =
                Arc::new(NatsCredentials::new(Arc::clone(&operator), config));
            let mode = Mode::Operator {
                operator: Arc::clone(&operator),
                provisioner: Arc::clone(&provisioner),
            };
            (mode, Accounts::Operator(operator, provisioner), client, system, Some(issuer))
        }
        AccountMode::Config(fixed) => {
            let config_mode = Arc::new(ConfigMode::open(fixed)?);
            let (callout, system) = passwords(fixed)?;
            let client = connect(control, config, callout, "nats callout", None).await?;
            let system =
                connect(control, config, system, "nats system account", Some(&reconnected)).await?;
            let system = SystemClient::new(system);
            let mode = Mode::Config(Arc::clone(&config_mode));
            (mode, Accounts::Config(config_mode), client, system, None)
        }
    };
    let requests = subscribe(&client, config.hedged).await?;
    let callout = Arc::new(Callout::new(Arc::clone(&auth), mode, config));
    let limit = Arc::new(Semaphore::new(config.max_in_flight));
    let tasks = control.tasks().clone();
    let stop = control.stop().clone();
    let sweeper = Sweeper::new(system.clone(), Arc::clone(&auth));
    let reader = UsageReader::new(system, Arc::clone(&auth), accounts.clone());
    tasks.spawn(reader.run(stop.clone()));
    let follower =
        Follower { auth, sweeper, accounts, reconnected, tasks: control.tasks().clone() };
    control.tasks().spawn(follower.run(control.stop().clone()));
    control.tasks().spawn(serve(client, requests, callout, limit, tasks, stop));
    Ok(issuer)
}

/// Answers requests until it is told to stop.
async fn serve(
    client: Client,
    mut requests: Subscriber,
    callout: Arc<Callout>,
    limit: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        // Requests wait here rather than in tasks, so that what is worked on is bounded.
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else {
            return;
        };
        let request = tokio::select! {
            () = stop.cancelled() => break,
            request = requests.next() => request,
        };
        let Some(request) = request else { return };
        let (client, callout) = (client.clone(), Arc::clone(&callout));
        tasks.spawn(async move {
            let xkey = request.headers.as_ref().and_then(|h| h.get("Nats-Server-Xkey"));
            let answer = callout.answer(&request.payload, xkey.map(|x| x.as_str())).await;
            if let (Ok(answer), Some(reply)) = (answer, request.reply)
                && let Err(error) = client.publish(reply, answer.into()).await
            {
                tracing::warn!(%error, "an answer could not be sent");
            }
            drop(permit);
        });
    }
    // What was asked is still answered; the server asks the other replicas from now on.
    if let Err(error) = requests.drain().await {
        tracing::debug!(%error, "the subscription was gone already");
    }
    // Without a connection there is nobody to tell, and nothing to wait for.
    let _ = tokio::time::timeout(FLUSH, client.flush()).await;
}

async fn subscribe(client: &Client, hedged: bool) -> Result<Subscriber, NatsError> {
    Ok(if hedged {
        client.subscribe(SUBJECT).await?
    } else {
        client.queue_subscribe(SUBJECT, QUEUE.to_owned()).await?
    })
}

/// Options of a connection with the service's own user of an account. Each connection's JWT is signed anew:
/// the key that signed the one before may have been rotated away.
fn own_user(operator: &Arc<Operator>, who: Who) -> Result<ConnectOptions, NatsError> {
    // What is wrong with the keys is said at the start.
    sign_in(&operator.keys(), who, b"").map_err(NatsError::User)?;
    let operator = Arc::clone(operator);
    Ok(ConnectOptions::with_auth_callback(move |nonce| {
        let signed = sign_in(&operator.keys(), who, &nonce);
        async move { signed.map_err(AuthError::new) }
    }))
}

/// An account and a user of it.
type Who = fn(&Keyring) -> (&AccountKeys, &SigningKey);

/// A user's JWT of now, and the proof that the user's key is here.
fn sign_in(keys: &Keyring, who: Who, nonce: &[u8]) -> Result<Auth, String> {
    let (account, user) = who(keys);
    let now = Timestamp::now();
    let signer = account.signer(now).ok_or("the keyring has no key in use")?;
    let mut content = User::new(Permission::default(), Permission::default());
    content.issuer_account.clone_from(&account.account);
    let mut claims = Claims::about(user.public(), content);
    "bulkhead".clone_into(&mut claims.name);
    let mut auth = Auth::new();
    auth.jwt = Some(claims.sign(signer, now.as_second()).map_err(|error| error.to_string())?);
    auth.signature = Some(user.sign(nonce).to_vec());
    Ok(auth)
}

/// Options of the callout's and the system account's connection in config mode.
fn passwords(config: &ConfigModeAccounts) -> Result<(ConnectOptions, ConnectOptions), NatsError> {
    let options = |user: &str, path: &Path| -> Result<ConnectOptions, NatsError> {
        let password = read_text(path)?.trim_end().to_owned();
        Ok(ConnectOptions::with_user_and_password(user.to_owned(), password))
    };
    Ok((
        options(&config.user, &config.password_file)?,
        options(&config.system_user, &config.system_password_file)?,
    ))
}

/// Connects, now or as soon as a server is there, and for ever after. The process is ready only while
/// the connection stands.
async fn connect(
    control: &Control,
    config: &NatsConfig,
    options: ConnectOptions,
    name: &'static str,
    reconnected: Option<&Arc<Notify>>,
) -> Result<Client, NatsError> {
    let connected = Arc::new(AtomicBool::new(false));
    let (state, notify) = (Arc::clone(&connected), reconnected.cloned());
    let mut options = options
        .name(format!("bulkhead {name}"))
        .retry_on_initial_connect()
        .max_reconnects(None)
        .subscription_capacity(WAITING)
        .reconnect_delay_callback(|attempt| {
            let pause = Duration::from_millis(
                u64::try_from(attempt).unwrap_or(u64::MAX).saturating_mul(20),
            );
            pause.min(RECONNECT)
        })
        .event_callback(move |event| {
            let (state, notify) = (Arc::clone(&state), notify.clone());
            async move {
                match event {
                    Event::Connected => {
                        state.store(true, Ordering::Release);
                        if let Some(notify) = notify {
                            notify.notify_one();
                        }
                    }
                    Event::Disconnected | Event::Closed => state.store(false, Ordering::Release),
                    other => tracing::warn!(connection = name, event = %other, "nats"),
                }
            }
        });
    if let Some(ca_file) = &config.ca_file {
        options = options.add_root_certificates(ca_file.clone()).require_tls(true);
    }
    let client = options.connect(config.servers.clone()).await?;
    control.readiness().require(name, move || connected.load(Ordering::Acquire));
    Ok(client)
}
