//! The public keys of an issuer.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use secrecy::{ExposeSecret, SecretString};

/// Largest key set that is read: 256 KiB.
pub(crate) const MAX_JWKS_BYTES: usize = 256 * 1024;

/// Most keys that are kept of a set.
const MAX_KEYS: usize = 128;

/// Longest `kid` that is compared, in bytes.
const MAX_KID_BYTES: usize = 256;

/// Smallest RSA modulus, in bits (RFC 7518 §3.3).
const MIN_RSA_BITS: usize = 2048;

/// Smallest shared secret, in bytes: the size of SHA-256's output (RFC 7518 §3.2).
const MIN_SECRET_BYTES: usize = 32;

/// The keys of an issuer, each for certain algorithms.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A reader of one kind of key in PEM.
type ParsePem = fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>;

/// Why a text holds no usable key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No JWKS (RFC 7517 §5).
    #[error("is no JWKS: {0}")]
    Jwks(String),
    /// No key of the set can verify anything.
    #[error("holds no usable signature key ({0})")]
    Empty(String),
    /// No PEM of a public key of a kind that the issuer's algorithms use.
    #[error("is no PEM public key for {0:?}; export it with `openssl pkey -in key.pem -pubout`")]
    Pem(Vec<Algorithm>),
    /// An RSA key that can be broken.
    #[error("has an RSA key of {0} bits; use at least {MIN_RSA_BITS}")]
    WeakRsa(usize),
    /// A guessable secret.
    #[error("has fewer than {MIN_SECRET_BYTES} bytes; make one with `openssl rand -base64 48`")]
    WeakSecret,
}

impl KeySet {
    /// Reads a JWKS, leaving out what is not for signatures of these algorithms.
    ///
    /// One key that cannot be used does not spoil the others.
    ///
    /// # Errors
    /// [`KeyError`] if none can be used.
    pub fn from_jwks(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        // Members that are no keys this library knows must not hide those that are.
        let set: serde_json::Value =
            serde_json::from_slice(text).map_err(|e| KeyError::Jwks(e.to_string()))?;
        let members = set
            .get("keys")
            .and_then(serde_json::Value::as_array)
            .ok_or_else(|| KeyError::Jwks("it has no array `keys`".to_owned()))?;
        let known = members.iter().filter_map(|m| serde_json::from_value::<Jwk>(m.clone()).ok());
        let set = JwkSet { keys: known.take(MAX_KEYS).collect() };
        let mut problem = format!("{} members, none of a kind in use", members.len());
        let mut keys = Vec::new();
        for jwk in &set.keys {
            match Key::from_jwk(jwk, algorithms) {
                Ok(Some(key)) => keys.push(key),
                Ok(None) => {}
                Err(error) => problem = error.to_string(),
            }
        }
        if keys.is_empty() { Err(KeyError::Empty(problem)) } else { Ok(Self { keys }) }
    }

    /// Reads one public key in PEM, which then verifies tokens whatever their `kid`.
    ///
    /// # Errors
    /// [`KeyError`] if it is none, or a weak one.
    pub fn from_pem(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let of_family = |family| -> Vec<Algorithm> {
            algorithms.iter().copied().filter(|a| a.family() == family).collect()
        };
        let attempts: [(_, ParsePem); 3] = [
            (AlgorithmFamily::Ed, DecodingKey::from_ed_pem),
            (AlgorithmFamily::Ec, DecodingKey::from_ec_pem),
            (AlgorithmFamily::Rsa, DecodingKey::from_rsa_pem),
        ];
        for (family, parse) in attempts {
            let algorithms = of_family(family);
            if algorithms.is_empty() {
                continue;
            }
            if let Ok(key) = parse(text) {
                if family == AlgorithmFamily::Rsa {
                    check_rsa(&key)?;
                }
                return Ok(Self { keys: vec![Key { id: None, algorithms, key }] });
            }
        }
        Err(KeyError::Pem(algorithms.to_vec()))
    }

