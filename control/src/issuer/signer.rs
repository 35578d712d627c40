//! Signing tokens: as the exchange does, and as a small issuer for development, tests and first steps.

use crate::files;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// An Ed25519 key that signs tokens.
pub struct Signer {
    key: EncodingKey,
    public: Vec<u8>,
}

/// Why there is no key, or no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// The file.
    #[error("{0}; check the path")]
    Io(#[from] std::io::Error),
    /// Its content.
    #[error("{} holds no private Ed25519 key in PEM (PKCS #8); make one with `bulkhead init issuer`", .0.display())]
    NoKey(PathBuf),
    /// Randomness, above all.
    #[error("a key cannot be made: {0}")]
    Generate(&'static str),
    /// The token.
    #[error("the token cannot be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

impl Signer {
    /// Makes a new key and writes it to a file that does not exist yet.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn create(path: &Path) -> Result<Self, SignerError> {
        let pair =
            Ed25519KeyPair::generate().map_err(|_| SignerError::Generate("no randomness"))?;
        let der = pair.to_pkcs8v1().map_err(|_| SignerError::Generate("no encoding"))?;
        let text = pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()));
        files::create_secret(path, text.as_bytes())?;
        Self::read(path)
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn read(path: &Path) -> Result<Self, SignerError> {
        let text = files::read_text(path)?;
        let no_key = || SignerError::NoKey(path.to_owned());
        let der = pem::parse(&text).map_err(|_| no_key())?;
        let pair = Ed25519KeyPair::from_pkcs8(der.contents()).map_err(|_| no_key())?;
        Ok(Self {
            key: EncodingKey::from_ed_der(der.contents()),
            public: pair.public_key().as_ref().to_vec(),
        })
    }

    /// The id of the key: the beginning of its public half.
    pub fn key_id(&self) -> String {
        BASE64URL_NOPAD.encode(self.public.get(..9).unwrap_or(&self.public))
    }

    /// The key set that verifies its tokens (RFC 8037 §2).
    pub fn jwks(&self) -> serde_json::Value {
        serde_json::json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
            "kid": self.key_id(), "x": BASE64URL_NOPAD.encode(&self.public),
        }]})
    }

    /// Whether a key set, as JSON, holds the public half of this key.
    pub fn is_in(&self, jwks: &str) -> bool {
        let set: serde_json::Value = serde_json::from_str(jwks).unwrap_or_default();
        let own = BASE64URL_NOPAD.encode(&self.public);
        let keys = set.get("keys").and_then(|keys| keys.as_array());
        let is_own = |key: &serde_json::Value| {
            key.get("x").and_then(serde_json::Value::as_str) == Some(&own)
        };
        keys.is_some_and(|keys| keys.iter().any(is_own))
    }

    /// Signs a token.
    ///
    /// # Errors
    /// [`SignerError::Sign`].
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, SignerError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.key_id());
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}
