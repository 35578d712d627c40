//! The keys of operator mode.
//!
//! Each tenant's account and its signing keys are derived from one root secret, so that any number of
//! replicas know the same accounts without sharing a database, and a new tenant needs no new file.
//! The operator's identity key is not here: it stays offline, and its signing key does the work.

mod file;

pub use file::{AccountSeeds, Dated, KeyringError, KeyringFile, RotateError, Rotation, Seed};

use crate::nkey::{NkeyError, SigningKey};
use crate::xkey::CurveKey;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use bulkhead_policy::TenantId;
use jiff::Timestamp;
use moka::sync::Cache;
use nkeys::KeyPairType;
use secrecy::{ExposeSecret, SecretString};
use std::path::Path;
use std::sync::Arc;

/// Derived keys that are kept.
const MAX_DERIVED: u64 = 65_536;

/// The keys of one moment.
#[derive(Debug)]
pub struct Keyring {
    /// Signs accounts.
    pub operator: SigningKey,
    /// The system account's public key, and who signs its users.
    pub system: AccountKeys,
    /// The callout's account, and who signs its users and the callout's answers.
    pub auth: AccountKeys,
    /// The registry's account, and who signs its users.
    pub registry: AccountKeys,
    /// The service's own user in the callout's account.
    pub callout_user: SigningKey,
    /// The service's own user in the system account.
    pub system_user: SigningKey,
    /// Public key of the user that stands for clients without a JWT.
    pub sentinel: String,
    /// Public key of who signed that user's JWT. It signs nothing else any more, once it is rotated.
    pub sentinel_issuer: Option<String>,
    /// Keys that requests may be sealed for, newest first.
    pub curves: Vec<Dated<Arc<CurveKey>>>,
    root: SecretString,
    tenant_signers: Vec<Dated<u32>>,
    derived: Cache<(TenantId, u32), Arc<SigningKey>>,
    accounts: Cache<TenantId, Arc<str>>,
}

/// An account and its signing keys, newest first.
#[derive(Debug)]
pub struct AccountKeys {
    /// The account's public key.
    pub account: String,
    /// Its signing keys.
    pub signers: Vec<Dated<Arc<SigningKey>>>,
}

impl AccountKeys {
    /// The newest key that is in use.
    ///
    /// A new key is published as soon as it is known and used only when its time has come, so that
    /// every server and every replica knows it by then.
    pub fn signer(&self, now: Timestamp) -> Option<&Arc<SigningKey>> {
        Dated::current(&self.signers, now)
    }

    /// All public keys, in use or not yet or no longer.
    pub fn public_keys(&self) -> Vec<String> {
        self.signers.iter().map(|dated| dated.value.public().to_owned()).collect()
    }

    /// Whether a public key is the account's or one of its signing keys.
    pub fn owns(&self, public: &str) -> bool {
        self.account == public || self.signers.iter().any(|dated| dated.value.public() == public)
    }
}

impl Keyring {
    /// Reads the keys of a folder that `bulkhead init nats` made.
    ///
    /// # Errors
    /// [`KeyringError`], which names the file.
    pub fn read(folder: &Path) -> Result<Self, KeyringError> {
        let path = KeyringFile::path(folder);
        Self::open(&KeyringFile::read(folder)?)
            .map_err(|cause| KeyringError::Key { path, cause: cause.to_string() })
    }

