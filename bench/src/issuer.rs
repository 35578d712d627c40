//! An issuer of tenants' tokens, as the service knows it.

use bulkhead_cli::signer::{Signer, TokenRequest};
use bulkhead_policy::{DeviceId, RoleName, TenantId};
use jiff::SignedDuration;
use std::path::Path;

/// `iss` of the tokens.
const ISSUER: &str = "https://issuer.invalid/bulkhead-bench";

/// `aud` of the tokens.
const AUDIENCE: &str = "bulkhead";

/// A key that signs tokens, and that the service trusts.
pub struct Issuer {
    signer: Signer,
}

impl Issuer {
    /// A new one, its files in the folder of `bulkhead.toml`.
    pub fn create(folder: &Path) -> Self {
        let signer = Signer::create(&folder.join("issuer.pem")).unwrap();
        std::fs::write(folder.join("issuer.jwks.json"), signer.jwks().to_string()).unwrap();
        Self { signer }
    }

    /// What `bulkhead.toml` says about it, after everything that belongs to no table.
    pub fn configuration(&self) -> String {
        format!(
            "[[issuers]]\n\
             name = \"bench\"\nissuer = \"{ISSUER}\"\naudiences = [\"{AUDIENCE}\"]\n\
             algorithms = [\"EdDSA\"]\ntenants = \"all\"\nkeys.jwks_file = \"issuer.jwks.json\"\n"
        )
    }

    /// A device's token, good for an hour. No two are the same.
    pub fn token(&self, tenant: &TenantId, device: &str) -> String {
        self.sign(tenant, Some(DeviceId::parse(device).unwrap()), "device")
    }

    /// The token of a member, good for an hour.
    pub fn member(&self, tenant: &TenantId) -> String {
        self.sign(tenant, None, "member")
    }

    fn sign(&self, tenant: &TenantId, device: Option<DeviceId>, role: &str) -> String {
        let mut request =
            TokenRequest::new(ISSUER, AUDIENCE, SignedDuration::from_hours(1)).unwrap();
        request.tenant = Some(tenant.clone());
        request.device = device;
        request.role = Some(RoleName::parse(role).unwrap());
        self.signer.sign(&request).unwrap()
    }
}