    /// A shared secret.
    ///
    /// # Errors
    /// [`KeyError::WeakSecret`].
    pub fn from_secret(secret: &SecretString, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let secret = secret.expose_secret().trim().as_bytes();
        if secret.len() < MIN_SECRET_BYTES {
            return Err(KeyError::WeakSecret);
        }
        let key = DecodingKey::from_secret(secret);
        Ok(Self { keys: vec![Key { id: None, algorithms: algorithms.to_vec(), key }] })
    }

    /// The key that verifies a token with this header.
    ///
    /// The key of that id goes first. A key without an id serves any `kid`, and any key a token without
    /// a `kid`, but only where it is the only one that could be meant.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let fitting = || self.keys.iter().filter(|key| key.algorithms.contains(&algorithm));
        if let Some(kid) = kid
            && let Some(key) = fitting().find(|key| key.id.as_deref() == Some(kid))
        {
            return Some(&key.key);
        }
        let mut others = fitting().filter(|key| kid.is_none() || key.id.is_none());
        match (others.next(), others.next()) {
            (Some(key), None) => Some(&key.key),
            _ => None,
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Key {
    fn from_jwk(jwk: &Jwk, allowed: &[Algorithm]) -> Result<Option<Self>, KeyError> {
        let for_signatures =
            jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
        // A secret in a public document is public.
        if !for_signatures || matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            return Ok(None);
        }
        if jwk.common.key_id.as_ref().is_some_and(|id| id.len() > MAX_KID_BYTES) {
            return Ok(None);
        }
        let named = jwk.common.key_algorithm.map(|a| a.to_string());
        let algorithms: Vec<_> = allowed
            .iter()
            .copied()
            .filter(|a| suits(*a, &jwk.algorithm))
            .filter(|a| named.as_ref().is_none_or(|name| *name == format!("{a:?}")))
            .collect();
        if algorithms.is_empty() {
            return Ok(None);
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|e| KeyError::Jwks(e.to_string()))?;
        if matches!(jwk.algorithm, AlgorithmParameters::RSA(_)) {
            check_rsa(&key)?;
        }
        Ok(Some(Self { id: jwk.common.key_id.clone(), algorithms, key }))
    }
}

fn suits(algorithm: Algorithm, key: &AlgorithmParameters) -> bool {
    match key {
        AlgorithmParameters::RSA(_) => algorithm.family() == AlgorithmFamily::Rsa,
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => algorithm == Algorithm::ES256,
            EllipticCurve::P384 => algorithm == Algorithm::ES384,
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(_) => algorithm == Algorithm::EdDSA,
        _ => false,
    }
}

fn check_rsa(key: &DecodingKey) -> Result<(), KeyError> {
    let bits = rsa_bits(key);
    if bits < MIN_RSA_BITS { Err(KeyError::WeakRsa(bits)) } else { Ok(()) }
}

/// Bits of the modulus, 0 if there is none to be seen.
fn rsa_bits(key: &DecodingKey) -> usize {
    use jsonwebtoken::DecodingKeyKind;
    let modulus = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.as_slice(),
        DecodingKeyKind::SecretOrDer(der) => rsa_modulus(der).unwrap_or_default(),
    };
    let significant = modulus.iter().skip_while(|byte| **byte == 0);
    let first_bits = significant.clone().next().map_or(0, |b| 8 - b.leading_zeros() as usize);
    (significant.count().saturating_sub(1)) * 8 + first_bits
}

/// The modulus of a PKCS#1 `RSAPublicKey` (RFC 8017 §A.1.1), which is what PEM keys become.
fn rsa_modulus(der: &[u8]) -> Option<&[u8]> {
    let body = der_value(der, 0x30)?;
    der_value(body, 0x02)
}

/// The content of a DER value with this tag (X.690 §8.1.3), or `None` if it is another.
fn der_value(der: &[u8], tag: u8) -> Option<&[u8]> {
    let (&found, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        let long =
            digits.iter().try_fold(0_usize, |n, d| n.checked_mul(256)?.checked_add((*d).into()));
        (long?, rest)
    };
    (found == tag).then(|| rest.get(..length))?
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms).finish()
    }
}