    /// Opens the keys of a file.
    ///
    /// # Errors
    /// [`NkeyError`] if a seed is none.
    pub fn open(file: &KeyringFile) -> Result<Self, NkeyError> {
        let key = |kind, seed: &Seed| SigningKey::from_seed(kind, &seed.0);
        let keys = |keys: &AccountSeeds| -> Result<AccountKeys, NkeyError> {
            let open = |dated: &Dated<Seed>| {
                dated.try_map(|seed| key(KeyPairType::Account, seed).map(Arc::new))
            };
            Ok(AccountKeys {
                account: keys.account.clone(),
                signers: keys.signers.iter().map(open).collect::<Result<_, _>>()?,
            })
        };
        let curve = |dated: &Dated<Seed>| {
            dated.try_map(|seed| {
                CurveKey::from_seed(&seed.0).map(Arc::new).map_err(|_| NkeyError::CURVE)
            })
        };
        Ok(Self {
            operator: key(KeyPairType::Operator, &file.operator_signer)?,
            system: keys(&file.system)?,
            auth: keys(&file.auth)?,
            registry: keys(&file.registry)?,
            callout_user: key(KeyPairType::User, &file.callout_user)?,
            system_user: key(KeyPairType::User, &file.system_user)?,
            sentinel: file.sentinel.clone(),
            sentinel_issuer: file.sentinel_issuer.clone(),
            curves: file.curves.iter().map(curve).collect::<Result<_, _>>()?,
            root: file.tenant_root.0.clone(),
            tenant_signers: file.tenant_signers.clone(),
            derived: Cache::new(MAX_DERIVED),
            accounts: Cache::new(MAX_DERIVED),
        })
    }

    /// A tenant's account.
    ///
    /// # Errors
    /// None in practice: every 32 bytes are a key.
    pub fn account_of(&self, tenant: &TenantId) -> Result<Arc<str>, NkeyError> {
        if let Some(account) = self.accounts.get(tenant) {
            return Ok(account);
        }
        // The account's identity key signs nothing, so only its public half is ever made.
        let key = self.derive(&["account", tenant.as_str()])?;
        let account: Arc<str> = key.public().into();
        self.accounts.insert(tenant.clone(), Arc::clone(&account));
        Ok(account)
    }

    /// The key that signs a tenant's users now.
    ///
    /// # Errors
    /// [`NkeyError`] if the keyring has no key that is in use.
    pub fn signer_of(
        &self,
        tenant: &TenantId,
        now: Timestamp,
    ) -> Result<Arc<SigningKey>, NkeyError> {
        let number = Dated::current(&self.tenant_signers, now).ok_or(NkeyError::NONE_CURRENT)?;
        self.tenant_key(tenant, *number)
    }

    /// The public keys that may have signed, or will sign, a tenant's users.
    ///
    /// # Errors
    /// None in practice, as for [`Keyring::account_of`].
    pub fn signers_of(&self, tenant: &TenantId) -> Result<Vec<String>, NkeyError> {
        self.tenant_signers
            .iter()
            .map(|dated| Ok(self.tenant_key(tenant, dated.value)?.public().to_owned()))
            .collect()
    }

    /// The curve key that servers are told to seal for.
    pub fn curve(&self, now: Timestamp) -> Option<&Arc<CurveKey>> {
        Dated::current(&self.curves, now)
    }

    /// When the next key comes into use, if one is waiting.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let signers = self.auth.signers.iter().map(|dated| dated.from);
        let numbers = self.tenant_signers.iter().map(|dated| dated.from);
        let curves = self.curves.iter().map(|dated| dated.from);
        signers.chain(numbers).chain(curves).filter(|from| *from > now).min()
    }

    fn tenant_key(&self, tenant: &TenantId, number: u32) -> Result<Arc<SigningKey>, NkeyError> {
        let id = (tenant.clone(), number);
        if let Some(key) = self.derived.get(&id) {
            return Ok(key);
        }
        let key = Arc::new(self.derive(&["signer", tenant.as_str(), &number.to_string()])?);
        self.derived.insert(id, Arc::clone(&key));
        Ok(key)
    }

    /// HKDF-SHA256 (RFC 5869). Ids hold no `/`, so no two lists of parts join to the same text.
    fn derive(&self, parts: &[&str]) -> Result<SigningKey, NkeyError> {
        struct Bytes32;
        impl KeyType for Bytes32 {
            fn len(&self) -> usize {
                32
            }
        }
        let info = parts.join("/");
        let mut raw = [0; 32];
        Salt::new(HKDF_SHA256, b"bulkhead nats tenant accounts")
            .extract(self.root.expose_secret().as_bytes())
            .expand(&[info.as_bytes()], Bytes32)
            .and_then(|okm| okm.fill(&mut raw))
            .map_err(|_| NkeyError::DERIVE)?;
        SigningKey::from_raw(KeyPairType::Account, raw)
    }
}
