//! The keyring's file, `keyring.json`: everything that the service signs with.

use crate::nkey::{NkeyError, SigningKey};
use crate::xkey::CurveKey;
use bulkhead_control::files;
use jiff::{SignedDuration, Timestamp};
use nkeys::KeyPairType;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use std::io;
use std::path::{Path, PathBuf};

/// The file's name in its folder.
const NAME: &str = "keyring.json";

/// How long a new key is only published before it is used: time for every replica to read it and for
/// every server to be told.
const LEAD: SignedDuration = SignedDuration::from_secs(10);

/// Keys of one kind that are kept; rotating further drops the oldest.
const KEPT: usize = 3;

/// Something that is in use from a certain time on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dated<T> {
    /// From when on.
    pub from: Timestamp,
    /// What.
    pub value: T,
}

/// A secret text that is written into the keyring's file, and shown nowhere else.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub SecretString);

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose_secret())
    }
}

impl<T> Dated<T> {
    /// The newest that is in use, or the first of all if none is yet.
    pub fn current(all: &[Self], now: Timestamp) -> Option<&T> {
        let in_use = all.iter().filter(|dated| dated.from <= now);
        in_use.max_by_key(|dated| dated.from).or(all.last()).map(|dated| &dated.value)
    }

    pub(super) fn try_map<U, E>(&self, map: impl Fn(&T) -> Result<U, E>) -> Result<Dated<U>, E> {
        Ok(Dated { from: self.from, value: map(&self.value)? })
    }

    /// Puts a new one first and drops those beyond the number that is kept.
    ///
    /// What is dropped may still be what everybody uses, or what was signed or sealed a moment ago: so
    /// another that is kept has to have been in use for as long as it takes for all to know.
    fn rotate(all: &mut Vec<Self>, value: T, now: Timestamp) -> Result<Timestamp, RotateError> {
        let kept = all.iter().take(KEPT - 1);
        if all.len() >= KEPT
            && let Some(first) = kept.map(|dated| dated.from).min()
        {
            let until = later(first)?;
            if until > now {
                return Err(RotateError::TooSoon { wait: until.duration_since(now) });
            }
        }
        let from = later(now)?;
        all.insert(0, Self { from, value });
        all.truncate(KEPT);
        Ok(from)
    }
}

/// The file's content.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyringFile {
    /// The operator's public key.
    pub operator: String,
    /// Seed of the operator's signing key.
    pub operator_signer: Seed,
    /// The system account.
    pub system: AccountSeeds,
    /// The callout's account.
    pub auth: AccountSeeds,
    /// The registry's account.
    pub registry: AccountSeeds,
    /// Seed of the service's user in the callout's account.
    pub callout_user: Seed,
    /// Seed of the service's user in the system account.
    pub system_user: Seed,
    /// Public key of the sentinel user.
    pub sentinel: String,
    /// Public key of the auth account's signing key that signed the sentinel's JWT, which stands in the
    /// servers' configuration and so outlives that key. Without it in the account, servers would refuse
    /// everybody who has no JWT of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel_issuer: Option<String>,
    /// Secret that every tenant's account is derived from. It cannot be changed without giving every
    /// tenant another account.
    pub tenant_root: Seed,
    /// Numbers of the tenants' signing keys, newest first.
    pub tenant_signers: Vec<Dated<u32>>,
    /// Curve seeds, newest first.
    pub curves: Vec<Dated<Seed>>,
}

/// An account's public key and the seeds of its signing keys, newest first. The seed of the account
/// itself is thrown away when it is made: nothing needs it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSeeds {
    /// The public key.
    pub account: String,
    /// The seeds.
    pub signers: Vec<Dated<Seed>>,
}

impl AccountSeeds {
    /// The public half of the first signing key.
    fn oldest_issuer(&self) -> Option<String> {
        let oldest = &self.signers.last()?.value;
        let key = SigningKey::from_seed(KeyPairType::Account, &oldest.0).ok()?;
        Some(key.public().to_owned())
    }
}

/// What can be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The key that signs the callout's answers and issued credentials.
    Issuer,
    /// The keys that sign the tenants' users.
    Tenants,
    /// The key that requests are sealed for.
    Curve,
}

/// Why there is no new key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The oldest key is in use, or was a moment ago, and only three are kept.
    #[error("the keys of the last rotations are not in use yet, and this would drop the one that is; rotate again in {} s", wait.as_secs().saturating_add(1))]
    TooSoon {
        /// How long that takes.
        wait: SignedDuration,
    },
    /// No randomness, above all.
    #[error("a key cannot be made: {0}")]
    Generate(#[from] NkeyError),
}

