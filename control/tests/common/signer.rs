//! A developer's issuer: keys of every kind, and tokens of any shape with genuine signatures.

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey};
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PKCS_RSA_SHA256,
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

/// The `iss` of the first issuer.
pub const ISS: &str = "https://idp.example";

/// The audience that everything is configured for.
pub const AUD: &str = "bulkhead";

/// Who signs tokens.
pub struct Signer {
    kid: String,
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Value,
    pair: KeyPair,
}

impl Signer {
    /// A new Ed25519 key.
    pub fn ed25519(kid: &str) -> Self {
        Self::new(Algorithm::EdDSA, kid)
    }

    /// A new key for this algorithm.
    pub fn new(algorithm: Algorithm, kid: &str) -> Self {
        let kind = match algorithm {
            Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
            Algorithm::ES384 => &PKCS_ECDSA_P384_SHA384,
            Algorithm::EdDSA => &PKCS_ED25519,
            _ => &PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let read = match algorithm.family() {
            AlgorithmFamily::Ed => EncodingKey::from_ed_pem,
            AlgorithmFamily::Ec => EncodingKey::from_ec_pem,
            _ => EncodingKey::from_rsa_pem,
        };
        let key = read(pem.as_bytes()).unwrap();
        let raw = pair.public_key_raw();
        // SEC 1 §2.3.3: a byte that says "uncompressed", then x and y.
        let point = |curve: &str| {
            let (x, y) = raw[1..].split_at(raw.len() / 2);
            json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
        };
        let mut jwk = match algorithm {
            Algorithm::EdDSA => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(raw)}),
            Algorithm::ES256 => point("P-256"),
            Algorithm::ES384 => point("P-384"),
            _ => serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).unwrap()).unwrap(),
        };
        // What a key is good for has to follow from its kind where it does not say so.
        jwk.as_object_mut().unwrap().remove("alg");
        jwk["kid"] = kid.into();
        jwk["use"] = "sig".into();
        Self { kid: kid.to_owned(), algorithm, key, jwk, pair }
    }

    /// The public key as a member of a JWKS.
    pub fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// The public key in PEM.
    pub fn pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// The private key in PEM.
    pub fn private_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// A certificate of the public key in PEM.
    pub fn certificate_pem(&self) -> String {
        let params = CertificateParams::new(vec!["idp.example".to_owned()]).unwrap();
        params.self_signed(&self.pair).unwrap().pem()
    }

    /// The header of an ordinary token.
    pub fn header(&self) -> Value {
        json!({"typ": "JWT", "alg": self.algorithm, "kid": self.kid})
    }

    /// An ordinary token.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    /// A token with any header. The signature is this key's own, whatever the header says.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A token of any two texts, JSON or not.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

/// Unpadded base64url.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(bytes.as_ref())
}

/// A token whose signature is an HMAC.
pub fn hmac(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

/// A JWKS of these keys.
pub fn jwks(keys: &[&Signer]) -> String {
    jwks_of(keys.iter().map(|key| key.jwk()).collect())
}

/// A JWKS of these members.
pub fn jwks_of(members: Vec<Value>) -> String {
    json!({ "keys": members }).to_string()
}

/// Now, in whole seconds.
pub fn now() -> i64 {
    Timestamp::now().as_second()
}

/// A good token's claims with some replaced; `null` removes one. Each has an id of its own.
pub fn claims(changes: Value) -> Value {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut all = json!({
        "iss": ISS, "aud": AUD, "exp": now() + 600, "iat": now() - 5,
        "tenant": "acme", "device": "cam-1", "jti": format!("t-{id}"),
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        } else {
            all[name] = value.clone();
        }
    }
    all
}
