//! From the bytes that a client presents to the principal that it is.

use super::source::{Keys, SourceError};
use crate::config::{IssuerConfig, KeySource, LimitsConfig};
use crate::http::exchange::ISSUER;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use bulkhead_policy::{ClaimMap, Claims, DenyReason, Expectations, Principal, RoleName, Verdict};
use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::Algorithm;
use moka::sync::Cache;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Largest token that is looked at. One that uses all of it still fits into an MQTT password and into
/// a NATS CONNECT of 32 KB.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024 - 1;

/// Longest `kid`, in bytes; a longer one is no key's.
const MAX_KID_BYTES: usize = 256;

/// Verifies tokens of all configured issuers.
#[derive(Debug)]
pub struct Verifier {
    issuers: ArcSwap<HashMap<String, Arc<Issuer>>>,
    cache: Cache<[u8; 32], Cached>,
    metrics: Metrics,
}

/// One issuer: what its tokens look like, and its keys.
#[derive(Debug)]
struct Issuer {
    expected: Expectations,
    algorithms: Vec<Algorithm>,
    keys: Arc<Keys>,
    source: KeySource,
    stop: CancellationToken,
}

/// What a verified token turned out to say. It holds as long as its issuer's configuration and keys
/// are those that vouched for it; the directory is asked anew every time.
#[derive(Clone, Debug)]
struct Cached {
    principal: Arc<Principal>,
    issuer: Arc<Issuer>,
    generation: u64,
}

/// The parts of a header that matter (RFC 7515 §4.1). Addresses of keys and keys themselves (`jku`,
/// `x5u`, `jwk`) do not: keys come from the configuration.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

