//! NATS JWTs, version 2: the claims that callouts need, and their signatures.
//!
//! The form is that of ADR-14 and of the reference library: a header `ed25519-nkey`, the issuer's
//! public key in `iss`, and in `jti` a SHA-512/256 of the claims.

mod account;
mod callout;
mod user;

pub use account::{
    Account, AccountLimits, Authorization, Export, Import, JetStreamLimits, Operator,
    ServiceOrStream,
};
pub use callout::{AuthRequest, AuthResponse, ClientInfo, ClientTls, ConnectOpts, ServerId};
pub use user::{Permission, ResponsePermission, User};

use crate::nkey::{self, SigningKey};
use aws_lc_rs::digest::{SHA512_256, digest};
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// `{"typ":"JWT","alg":"ed25519-nkey"}`.
const HEADER: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ";

/// Largest JWT that is read: a request holds the client's whole CONNECT and its certificates.
const MAX_BYTES: usize = 512 * 1024;

/// The claims around a `nats` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims<T> {
    /// Audience.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub aud: String,
    /// Expiry in Unix seconds; 0 is never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exp: i64,
    /// Time of issue in Unix seconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub iat: i64,
    /// Public key of the issuer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub iss: String,
    /// Hash of the claims.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Public key of the subject.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sub: String,
    /// What it is about.
    pub nats: T,
}

/// Why a text is no NATS JWT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// Too large, not three parts, not base64, not these claims.
    #[error("this is no NATS JWT of the kind that is needed here")]
    Malformed,
    /// Not signed by the `iss` that it names.
    #[error("the signature is not the issuer's")]
    Signature,
}

impl<T> Claims<T> {
    /// Claims about a subject, with everything else still empty.
    pub fn about(sub: impl Into<String>, nats: T) -> Self {
        Self {
            aud: String::new(),
            exp: 0,
            iat: 0,
            iss: String::new(),
            jti: String::new(),
            name: String::new(),
            sub: sub.into(),
            nats,
        }
    }
}

impl<T: Serialize> Claims<T> {
    /// Signs the claims. `iat` is the caller's clock.
    ///
    /// # Errors
    /// [`JwtError::Malformed`] if the claims cannot be written, which none of this crate's cannot.
    pub fn sign(mut self, key: &SigningKey, iat: i64) -> Result<String, JwtError> {
        key.public().clone_into(&mut self.iss);
        self.iat = iat;
        self.jti.clear();
        let plain = serde_json::to_vec(&self).map_err(|_| JwtError::Malformed)?;
        self.jti = BASE32_NOPAD.encode(digest(&SHA512_256, &plain).as_ref());
        let body = serde_json::to_vec(&self).map_err(|_| JwtError::Malformed)?;
        let mut token = String::with_capacity(HEADER.len() + body.len() * 4 / 3 + 96);
        token.push_str(HEADER);
        token.push('.');
        BASE64URL_NOPAD.encode_append(&body, &mut token);
        let signature = key.sign(token.as_bytes());
        token.push('.');
        BASE64URL_NOPAD.encode_append(&signature, &mut token);
        Ok(token)
    }
}

/// A decoded JWT whose signature has not been looked at.
#[derive(Debug)]
pub struct Unverified<'a, T> {
    claims: Claims<T>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a, T: DeserializeOwned> Unverified<'a, T> {
    /// Decodes a JWT.
    ///
    /// # Errors
    /// [`JwtError::Malformed`].
    pub fn decode(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_BYTES {
            return Err(JwtError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, body) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        let decode =
            |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| JwtError::Malformed);
        if header != HEADER {
            let header: Header =
                serde_json::from_slice(&decode(header)?).map_err(|_| JwtError::Malformed)?;
            if header.alg != "ed25519-nkey" {
                return Err(JwtError::Malformed);
            }
        }
        Ok(Self {
            claims: serde_json::from_slice(&decode(body)?).map_err(|_| JwtError::Malformed)?,
            signed,
            signature: decode(signature)?,
        })
    }

    /// What it claims. Good for finding out what to expect of it, and for nothing else.
    pub fn peek(&self) -> &Claims<T> {
        &self.claims
    }

    /// The claims, if the issuer that they name signed them. Whether that issuer may say such a thing
    /// is the caller's business.
    ///
    /// # Errors
    /// [`JwtError::Signature`].
    pub fn verify(self) -> Result<Claims<T>, JwtError> {
        if nkey::verify(&self.claims.iss, self.signed.as_bytes(), &self.signature) {
            Ok(self.claims)
        } else {
            Err(JwtError::Signature)
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::{Claims, JwtError, Unverified, User};
    use crate::nkey::SigningKey;
    use nkeys::KeyPairType;

    fn token() -> (SigningKey, String) {
        let key = SigningKey::generate(KeyPairType::Account).unwrap();
        let mut claims = Claims::about("UABC", User::default());
        claims.name = "acme/cam-1".to_owned();
        let token = claims.sign(&key, 1_800_000_000).unwrap();
        (key, token)
    }

    #[test]
    fn what_is_signed_reads_back() {
        let (key, token) = token();
        let claims = Unverified::<User>::decode(&token).unwrap().verify().unwrap();
        assert_eq!((claims.iss.as_str(), claims.name.as_str()), (key.public(), "acme/cam-1"));
        assert_eq!(claims.jti.len(), 52, "SHA-512/256 in base32");
    }

    #[test]
    fn a_changed_token_is_nobodys() {
        let (_, token) = token();
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let body = data_encoding::BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap();
        let body = String::from_utf8(body).unwrap().replace("cam-1", "cam-2");
        parts[1] = data_encoding::BASE64URL_NOPAD.encode(body.as_bytes());
        let forged = parts.join(".");
        let claims = Unverified::<User>::decode(&forged).unwrap();
        assert_eq!(claims.verify().unwrap_err(), JwtError::Signature);
    }

    #[test]
    fn other_algorithms_are_refused() {
        let (_, token) = token();
        let none = data_encoding::BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#);
        let forged = format!("{none}.{}", token.split_once('.').unwrap().1);
        assert_eq!(Unverified::<User>::decode(&forged).unwrap_err(), JwtError::Malformed);
        for garbage in ["", ".", "..", "a.b.c", "ä.ö.ü"] {
            assert!(Unverified::<User>::decode(garbage).is_err());
        }
    }
}
