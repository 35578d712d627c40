//! Starting, running and ending what the services share.

use crate::audit::{Audit, AuditError, Event as AuditEvent, Record};
use crate::auth::Authenticator;
use crate::config::{Config, ConfigError};
use crate::directory::{Directory, Snapshot};
use crate::files::{LOOK, Watched};
use crate::http::ServeError;
use crate::http::admin::{self, Readiness};
use crate::http::exchange::{self, CredentialIssuer, Exchange};
use crate::identity::{ExchangeKeys, IdentityError, MqttCredentials, ZenohCredentials};
use crate::issuer::{SourceError, Verifier};
use crate::metrics::Metrics;
use crate::usage::{Clock, Usage};
use jiff::Timestamp;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// What runs in every process, whichever services it has.
#[derive(Debug)]
pub struct Control {
    config: Arc<Config>,
    auth: Arc<Authenticator>,
    readiness: Readiness,
    admin: SocketAddr,
    extension: admin::Extension,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Why a process cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An issuer's keys.
    #[error(transparent)]
    Keys(#[from] SourceError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A port.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The exchange's keys.
    #[error("exchange.keys: {0}")]
    Identity(#[from] IdentityError),
    /// The metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A backend.
    #[error("{backend}: {cause}")]
    Backend {
        /// Which.
        backend: &'static str,
        /// What is wrong.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Control {
    /// Starts directory, issuers, audit log and admin port. With the configuration's file, changes of
    /// it are taken over while it runs.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config, file: Option<PathBuf>) -> Result<Self, StartError> {
        Self::start_by(config, file, Arc::new(Timestamp::now)).await
    }

    /// The same, with another clock for what is counted by the day.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_by(
        config: Config,
        file: Option<PathBuf>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        // The process has one TLS library, whichever dependency asks first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        // A start that fails leaves nothing running.
        let guard = stop.clone().drop_guard();
        let metrics = Metrics::new(&config.metrics)?;
        let audit = match &config.audit.path {
            Some(path) => Audit::open(path, &metrics)?,
            None => Audit::default(),
        };
        let verifier = Verifier::start(&config.issuers, &config.limits, &metrics, &tasks, &stop)?;
        let directory = Directory::new(&config.directory, &metrics);
        let usage = Usage::new(&config, directory.clone(), &metrics, clock)?;
        let auth = Authenticator::new(&config, verifier, directory.clone(), usage, audit, metrics);
        let auth = Arc::new(auth);
        let config = Arc::new(config);
        // Listening begins before there is anything to hear.
        let changes = directory.changes();
        tasks.spawn(audit_directory(changes, auth.audit().clone(), stop.clone()));
        tasks.spawn({
            let (config, stop, directory) = (Arc::clone(&config), stop.clone(), directory.clone());
            async move { directory.maintain(&config.directory, stop).await }
        });
        let readiness = Readiness::default();
        readiness.require("directory", move || directory.is_fresh());
        let verifier = Arc::clone(&auth);
        readiness.require("issuer keys", move || verifier.verifier().is_ready());
        let extension = admin::Extension::default();
        let shown = admin::Shown {
            metrics: auth.metrics().clone(),
            usage: auth.usage().clone(),
            readiness: readiness.clone(),
        };
        let admin = admin::start(&config.admin, shown, extension.clone(), &tasks, &stop).await?;
        if let Some(file) = file {
            let follow = follow_config(
                file,
                Arc::clone(&config),
                Arc::clone(&auth),
                tasks.clone(),
                stop.clone(),
            );
            tasks.spawn(follow);
        }
        guard.disarm();
        Ok(Self { config, auth, readiness, admin, extension, tasks, stop })
    }

    /// What issues credentials by the exchange's own keys, if this configuration has an exchange with
    /// any: the keys are made if there are none yet. A process that serves the exchange calls this
    /// before it starts a backend, which reads the public ones.
    ///
    /// # Errors
    /// [`StartError::Identity`].
    pub fn issuers(&self) -> Result<Vec<Arc<dyn CredentialIssuer>>, StartError> {
        let Some(folder) = self.config.exchange_keys() else { return Ok(Vec::new()) };
        let keys = Arc::new(ExchangeKeys::open_or_create(folder)?);
        let mut issuers: Vec<Arc<dyn CredentialIssuer>> = Vec::new();
        if let Some(mqtt) = &self.config.mqtt {
            issuers.push(Arc::new(MqttCredentials::new(Arc::clone(&keys), mqtt.device_urls())));
        }
        if let Some(zenoh) = &self.config.zenoh {
            issuers.push(Arc::new(ZenohCredentials::new(keys, zenoh)));
        }
        Ok(issuers)
    }

    /// Counts what tenants use from now on. Each service that lets tenants in begins with this; without it
    /// nobody gets in who has a daily quota.
    pub fn count_usage(&self) {
        if self.auth.usage().keep(&self.config, &self.tasks, &self.stop) {
            let usage = self.auth.usage().clone();
            self.readiness.require("what tenants have used today", move || usage.is_ready());
        }
    }

    /// Serves the exchange for these backends, if it is configured. Returns its address.
    ///
    /// # Errors
    /// [`StartError::Serve`].
    pub async fn start_exchange(
        &self,
        issuers: Vec<Arc<dyn CredentialIssuer>>,
    ) -> Result<Option<SocketAddr>, StartError> {
        let Some(config) = &self.config.exchange else {
            return Ok(None);
        };
        self.count_usage();
        let exchange = Exchange::new(config, Arc::clone(&self.auth), issuers);
        Ok(Some(exchange::start(config, exchange, &self.tasks, &self.stop).await?))
    }

    /// The configuration that the process started with.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The way in.
    pub fn auth(&self) -> &Arc<Authenticator> {
        &self.auth
    }

    /// What has to hold before this process is sent work.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Where the admin port is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// What the admin port serves besides.
    pub fn extension(&self) -> &admin::Extension {
        &self.extension
    }

    /// Where a service spawns its tasks, so that the end waits for them.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Is cancelled when the process ends.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits until the system asks the process to end, which is
    /// [`interrupted`](crate::program::interrupted) where the process began to listen for that, or a service
    /// does.
    pub async fn wait(&self, interrupted: impl Future<Output = ()>) {
        tokio::select! {
            () = interrupted => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Ends everything: tasks finish what they have begun, the audit log is written to the end.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!(seconds = DRAIN.as_secs(), "some tasks did not end in time");
        }
        self.auth.audit().close();
    }
}

/// Writes down what changes in the directory, whoever changed it.
async fn audit_directory(
    mut changes: watch::Receiver<Arc<Snapshot>>,
    audit: Audit,
    stop: CancellationToken,
) {
    let mut before: Option<Arc<Snapshot>> = None;
    while let Some(Ok(())) = stop.run_until_cancelled(changes.changed()).await {
        let after = changes.borrow_and_update().clone();
        // The first state is no change.
        let changed = before.as_ref().map(|before| after.changed_since(before));
        for id in changed.unwrap_or_default() {
            let detail = match after.get(&id) {
                Some(tenant) => serde_json::to_string(&**tenant).unwrap_or_default(),
                None => "deleted".to_owned(),
            };
            let record = Record::new(AuditEvent::DirectoryChange, "directory");
            audit.record(record.tenant(&id).detail(detail));
        }
        before = Some(after);
    }
}

/// Takes over issuers, roles and quotas of a changed configuration. One that cannot be used changes
/// nothing and says so; other settings need a restart.
async fn follow_config(
    file: PathBuf,
    started_with: Arc<Config>,
    auth: Arc<Authenticator>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut watched = Watched::new(file);
    // What was read at the start may have changed before the first look.
    let mut current = serde_json::to_value(&*started_with).ok();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        if !matches!(watched.changed(), Ok(true)) {
            continue;
        }
        let config = match Config::load(watched.path()) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "the last good configuration stays in use");
                continue;
            }
        };
        let next = serde_json::to_value(&config).ok();
        if next.is_some() && next == current {
            continue;
        }
        // What runs goes on running, whatever the file has of it now.
        if let Err(problem) = config.check_roles(&started_with.brokers()) {
            tracing::error!(%problem, "the last good configuration stays in use");
            continue;
        }
        match auth.verifier().replace(&config.issuers, &tasks, &stop) {
            Ok(()) => {
                auth.replace_rules(&config);
                current = next;
                tracing::info!(
                    "issuers, roles and quotas were taken over; other settings wait for a restart"
                );
            }
            Err(error) => tracing::error!(%error, "the last good configuration stays in use"),
        }
    }
}
