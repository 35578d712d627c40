//! The tokens that `bulkhead dev` and `bulkhead token mint` sign: a small issuer for development, tests
//! and first steps.

use bulkhead_policy::{DeviceId, RoleName, TenantId};
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

pub use bulkhead_control::issuer::{Signer, SignerError};

/// What a token is to say.
#[derive(Clone, Debug, Serialize)]
pub struct TokenRequest {
    /// `iss`.
    pub iss: String,
    /// `aud`.
    pub aud: String,
    /// `sub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// `iat`, in Unix seconds.
    pub iat: i64,
    /// `exp`, in Unix seconds.
    pub exp: i64,
    /// `jti`.
    pub jti: String,
}

impl TokenRequest {
    /// A token of now, with a random `jti`.
    ///
    /// # Errors
    /// [`SignerError`] if the system has no randomness.
    pub fn new(iss: &str, aud: &str, ttl: SignedDuration) -> Result<Self, SignerError> {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| SignerError::Generate("no randomness"))?;
        let iat = Timestamp::now().as_second();
        Ok(Self {
            iss: iss.to_owned(),
            aud: aud.to_owned(),
            sub: None,
            tenant: None,
            device: None,
            role: None,
            iat,
            exp: iat.saturating_add(ttl.as_secs()),
            jti: HEXLOWER.encode(&id),
        })
    }
}
