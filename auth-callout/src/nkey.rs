//! Ed25519 keys in NATS's text form.
//!
//! The crate `nkeys` does the encoding. Signing is done by aws-lc-rs, which takes less than half as
//! long, and three signatures and verifications are most of what an answer costs.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use nkeys::KeyPairType;
use secrecy::{ExposeSecret, SecretString};
use std::{fmt, mem};

/// A private key, with its public half in text.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: String,
    seed: SecretString,
}

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no nkey of the kind that is needed here ({0})")]
pub struct NkeyError(&'static str);

impl NkeyError {
    pub(crate) const CURVE: Self = Self("a curve seed, SX…");
    pub(crate) const DERIVE: Self = Self("derived from the root secret");
    pub(crate) const NONE_CURRENT: Self = Self("in use now");
}

impl SigningKey {
    /// A new random key.
    ///
    /// # Errors
    /// [`NkeyError`] if the system has no randomness.
    pub fn generate(kind: KeyPairType) -> Result<Self, NkeyError> {
        let mut raw = [0; 32];
        aws_lc_rs::rand::fill(&mut raw).map_err(|_| NkeyError("no randomness"))?;
        Self::from_raw(kind, raw)
    }

    /// The key of these 32 secret bytes.
    ///
    /// # Errors
    /// None in practice: every 32 bytes are a key.
    pub fn from_raw(kind: KeyPairType, raw: [u8; 32]) -> Result<Self, NkeyError> {
        let encoded = nkeys::KeyPair::new_from_raw(kind, raw).map_err(|_| NkeyError("32 bytes"))?;
        let seed = encoded.seed().map_err(|_| NkeyError("32 bytes"))?;
        Self::from_seed(encoded.key_pair_type(), &seed.into())
    }

    /// Reads a seed of this kind, such as `SA…`, an account's.
    ///
    /// # Errors
    /// [`NkeyError`] if it is none, or of another kind.
    pub fn from_seed(kind: KeyPairType, seed: &SecretString) -> Result<Self, NkeyError> {
        let error = NkeyError(match kind {
            KeyPairType::Operator => "an operator's seed, SO…",
            KeyPairType::Account => "an account's seed, SA…",
            KeyPairType::User => "a user's seed, SU…",
            _ => "a seed, S…",
        });
        let encoded = nkeys::KeyPair::from_seed(seed.expose_secret()).map_err(|_| error)?;
        if mem::discriminant(&encoded.key_pair_type()) != mem::discriminant(&kind) {
            return Err(error);
        }
        let (_, raw) = nkeys::decode_seed(seed.expose_secret()).map_err(|_| error)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&raw).map_err(|_| error)?;
        let public = encoded.public_key();
        let (_, expected) = nkeys::from_public_key(&public).map_err(|_| error)?;
        if pair.public_key().as_ref() != expected {
            return Err(error);
        }
        Ok(Self { pair, public, seed: seed.clone() })
    }

    /// The public key in text.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The seed in text.
    pub fn seed(&self) -> &SecretString {
        &self.seed
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        let bytes = self.pair.sign(message);
        signature.iter_mut().zip(bytes.as_ref()).for_each(|(to, from)| *to = *from);
        signature
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}

/// Whether a signature is the public key's; a text that is no public key has signed nothing.
pub fn verify(public: &str, message: &[u8], signature: &[u8]) -> bool {
    nkeys::from_public_key(public).is_ok_and(|(_, raw)| {
        UnparsedPublicKey::new(&ED25519, raw).verify(message, signature).is_ok()
    })
}

/// Whether this is a public key that starts with this letter (`A` account, `N` server, `U` user …).
pub fn is_public(text: &str, kind: char) -> bool {
    text.starts_with(kind) && nkeys::from_public_key(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{SigningKey, is_public, verify};
    use nkeys::{KeyPair, KeyPairType};

    #[test]
    fn signs_as_nkeys_does() {
        let reference = KeyPair::new_account();
        let seed = reference.seed().unwrap().into();
        let key = SigningKey::from_seed(KeyPairType::Account, &seed).unwrap();
        assert_eq!(key.public(), reference.public_key());
        assert_eq!(key.sign(b"x").to_vec(), reference.sign(b"x").unwrap());
        assert!(verify(key.public(), b"x", &key.sign(b"x")));
        assert!(!verify(key.public(), b"y", &key.sign(b"x")));
        assert!(!verify("AAAA", b"x", &key.sign(b"x")));
    }

    #[test]
    fn a_seed_of_another_kind_is_none() {
        let operator = KeyPair::new_operator().seed().unwrap().into();
        let error = SigningKey::from_seed(KeyPairType::Account, &operator).unwrap_err();
        assert!(error.to_string().contains("SA…"), "{error}");
        assert!(SigningKey::from_seed(KeyPairType::Operator, &operator).is_ok());
    }

    #[test]
    fn a_seed_is_not_shown() {
        let key = SigningKey::generate(KeyPairType::Account).unwrap();
        assert_eq!(format!("{key:?}"), format!("SigningKey({:?})", key.public()));
        assert!(is_public(key.public(), 'A') && !is_public(key.public(), 'U'));
    }
}