impl Verifier {
    /// Opens the issuers and starts to keep their keys current.
    ///
    /// # Errors
    /// [`SourceError`] if a key file does not hold what it should.
    pub fn start(
        issuers: &[IssuerConfig],
        limits: &LimitsConfig,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, SourceError> {
        let verifier = Self {
            issuers: ArcSwap::default(),
            cache: Cache::new(limits.cached_tokens),
            metrics: metrics.clone(),
        };
        verifier.replace(issuers, tasks, stop)?;
        Ok(verifier)
    }

    /// A verifier of what the exchange signs for one audience, with the keys of a JWKS in a file, which
    /// is looked at while the process runs.
    ///
    /// # Errors
    /// [`SourceError`] if the file does not hold what it should.
    pub fn of_exchange(
        jwks_file: &Path,
        audience: &str,
        limits: &LimitsConfig,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, SourceError> {
        let source = KeySource::jwks_file(jwks_file.to_owned());
        let algorithms = vec![Algorithm::EdDSA];
        let keys = Arc::new(Keys::of(ISSUER, &algorithms, &source, metrics)?);
        let (kept, ends) = (Arc::clone(&keys), stop.clone());
        tasks.spawn(async move { kept.maintain(ends).await });
        let expected = Expectations {
            name: ISSUER.into(),
            issuer: ISSUER.to_owned(),
            audiences: BTreeSet::from([audience.to_owned()]),
            claims: ClaimMap::default(),
            tenants: None,
            roles: None,
            default_role: RoleName::device(),
            service: false,
            names_origin: true,
            leeway: SignedDuration::ZERO,
        };
        let issuer = Issuer { expected, algorithms, keys, source, stop: stop.clone() };
        Ok(Self {
            issuers: ArcSwap::from_pointee(HashMap::from([(ISSUER.to_owned(), Arc::new(issuer))])),
            cache: Cache::new(limits.cached_tokens),
            metrics: metrics.clone(),
        })
    }

    /// Puts other issuers in place of the present ones. On an error the present ones stay.
    ///
    /// # Errors
    /// [`SourceError`], as for [`Verifier::start`].
    pub fn replace(
        &self,
        configs: &[IssuerConfig],
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<(), SourceError> {
        let current = self.issuers.load_full();
        let mut issuers = HashMap::new();
        for config in configs {
            // Keys that come from where they came from stay, above all while their source is away.
            let known = current.get(&config.issuer).filter(|issuer| {
                issuer.source == config.keys && issuer.algorithms == config.algorithms
            });
            let (keys, stop) = match known {
                Some(issuer) => (Arc::clone(&issuer.keys), issuer.stop.clone()),
                None => (Arc::new(Keys::open(config, &self.metrics)?), stop.child_token()),
            };
            let issuer = Issuer {
                expected: config.expectations(),
                algorithms: config.algorithms.clone(),
                source: config.keys.clone(),
                keys,
                stop,
            };
            issuers.insert(config.issuer.clone(), Arc::new(issuer));
        }
        let has = |all: &HashMap<String, Arc<Issuer>>, keys: &Arc<Keys>| {
            all.values().any(|issuer| Arc::ptr_eq(&issuer.keys, keys))
        };
        for issuer in issuers.values().filter(|issuer| !has(&current, &issuer.keys)) {
            let issuer = Arc::clone(issuer);
            tasks.spawn(async move { issuer.keys.maintain(issuer.stop.clone()).await });
        }
        for old in current.values().filter(|old| !has(&issuers, &old.keys)) {
            old.stop.cancel();
        }
        self.issuers.store(Arc::new(issuers));
        self.cache.invalidate_all();
        Ok(())
    }

    /// The principal of a token that was verified lately and is still good, without any work worth
    /// limiting.
    pub fn cached(&self, token: &str, now: Timestamp) -> Option<Arc<Principal>> {
        self.lookup(&key_of(token), now)
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// The [`DenyReason`]; nothing about a denial is kept, so an outage is forgotten when it ends.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Verdict<Arc<Principal>> {
        if token.is_empty() {
            return Err(DenyReason::TokenMissing);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(DenyReason::TokenTooLarge);
        }
        let key = key_of(token);
        if let Some(principal) = self.lookup(&key, now) {
            self.metrics.token_cache.with_label_values(&["hit"]).inc();
            return Ok(principal);
        }
        self.metrics.token_cache.with_label_values(&["miss"]).inc();
        let cached = self.verify_signed(token, now).await?;
        let principal = Arc::clone(&cached.principal);
        self.cache.insert(key, cached);
        Ok(principal)
    }

    /// Whether an issuer of this name is configured.
    pub fn knows(&self, name: &str) -> bool {
        self.issuers.load().values().any(|issuer| *issuer.expected.name == *name)
    }

    /// Whether every issuer has keys.
    pub fn is_ready(&self) -> bool {
        self.issuers.load().values().all(|issuer| issuer.keys.is_ready())
    }

    fn lookup(&self, key: &[u8; 32], now: Timestamp) -> Option<Arc<Principal>> {
        let cached = self.cache.get(key)?;
        let current = self.issuers.load().get(&cached.issuer.expected.issuer).is_some_and(|i| {
            Arc::ptr_eq(i, &cached.issuer) && i.keys.generation() == cached.generation
        });
        let lives = cached
            .principal
            .expires_at
            .checked_add(cached.issuer.expected.leeway)
            .is_ok_and(|end| now < end);
        if current && cached.issuer.keys.is_ready() && lives {
            return Some(cached.principal);
        }
        self.cache.invalidate(key);
        None
    }

    async fn verify_signed(&self, token: &str, now: Timestamp) -> Verdict<Cached> {
        let (message, signature) = token.rsplit_once('.').ok_or(DenyReason::TokenMalformed)?;
        let (header, payload) = message.split_once('.').ok_or(DenyReason::TokenMalformed)?;
        let header: Header = decode(header)?;
        if header.crit.is_some() {
            return Err(DenyReason::TokenMalformed);
        }
        let algorithm =
            Algorithm::from_str(&header.alg).map_err(|_| DenyReason::AlgorithmNotAllowed)?;
        let claims: Claims = decode(payload)?;
        let issuer = claims
            .issuer()
            .and_then(|iss| self.issuers.load().get(iss).cloned())
            .ok_or(DenyReason::IssuerUnknown)?;
        if !issuer.algorithms.contains(&algorithm) {
            return Err(DenyReason::AlgorithmNotAllowed);
        }
        let kid = header.kid.as_deref();
        if kid.is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
            return Err(DenyReason::KeyUnknown);
        }
        // Read before the key is used: if the keys change meanwhile, the entry is stale at once.
        let generation = issuer.keys.generation();
        let checked = issuer
            .keys
            .with_key(kid, algorithm, |key| {
                jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm)
                    .ok()
                    .filter(|good| *good)
                    .map(|_| ())
                    .ok_or(DenyReason::SignatureInvalid)
            })
            .await;
        checked?;
        let principal = Arc::new(claims.principal(&issuer.expected, now)?);
        Ok(Cached { principal, issuer, generation })
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Verdict<T> {
    let bytes = BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| DenyReason::TokenMalformed)?;
    // An array of values in the order of the fields would be taken for an object.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(DenyReason::TokenMalformed);
    }
    serde_json::from_slice(&bytes).map_err(|_| DenyReason::TokenMalformed)
}

fn key_of(token: &str) -> [u8; 32] {
    let mut key = [0; 32];
    let digest = digest(&SHA256, token.as_bytes());
    key.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    key
}
