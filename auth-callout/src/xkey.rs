//! Encryption of callout requests and answers (X25519 and XSalsa20-Poly1305, as NATS's xkeys do it).

use crypto_box::aead::{Aead, AeadCore, OsRng};
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use moka::sync::Cache;
use nkeys::XKey;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::sync::Arc;

/// What every sealed message starts with.
const VERSION: &[u8] = b"xkv1";

/// Bytes of the nonce behind it.
const NONCE_BYTES: usize = 24;

/// Servers whose agreed key is kept. More than any cluster has; an attacker who invents servers
/// pushes out his own.
const MAX_SERVERS: u64 = 1024;

/// A curve key pair. The key agreed with each server is kept, because agreeing costs more than a
/// signature.
pub struct CurveKey {
    secret: SecretKey,
    public: String,
    agreed: Cache<String, Arc<SalsaBox>>,
}

/// A message that is not sealed for this key, or not by the one it claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is not sealed for this key by that sender")]
pub struct SealError;

/// A seed that is no curve key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no curve seed (SX…)")]
pub struct CurveSeedError;

impl CurveKey {
    /// The seed of a new random key.
    ///
    /// # Errors
    /// [`CurveSeedError`] if the system has no randomness.
    pub fn generate_seed() -> Result<SecretString, CurveSeedError> {
        let mut raw = [0; 32];
        aws_lc_rs::rand::fill(&mut raw).map_err(|_| CurveSeedError)?;
        XKey::new_from_raw(raw).seed().map(Into::into).map_err(|_| CurveSeedError)
    }

    /// Reads a seed.
    ///
    /// # Errors
    /// [`CurveSeedError`] if it is none.
    pub fn from_seed(seed: &SecretString) -> Result<Self, CurveSeedError> {
        let key = XKey::from_seed(seed.expose_secret()).map_err(|_| CurveSeedError)?;
        let (_, raw) = nkeys::decode_seed(seed.expose_secret()).map_err(|_| CurveSeedError)?;
        Ok(Self {
            secret: SecretKey::from(raw),
            public: key.public_key(),
            agreed: Cache::new(MAX_SERVERS),
        })
    }

    /// The public key in text, `X…`.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// Opens a message that the sender sealed for this key.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&self, sealed: &[u8], sender: &str) -> Result<Vec<u8>, SealError> {
        let body = sealed.strip_prefix(VERSION).ok_or(SealError)?;
        let (nonce, ciphertext) = body.split_at_checked(NONCE_BYTES).ok_or(SealError)?;
        self.agree(sender)?.decrypt(nonce.into(), ciphertext).map_err(|_| SealError)
    }

    /// Seals a message for the recipient.
    ///
    /// # Errors
    /// [`SealError`] if the recipient is no curve key.
    pub fn seal(&self, plain: &[u8], recipient: &str) -> Result<Vec<u8>, SealError> {
        let nonce = SalsaBox::generate_nonce(&mut OsRng);
        let ciphertext = self.agree(recipient)?.encrypt(&nonce, plain).map_err(|_| SealError)?;
        Ok([VERSION, nonce.as_slice(), &ciphertext].concat())
    }

    fn agree(&self, other: &str) -> Result<Arc<SalsaBox>, SealError> {
        if let Some(agreed) = self.agreed.get(other) {
            return Ok(agreed);
        }
        if !other.starts_with('X') {
            return Err(SealError);
        }
        let (_, raw) = nkeys::from_public_key(other).map_err(|_| SealError)?;
        let agreed = Arc::new(SalsaBox::new(&PublicKey::from(raw), &self.secret));
        self.agreed.insert(other.to_owned(), Arc::clone(&agreed));
        Ok(agreed)
    }
}

impl fmt::Debug for CurveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CurveKey").field(&self.public).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{CurveKey, SealError};
    use nkeys::XKey;

    #[test]
    fn speaks_with_nkeys_both_ways() {
        let server = XKey::new();
        let ours = CurveKey::from_seed(&CurveKey::generate_seed().unwrap()).unwrap();
        let ours_public = XKey::from_public_key(ours.public()).unwrap();
        let sealed = server.seal(b"request", &ours_public).unwrap();
        assert_eq!(ours.open(&sealed, &server.public_key()).unwrap(), b"request");
        let answer = ours.seal(b"answer", &server.public_key()).unwrap();
        assert_eq!(server.open(&answer, &ours_public).unwrap(), b"answer");
    }

    #[test]
    fn refuses_what_is_not_for_it() {
        let (server, other) = (XKey::new(), XKey::new());
        let ours = CurveKey::from_seed(&CurveKey::generate_seed().unwrap()).unwrap();
        let sealed = server.seal(b"x", &XKey::from_public_key(ours.public()).unwrap()).unwrap();
        assert_eq!(ours.open(&sealed, &other.public_key()), Err(SealError));
        assert_eq!(ours.open(&sealed[..sealed.len() - 1], &server.public_key()), Err(SealError));
        for short in [&b""[..], b"xkv1", b"xkv1short", b"plain text, not sealed at all........"] {
            assert_eq!(ours.open(short, &server.public_key()), Err(SealError));
        }
        assert_eq!(ours.open(&sealed, "not a key"), Err(SealError));
    }
}
