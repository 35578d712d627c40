//! Where an issuer's keys come from, and how they are kept current.

use super::keys::{KeyError, KeySet, MAX_JWKS_BYTES};
use crate::config::{IssuerConfig, KeySource};
use crate::files::{LOOK, Watched, read_text};
use crate::metrics::Metrics;
use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use bulkhead_policy::{DenyReason, Verdict};
use jsonwebtoken::Algorithm;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How long one fetch may take, and so how long a token with an unknown `kid` may wait.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);

/// The current keys of one issuer, renewed in the background.
#[derive(Debug)]
pub struct Keys {
    issuer: String,
    algorithms: Vec<Algorithm>,
    origin: Origin,
    timing: KeySource,
    current: ArcSwapOption<Current>,
    generation: AtomicU64,
    /// Held during a fetch; holds when the last one was.
    fetching: Mutex<Option<Instant>>,
    metrics: Metrics,
}

enum Origin {
    Url { url: reqwest::Url, client: reqwest::Client },
    Jwks(PathBuf),
    Pem(PathBuf),
    Secret(PathBuf),
}

#[derive(Debug)]
struct Current {
    set: KeySet,
    since: Instant,
    generation: u64,
    /// Digest of what the keys were read from, to see whether they changed.
    digest: Digest,
}

/// Why keys could not be had this time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The address is none, or its certificate authority cannot be used.
    #[error("keys of issuer '{issuer}': {cause}")]
    Client {
        /// Whose.
        issuer: String,
        /// What is wrong.
        cause: String,
    },
    /// The document cannot be fetched or read.
    #[error("keys of issuer '{issuer}' cannot be read: {cause}")]
    Read {
        /// Whose.
        issuer: String,
        /// What went wrong.
        cause: String,
    },
    /// The document holds no usable key.
    #[error("keys of issuer '{issuer}': {origin} {cause}")]
    Keys {
        /// Whose.
        issuer: String,
        /// The file or address.
        origin: String,
        /// What is wrong with it.
        cause: KeyError,
    },
}

impl Keys {
    /// Prepares a source. Files are read at once; a URL is asked by [`Keys::maintain`] or by the first
    /// token.
    ///
    /// # Errors
    /// [`SourceError`] if a file does not hold what it should.
    pub fn open(config: &IssuerConfig, metrics: &Metrics) -> Result<Self, SourceError> {
        Self::of(config.name.as_str(), &config.algorithms, &config.keys, metrics)
    }

    /// The same for what need not be configured.
    pub(super) fn of(
        issuer: &str,
        algorithms: &[Algorithm],
        source: &KeySource,
        metrics: &Metrics,
    ) -> Result<Self, SourceError> {
        let issuer = issuer.to_owned();
        let keys = Self {
            algorithms: algorithms.to_vec(),
            origin: Origin::of(source)
                .map_err(|cause| SourceError::Client { issuer: issuer.clone(), cause })?,
            issuer,
            timing: source.clone(),
            current: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            fetching: Mutex::new(None),
            metrics: metrics.clone(),
        };
        if !matches!(keys.origin, Origin::Url { .. }) {
            keys.read_file()?;
        }
        Ok(keys)
    }

    /// Calls `verify` with the key for a token's header.
    ///
    /// An unknown `kid` causes a fetch, at most one per cooldown, however many tokens ask; they all
    /// wait for the same one.
    ///
    /// # Errors
    /// [`DenyReason::KeysUnavailable`] without keys young enough, [`DenyReason::KeyUnknown`] if none
    /// fits, or what `verify` says.
    pub async fn with_key<T>(
        self: &Arc<Self>,
        kid: Option<&str>,
        algorithm: Algorithm,
        verify: impl Fn(&jsonwebtoken::DecodingKey) -> Verdict<T>,
    ) -> Verdict<T> {
        let attempt = || {
            let current = self.current.load();
            let current = current.as_ref().filter(|c| self.is_young(c))?;
            Some(current.set.find(kid, algorithm).map(&verify))
        };
        if let Some(Some(verdict)) = attempt() {
            return verdict;
        }
        if matches!(self.origin, Origin::Url { .. }) {
            // The fetch goes on when whoever waits for it leaves: others wait for it too.
            let keys = Arc::clone(self);
            let fetch = tokio::spawn(async move { keys.fetch_for_unknown().await });
            // A panic of the fetch changes no key.
            let _ = fetch.await;
        }
        match attempt() {
            Some(Some(verdict)) => verdict,
            Some(None) => Err(DenyReason::KeyUnknown),
            None => Err(DenyReason::KeysUnavailable),
        }
    }

