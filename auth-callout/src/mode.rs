//! The two ways in which tenants and accounts go together.

use crate::credentials;
use crate::jwt::{AuthResponse, Claims, User};
use crate::live::Provisioner;
use crate::nkey::SigningKey;
use crate::operator::Operator;
use crate::xkey::CurveKey;
use bulkhead_control::config::ConfigModeAccounts;
use bulkhead_control::files::read_text;
use bulkhead_policy::{DenyReason, Principal, Scope, TenantId, Verdict};
use jiff::Timestamp;
use nkeys::KeyPairType;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// How accounts are known and who signs for them.
#[derive(Debug)]
pub enum Mode {
    /// An account for each tenant, made here.
    Operator {
        /// The keys.
        operator: Arc<Operator>,
        /// Who tells the servers of the accounts.
        provisioner: Arc<Provisioner>,
    },
    /// Accounts of the server's own file.
    Config(Arc<ConfigMode>),
}

/// Config mode: one issuer signs for all accounts.
#[derive(Debug)]
pub struct ConfigMode {
    issuer: SigningKey,
    curve: Option<Arc<CurveKey>>,
    accounts: BTreeMap<TenantId, String>,
    service_account: Option<String>,
}

/// Why config mode cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigModeError {
    /// A file cannot be read.
    #[error("nats.config_mode: {0}")]
    File(#[from] std::io::Error),
    /// A seed file holds none.
    #[error("nats.config_mode.{setting}: {path} holds no seed of the right kind; {remedy}")]
    Seed {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl ConfigMode {
    /// Reads the seeds.
    ///
    /// # Errors
    /// [`ConfigModeError`].
    pub fn open(config: &ConfigModeAccounts) -> Result<Self, ConfigModeError> {
        let seed_error = |setting, path: &Path, remedy| ConfigModeError::Seed {
            setting,
            path: path.display().to_string(),
            remedy,
        };
        let seed = |path: &Path| -> std::io::Result<SecretString> {
            Ok(read_text(path)?.trim().to_owned().into())
        };
        let issuer = SigningKey::from_seed(KeyPairType::Account, &seed(&config.issuer_seed_file)?).map_err(|_| {
            let remedy = "make one with `nsc generate nkey --account` and put its public key into \
                          auth_callout.issuer";
            seed_error("issuer_seed_file", &config.issuer_seed_file, remedy)
        })?;
        let curve = config
            .xkey_seed_file
            .as_ref()
            .map(|path| {
                CurveKey::from_seed(&seed(path)?).map(Arc::new).map_err(|_| {
                    let remedy = "make one with `nsc generate nkey --curve` and put its public \
                                  key into auth_callout.xkey";
                    seed_error("xkey_seed_file", path, remedy)
                })
            })
            .transpose()?;
        Ok(Self {
            issuer,
            curve,
            accounts: config.accounts.clone(),
            service_account: config.service_account.clone(),
        })
    }

    /// The account of a tenant, or of the services.
    pub fn account(&self, scope: &Scope) -> Option<&String> {
        match scope {
            Scope::Tenant(tenant) => self.accounts.get(tenant),
            Scope::Service => self.service_account.as_ref(),
        }
    }
}

impl Mode {
    /// The principal of a NATS user JWT that a client holds the key of; `None` if it stands for
    /// none.
    ///
    /// # Errors
    /// [`DenyReason`] for a JWT of somebody else.
    pub fn principal(&self, jwt: &str, now: Timestamp) -> Verdict<Option<Principal>> {
        match self {
            Self::Operator { operator, .. } => credentials::principal(&operator.keys(), jwt, now),
            // A server in config mode knows no user JWTs, and shows none.
            Self::Config(_) => Err(DenyReason::IssuerUnknown),
        }
    }

    /// Signs a user for the account that the scope belongs to, once the servers know that account.
    ///
    /// # Errors
    /// [`DenyReason::TenantUnknown`] without an account, [`DenyReason::Internal`] if the servers cannot
    /// be told of it.
    pub async fn sign_user(
        &self,
        scope: &Scope,
        mut claims: Claims<User>,
        now: Timestamp,
    ) -> Verdict<String> {
        let signed = match self {
            Self::Operator { operator, provisioner } => {
                if let Scope::Tenant(tenant) = scope {
                    provisioner.ensure(tenant).await?;
                }
                let placement = operator.place(scope, now)?;
                placement.account.as_ref().clone_into(&mut claims.nats.issuer_account);
                claims.sign(&placement.signer, now.as_second())
            }
            Self::Config(config) => {
                let account = config.account(scope).ok_or(DenyReason::TenantUnknown)?;
                account.clone_into(&mut claims.aud);
                claims.sign(&config.issuer, now.as_second())
            }
        };
        signed.map_err(|_| DenyReason::Internal)
    }

    /// Signs an answer.
    ///
    /// # Errors
    /// [`DenyReason::Internal`] if there is no key in use.
    pub fn sign_answer(&self, mut claims: Claims<AuthResponse>, now: Timestamp) -> Verdict<String> {
        let signed = match self {
            Self::Operator { operator, .. } => {
                let keys = operator.keys();
                let signer = keys.auth.signer(now).ok_or(DenyReason::Internal)?;
                claims.nats.issuer_account.clone_from(&keys.auth.account);
                claims.sign(signer, now.as_second())
            }
            Self::Config(config) => claims.sign(&config.issuer, now.as_second()),
        };
        signed.map_err(|_| DenyReason::Internal)
    }

    /// The keys that requests may be sealed for, and so have to be; empty if requests come in the
    /// clear.
    pub fn curves(&self) -> Vec<Arc<CurveKey>> {
        match self {
            Self::Operator { operator, .. } => {
                operator.keys().curves.iter().map(|dated| Arc::clone(&dated.value)).collect()
            }
            Self::Config(config) => config.curve.iter().cloned().collect(),
        }
    }
}
