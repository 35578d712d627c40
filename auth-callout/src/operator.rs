//! Operator mode at run time: the current keyring, and where principals are put.

use crate::keyring::{Keyring, KeyringError};
use crate::nkey::SigningKey;
use arc_swap::ArcSwap;
use bulkhead_policy::{DenyReason, Scope, Verdict};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The current keys of operator mode. They are read again when the keyring changes.
#[derive(Debug)]
pub struct Operator {
    folder: PathBuf,
    keys: ArcSwap<Keyring>,
}

/// Who signs a user, and for which account.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The signing key.
    pub signer: Arc<SigningKey>,
    /// The account.
    pub account: Arc<str>,
}

impl Operator {
    /// Reads a folder of keys.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn open(folder: &Path) -> Result<Self, KeyringError> {
        let keys = Keyring::read(folder)?;
        Ok(Self { folder: folder.to_owned(), keys: ArcSwap::from_pointee(keys) })
    }

    /// The keys as they are now.
    pub fn keys(&self) -> Arc<Keyring> {
        self.keys.load_full()
    }

    /// Reads the folder again; on an error the present keys stay.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn reload(&self) -> Result<(), KeyringError> {
        self.keys.store(Arc::new(Keyring::read(&self.folder)?));
        Ok(())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a principal belongs: its tenant's account, or the registry's for services.
    ///
    /// # Errors
    /// [`DenyReason::Internal`] if the keyring has no key in use.
    pub fn place(&self, scope: &Scope, now: Timestamp) -> Verdict<Placement> {
        let keys = self.keys.load();
        match scope {
            Scope::Tenant(tenant) => Ok(Placement {
                signer: keys.signer_of(tenant, now).map_err(|_| DenyReason::Internal)?,
                account: keys.account_of(tenant).map_err(|_| DenyReason::Internal)?,
            }),
            Scope::Service => Ok(Placement {
                signer: keys.registry.signer(now).cloned().ok_or(DenyReason::Internal)?,
                account: keys.registry.account.as_str().into(),
            }),
        }
    }
}
