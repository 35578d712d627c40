//! The authority of devices' certificates.

use super::certificate;
use super::keys::IdentityError;
use crate::files::{create_secret, read_text};
use crate::http::exchange::Subject;
use crate::tls::certificates;
use crate::x509::{AUTHORITY_LIFE, LEEWAY, NoAuthority, Signing, named, set_validity};
use bulkhead_policy::{DenyReason, Verdict};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use secrecy::SecretString;
use std::fmt::Display;
use std::path::Path;

/// Signs certificates by which devices prove who they are (RFC 5280), ECDSA with P-256.
#[derive(Debug)]
pub struct CertificateAuthority {
    signing: Signing,
}

/// What a device presents in a TLS handshake.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The certificate, in PEM.
    pub cert_pem: String,
    /// Its private key, in PEM (PKCS #8). Nobody else has it.
    pub key_pem: SecretString,
}

impl CertificateAuthority {
    /// Makes an authority and writes it to two files that do not exist yet, each readable by its owner
    /// alone.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn create(cert_file: &Path, key_file: &Path) -> Result<Self, IdentityError> {
        let failed = |error: &dyn Display| IdentityError::Generate(error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| failed(&e))?;
        let mut suffix = [0; 4];
        aws_lc_rs::rand::fill(&mut suffix).map_err(|e| failed(&e))?;
        let now = Timestamp::now();
        let end = now.checked_add(AUTHORITY_LIFE).map_err(|e| failed(&e))?;
        let mut params = CertificateParams::default();
        // Two authorities that are trusted side by side have names of their own.
        let name = format!("Bulkhead device authority {}", HEXLOWER.encode(&suffix));
        params.distinguished_name = named(&name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Nobody who trusts it for more than it is for can be shown a server's certificate of it.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, now.checked_sub(LEEWAY).map_err(|e| failed(&e))?, end);
        let made = params.self_signed(&key).map_err(|e| failed(&e))?;
        create_secret(key_file, key.serialize_pem().as_bytes())?;
        create_secret(cert_file, made.pem().as_bytes())?;
        Self::open(cert_file, key_file)
    }

    /// Reads an authority. Of several certificates in the file the one that goes with the key signs;
    /// the others are only trusted.
    ///
    /// # Errors
    /// [`IdentityError`] if one of the files is not what it should be, or they do not go together.
    pub fn open(cert_file: &Path, key_file: &Path) -> Result<Self, IdentityError> {
        let wrong = |path: &Path, what: &str| IdentityError::Unusable {
            path: path.to_owned(),
            what: what.to_owned(),
        };
        let all = certificates(&read_text(cert_file)?)
            .ok_or_else(|| wrong(cert_file, "holds no certificate in PEM"))?;
        let signing = Signing::open(&all, &read_text(key_file)?).map_err(|why| match why {
            NoAuthority::Certificates(what) => wrong(cert_file, what),
            NoAuthority::Key(what) => wrong(key_file, what),
        })?;
        Ok(Self { signing })
    }

    /// When its certificate ends; none that it signs lives longer.
    pub fn expires_at(&self) -> Timestamp {
        self.signing.expires_at
    }

    /// Makes a key and a certificate for a device: for client authentication only, with the subject's
    /// id as serial number, valid until the subject ends.
    ///
    /// # Errors
    /// [`DenyReason::Internal`] if the subject's id is none that the exchange makes, its time or the
    /// authority's is over, or the system has no randomness.
    pub fn issue(&self, subject: &Subject) -> Verdict<ClientCertificate> {
        self.sign(subject).ok_or(DenyReason::Internal)
    }

    fn sign(&self, subject: &Subject) -> Option<ClientCertificate> {
        let begin = subject.issued_at.checked_sub(LEEWAY).ok()?.max(self.signing.begins_at);
        let end = subject.expires_at.min(self.signing.expires_at);
        if end <= subject.issued_at {
            return None;
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).ok()?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&certificate::serial(&subject.id)?));
        params.distinguished_name = named(subject.device.as_str());
        params.subject_alt_names = vec![SanType::URI(certificate::uri(subject).try_into().ok()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, begin, end);
        let made = params.signed_by(&key, &self.signing.issuer).ok()?;
        Some(ClientCertificate {
            cert_pem: made.pem(),
            key_pem: SecretString::from(key.serialize_pem()),
        })
    }
}