    /// Changes whenever the keys do, so that what an old key vouched for can be looked at again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether there are keys that may be used.
    pub fn is_ready(&self) -> bool {
        self.current.load().as_ref().is_some_and(|current| self.is_young(current))
    }

    /// Keeps the keys current until it is told to stop.
    pub async fn maintain(&self, stop: CancellationToken) {
        let watching = async {
            match &self.origin {
                Origin::Url { .. } => loop {
                    self.fetch_periodically().await;
                },
                Origin::Jwks(path) | Origin::Pem(path) | Origin::Secret(path) => {
                    self.watch(path.clone()).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = watching => {}
        }
    }

    fn is_young(&self, current: &Current) -> bool {
        // A file is its own last word; only what has to be fetched grows old.
        !matches!(self.origin, Origin::Url { .. })
            || current.since.elapsed() <= self.timing.max_age.unsigned_abs()
    }

    async fn fetch_periodically(&self) {
        let succeeded = {
            let mut last = self.fetching.lock().await;
            let apart = self.timing.cooldown.unsigned_abs().min(self.timing.refresh());
            if let Some(wait) = last.and_then(|ended| apart.checked_sub(ended.elapsed())) {
                // A token has just caused a fetch.
                drop(last);
                return tokio::time::sleep(wait).await;
            }
            let succeeded = self.fetch().await;
            *last = Some(Instant::now());
            succeeded
        };
        let pause =
            if succeeded { self.timing.refresh() } else { self.timing.cooldown.unsigned_abs() };
        tokio::time::sleep(pause).await;
    }

    /// Fetches unless that was done lately. Whoever comes while a fetch is under way waits for it and
    /// then finds the cooldown claimed.
    async fn fetch_for_unknown(&self) {
        let mut last = self.fetching.lock().await;
        let cooldown = self.timing.cooldown.unsigned_abs();
        if last.is_some_and(|ended| ended.elapsed() < cooldown) {
            return;
        }
        // Claimed before it begins, for whoever waits, and again when it is over, because a slow
        // answer may take longer than the cooldown.
        *last = Some(Instant::now());
        self.fetch().await;
        *last = Some(Instant::now());
    }

    async fn fetch(&self) -> bool {
        let Origin::Url { url, client } = &self.origin else {
            return false;
        };
        let outcome = match download(client, url).await {
            Ok(text) => self.take_over(text),
            Err(cause) => Err(SourceError::Read { issuer: self.issuer.clone(), cause }),
        };
        self.report(outcome)
    }

    async fn watch(&self, path: PathBuf) {
        // The first look reads again: what was read at the start may have changed since.
        let mut watched = Watched::new(path);
        loop {
            tokio::time::sleep(LOOK).await;
            if let Ok(true) = watched.changed() {
                self.report(self.read_file());
            }
        }
    }

    fn read_file(&self) -> Result<(), SourceError> {
        let (Origin::Jwks(path) | Origin::Pem(path) | Origin::Secret(path)) = &self.origin else {
            return Ok(());
        };
        let text = read_text(path).map_err(|cause| SourceError::Read {
            issuer: self.issuer.clone(),
            cause: cause.to_string(),
        })?;
        self.take_over(text.into_bytes())
    }

    /// Replaces the keys, unless the new ones cannot be used: then the last good ones stay.
    fn take_over(&self, text: Vec<u8>) -> Result<(), SourceError> {
        let digest = digest(&SHA256, &text);
        let unchanged = self
            .current
            .load()
            .as_ref()
            .filter(|current| current.digest.as_ref() == digest.as_ref())
            .map(|current| current.generation);
        let set = match &self.origin {
            Origin::Url { .. } | Origin::Jwks(_) => KeySet::from_jwks(&text, &self.algorithms),
            Origin::Pem(_) => KeySet::from_pem(&text, &self.algorithms),
            Origin::Secret(_) => {
                let secret = String::from_utf8_lossy(&text).into_owned().into();
                KeySet::from_secret(&secret, &self.algorithms)
            }
        }
        .map_err(|cause| SourceError::Keys {
            issuer: self.issuer.clone(),
            origin: self.origin.to_string(),
            cause,
        })?;
        let generation = unchanged.unwrap_or_else(|| self.generation() + 1);
        let current = Current { set, since: Instant::now(), generation, digest };
        self.current.store(Some(Arc::new(current)));
        self.generation.store(generation, Ordering::Release);
        Ok(())
    }

    fn report(&self, outcome: Result<(), SourceError>) -> bool {
        let label = if outcome.is_ok() { "ok" } else { "error" };
        self.metrics.key_refreshes.with_label_values(&[self.issuer.as_str(), label]).inc();
        match outcome {
            Ok(()) => {
                let now = jiff::Timestamp::now().as_second();
                self.metrics.keys_updated.with_label_values(&[self.issuer.as_str()]).set(now);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the last good keys stay in use");
                false
            }
        }
    }
}

/// An address without what may be secret in it: user, password and query.
pub(crate) fn public_part(url: &reqwest::Url) -> String {
    let mut url = url.clone();
    // Every address that has a host takes these.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

/// Fetches a key set within its bounds.
async fn download(client: &reqwest::Client, url: &reqwest::Url) -> Result<Vec<u8>, String> {
    let shown = public_part(url);
    let said = |error: reqwest::Error| format!("{shown}: {}", error.without_url());
    let fetch = async {
        let mut response = client.get(url.clone()).send().await.map_err(said)?;
        // Redirects are not followed, so one arrives here as a status of its own.
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("{shown} answered {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(said)? {
            if body.len() + chunk.len() > MAX_JWKS_BYTES {
                return Err(format!("{shown} sent more than {MAX_JWKS_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    tokio::time::timeout(FETCH_TIMEOUT, fetch)
        .await
        .map_err(|_| format!("{shown} did not answer within {} s", FETCH_TIMEOUT.as_secs()))?
}

impl Origin {
    fn of(source: &KeySource) -> Result<Self, String> {
        if let Some(url) = &source.jwks_url {
            let mut client = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(FETCH_TIMEOUT)
                .no_proxy();
            if let Some(path) = &source.ca_file {
                let pem = read_text(path).map_err(|e| e.to_string())?;
                let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                    .map_err(|e| format!("{}: {e}", path.display()))?;
                if roots.is_empty() {
                    return Err(format!(
                        "keys.ca_file: {} holds no certificate; it takes PEM",
                        path.display()
                    ));
                }
                client = client.tls_certs_only(roots);
            }
            return Ok(Self::Url {
                url: reqwest::Url::parse(url).map_err(|e| format!("{url}: {e}"))?,
                client: client.build().map_err(|e| e.to_string())?,
            });
        }
        let file = |path: &Option<PathBuf>, origin: fn(PathBuf) -> Self| path.clone().map(origin);
        file(&source.jwks_file, Self::Jwks)
            .or_else(|| file(&source.pem_file, Self::Pem))
            .or_else(|| file(&source.secret_file, Self::Secret))
            .ok_or_else(|| "no source is configured".to_owned())
    }
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url { url, .. } => f.write_str(&public_part(url)),
            Self::Jwks(path) | Self::Pem(path) | Self::Secret(path) => {
                write!(f, "{}", path.display())
            }
        }
    }
}
