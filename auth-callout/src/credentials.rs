//! Credentials files for devices: a NATS user JWT that opens the way to the callout and nothing else.
//!
//! The JWT is signed for the callout's own account and may neither publish nor subscribe. A server
//! that sees it checks the device's signature of its nonce, then asks the callout, which finds tenant
//! and device in the tags and asks the directory whether they are still welcome.

use crate::jwt::{Claims, Permission, Unverified, User};
use crate::keyring::Keyring;
use crate::nkey::SigningKey;
use crate::operator::Operator;
use bulkhead_control::config::NatsConfig;
use bulkhead_control::http::exchange::{CredentialIssuer, ISSUER, Subject};
use bulkhead_policy::{
    Broker, DenyReason, DeviceId, Principal, RoleName, Scope, TenantId, TokenId, Verdict,
};
use jiff::Timestamp;
use nkeys::KeyPairType;
use secrecy::ExposeSecret;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

/// Issues the `nats` section of credentials files.
#[derive(Debug)]
pub struct NatsCredentials {
    operator: Arc<Operator>,
    urls: Vec<String>,
    ca_file: Option<String>,
}

impl NatsCredentials {
    /// An issuer of credentials for the configured servers.
    pub fn new(operator: Arc<Operator>, config: &NatsConfig) -> Self {
        Self {
            operator,
            urls: config.device_urls.as_ref().unwrap_or(&config.servers).clone(),
            ca_file: config.device_ca_file.clone(),
        }
    }
}

impl CredentialIssuer for NatsCredentials {
    fn section(&self) -> &'static str {
        "nats"
    }

    fn broker(&self) -> Broker {
        Broker::Nats
    }

    fn issue(&self, subject: &Subject) -> Verdict<serde_json::Value> {
        let internal = |_| DenyReason::Internal;
        let device = SigningKey::generate(KeyPairType::User).map_err(internal)?;
        let jwt = mint(&self.operator.keys(), device.public(), subject)?;
        let mut section = json!({
            "urls": self.urls,
            "jwt": jwt,
            "nkey_seed": device.seed().expose_secret(),
        });
        if let (Some(ca_file), Some(section)) = (&self.ca_file, section.as_object_mut()) {
            section.insert("tls".to_owned(), json!({"ca_file": ca_file}));
        }
        Ok(section)
    }
}

fn mint(keys: &Keyring, user: &str, subject: &Subject) -> Verdict<String> {
    let mut content = User::new(Permission::nothing(), Permission::nothing());
    content.issuer_account.clone_from(&keys.auth.account);
    content.tags = vec![
        format!("tenant:{}", subject.tenant),
        format!("device:{}", subject.device),
        format!("role:{}", subject.role),
        format!("id:{}", subject.id),
    ];
    content.tags.extend(subject.origin.as_ref().map(|origin| format!("origin:{origin}")));
    let mut claims = Claims::about(user, content);
    claims.name = format!("{}/{}", subject.tenant, subject.device);
    claims.exp = subject.expires_at.as_second();
    let signer = keys.auth.signer(subject.issued_at).ok_or(DenyReason::Internal)?;
    claims.sign(signer, subject.issued_at.as_second()).map_err(|_| DenyReason::Internal)
}

/// The principal of an issued JWT; `None` for the sentinel, which stands for no credentials.
///
/// The server has already checked that the client holds the JWT's key.
///
/// # Errors
/// [`DenyReason`] for a JWT that was not issued here or has expired.
pub fn principal(keys: &Keyring, jwt: &str, now: Timestamp) -> Verdict<Option<Principal>> {
    let unverified = Unverified::<User>::decode(jwt).map_err(|_| DenyReason::TokenMalformed)?;
    if unverified.peek().sub == keys.sentinel {
        return Ok(None);
    }
    if !keys.auth.owns(&unverified.peek().iss) {
        return Err(DenyReason::IssuerUnknown);
    }
    let claims = unverified.verify().map_err(|_| DenyReason::SignatureInvalid)?;
    let time = |seconds| Timestamp::from_second(seconds).map_err(|_| DenyReason::ClaimInvalid);
    let expires_at = match claims.exp {
        0 => return Err(DenyReason::ClaimMissing),
        seconds => time(seconds)?,
    };
    if expires_at <= now {
        return Err(DenyReason::TokenExpired);
    }
    let tags: HashMap<&str, &str> =
        claims.nats.tags.iter().filter_map(|tag| tag.split_once(':')).collect();
    let tag = |name| tags.get(name).copied().ok_or(DenyReason::ClaimMissing);
    let id = |text| TokenId::parse(text).map_err(|_| DenyReason::ClaimInvalid);
    Ok(Some(Principal {
        scope: Scope::Tenant(
            TenantId::parse(tag("tenant")?).map_err(|_| DenyReason::TenantInvalid)?,
        ),
        device: Some(DeviceId::parse(tag("device")?).map_err(|_| DenyReason::DeviceInvalid)?),
        role: RoleName::parse(tag("role")?).map_err(|_| DenyReason::RoleUnknown)?,
        issuer: ISSUER.into(),
        token_id: Some(id(tag("id")?)?),
        origin: tags.get("origin").copied().map(id).transpose()?,
        issued_at: Some(time(claims.iat)?),
        expires_at,
    }))
}