/// Why there is no keyring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The file.
    #[error("{0}; make one with `bulkhead init nats`")]
    Io(#[from] io::Error),
    /// Its content.
    #[error("{}: {cause}; restore it from a backup, because tenants' accounts depend on it", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: serde_json::Error,
    },
    /// A key in it.
    #[error("{}: {cause}; restore it from a backup", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// No randomness, above all.
    #[error("a key cannot be made: {0}")]
    Generate(#[from] NkeyError),
}

impl KeyringFile {
    /// The file in a folder.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(NAME)
    }

    /// Makes all keys anew. `operator` is the operator's public identity key.
    ///
    /// # Errors
    /// [`NkeyError`] if the system has no randomness.
    pub fn generate(operator: &SigningKey) -> Result<Self, NkeyError> {
        let now = Timestamp::now();
        let seed = |kind| Ok::<_, NkeyError>(Seed(SigningKey::generate(kind)?.seed().clone()));
        let account = || {
            let seed = seed(KeyPairType::Account)?;
            Ok::<_, NkeyError>(AccountSeeds {
                account: SigningKey::generate(KeyPairType::Account)?.public().to_owned(),
                signers: vec![Dated { from: now, value: seed }],
            })
        };
        let root = SigningKey::generate(KeyPairType::Account)?;
        let auth = account()?;
        Ok(Self {
            operator: operator.public().to_owned(),
            operator_signer: seed(KeyPairType::Operator)?,
            system: account()?,
            sentinel_issuer: auth.oldest_issuer(),
            auth,
            registry: account()?,
            callout_user: seed(KeyPairType::User)?,
            system_user: seed(KeyPairType::User)?,
            sentinel: SigningKey::generate(KeyPairType::User)?.public().to_owned(),
            // A seed is 256 random bits; it is used as nothing but that.
            tenant_root: Seed(root.seed().clone()),
            tenant_signers: vec![Dated { from: now, value: 1 }],
            curves: vec![Dated { from: now, value: new_curve()? }],
        })
    }

    /// Reads the file of a folder.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn read(folder: &Path) -> Result<Self, KeyringError> {
        let path = Self::path(folder);
        let text = files::read_text(&path)?;
        serde_json::from_str(&text).map_err(|cause| KeyringError::Syntax { path, cause })
    }

    /// Writes the file into a folder in one step; only the first time unless `replace`.
    ///
    /// # Errors
    /// [`KeyringError::Io`].
    pub fn write(&self, folder: &Path, replace: bool) -> Result<(), KeyringError> {
        let path = Self::path(folder);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|cause| KeyringError::Syntax { path: path.clone(), cause })?;
        if replace {
            files::write_secret(&path, &text)?;
        } else {
            files::create_secret(&path, &text)?;
        }
        Ok(())
    }

    /// Adds a new key of one kind, in use ten seconds from now; returns when that is. Older ones stay
    /// good until two more rotations have pushed them out.
    ///
    /// # Errors
    /// [`RotateError`]; nothing has changed then.
    pub fn rotate(&mut self, what: Rotation) -> Result<Timestamp, RotateError> {
        let now = Timestamp::now();
        match what {
            Rotation::Issuer => {
                // Where the keyring does not say so, it is the one that was there before all others.
                if self.sentinel_issuer.is_none() {
                    self.sentinel_issuer = self.auth.oldest_issuer();
                }
                let seed = Seed(SigningKey::generate(KeyPairType::Account)?.seed().clone());
                Dated::rotate(&mut self.auth.signers, seed, now)
            }
            Rotation::Tenants => {
                let newest = self.tenant_signers.iter().map(|dated| dated.value).max();
                Dated::rotate(&mut self.tenant_signers, newest.unwrap_or(0) + 1, now)
            }
            Rotation::Curve => Dated::rotate(&mut self.curves, new_curve()?, now),
        }
    }
}

/// When everybody knows of what is new at this time.
fn later(time: Timestamp) -> Result<Timestamp, RotateError> {
    Ok(time.checked_add(LEAD).map_err(|_| NkeyError::NONE_CURRENT)?)
}

fn new_curve() -> Result<Seed, NkeyError> {
    CurveKey::generate_seed().map(Seed).map_err(|_| NkeyError::CURVE)
}
