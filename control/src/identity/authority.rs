//! The authority of devices' certificates.

use super::certificate;
use super::keys::IdentityError;
use crate::files::{create_secret, read_text};
use crate::http::exchange::Subject;
use crate::tls::certificates;
use bulkhead_policy::{DenyReason, Verdict};
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use secrecy::SecretString;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;
use x509_parser::parse_x509_certificate;

/// How long an authority that is made here lives: ten years.
const LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// How much earlier than its making a certificate is valid, for clocks that are behind.
const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

/// Signs certificates by which devices prove who they are (RFC 5280), ECDSA with P-256.
#[derive(Debug)]
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    begins_at: Timestamp,
    expires_at: Timestamp,
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
        let end = now.checked_add(LIFE).map_err(|e| failed(&e))?;
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

    /// Reads an authority. Of several certificates in the file the first is the one that signs; the
    /// others are only trusted.
    ///
    /// # Errors
    /// [`IdentityError`] if one of the files is not what it should be, or they do not go together.
    pub fn open(cert_file: &Path, key_file: &Path) -> Result<Self, IdentityError> {
        let wrong = |path: &Path, what: &str| IdentityError::Unusable {
            path: path.to_owned(),
            what: what.to_owned(),
        };
        let all = certificates(&read_text(cert_file)?);
        let der = all.and_then(|all| all.into_iter().next());
        let der = der.ok_or_else(|| wrong(cert_file, "holds no certificate in PEM"))?;
        let (_, parsed) = parse_x509_certificate(&der)
            .map_err(|_| wrong(cert_file, "holds a certificate that cannot be read"))?;
        if !parsed.is_ca() {
            return Err(wrong(cert_file, "holds a certificate that is no authority's"));
        }
        // What is wrong with the key is not said: it could show some of it.
        let key = KeyPair::from_pem(&read_text(key_file)?)
            .map_err(|_| wrong(key_file, "holds no private key in PEM (PKCS #8)"))?;
        if key.subject_public_key_info() != parsed.public_key().raw {
            return Err(wrong(key_file, "is not the key of the first certificate of ca.pem"));
        }
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp())
                .map_err(|_| wrong(cert_file, "has a date that cannot be"))
        };
        let begins_at = time(parsed.validity().not_before)?;
        let expires_at = time(parsed.validity().not_after)?;
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|_| wrong(cert_file, "holds a certificate that cannot sign others"))?;
        Ok(Self { issuer, begins_at, expires_at })
    }

    /// When its certificate ends; none that it signs lives longer.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
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
        let begin = subject.issued_at.checked_sub(LEEWAY).ok()?.max(self.begins_at);
        let end = subject.expires_at.min(self.expires_at);
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
        let made = params.signed_by(&key, &self.issuer).ok()?;
        Some(ClientCertificate {
            cert_pem: made.pem(),
            key_pem: SecretString::from(key.serialize_pem()),
        })
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Sets from when to when, in whole seconds.
fn set_validity(params: &mut CertificateParams, begin: Timestamp, end: Timestamp) {
    // What is before 1970 is 1970.
    let date = |time: Timestamp| {
        let seconds = u64::try_from(time.as_second()).unwrap_or_default();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    (params.not_before, params.not_after) = (date(begin), date(end));
}
