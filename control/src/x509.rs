//! What the certificates of all authorities here have in common (RFC 5280).

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use std::time::Duration;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

/// How long an authority lives: ten years.
pub(crate) const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// How much earlier than its making a certificate is valid, for clocks that are behind.
pub(crate) const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

/// An authority's certificate and key, and from when to when it may sign.
#[derive(Debug)]
pub(crate) struct Signing {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) begins_at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

/// Why certificates and a key are no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAuthority {
    /// What is wrong with the certificates.
    Certificates(&'static str),
    /// What is wrong with the key.
    Key(&'static str),
}

impl Signing {
    /// Of these certificates the one that goes with the key, in PEM (PKCS #8).
    pub(crate) fn open(all: &[CertificateDer<'_>], key_pem: &str) -> Result<Self, NoAuthority> {
        use NoAuthority::{Certificates, Key};
        // What is wrong with the key is not said: it could show some of it.
        let key =
            KeyPair::from_pem(key_pem).map_err(|_| Key("holds no private key in PEM (PKCS #8)"))?;
        for der in all {
            let (_, parsed) = parse_x509_certificate(der)
                .map_err(|_| Certificates("holds a certificate that cannot be read"))?;
            if parsed.public_key().raw != key.subject_public_key_info() {
                continue;
            }
            if !parsed.is_ca() {
                return Err(Certificates("holds a certificate that is no authority's"));
            }
            let time = |time| at(time).ok_or(Certificates("has a date that cannot be"));
            let begins_at = time(parsed.validity().not_before)?;
            let expires_at = time(parsed.validity().not_after)?;
            let issuer = Issuer::from_ca_cert_der(der, key)
                .map_err(|_| Certificates("holds a certificate that cannot sign others"))?;
            return Ok(Self { issuer, begins_at, expires_at });
        }
        Err(Key("is not the key of any certificate of the authority's file"))
    }
}

/// A time of a certificate.
pub(crate) fn at(time: ASN1Time) -> Option<Timestamp> {
    Timestamp::from_second(time.timestamp()).ok()
}

/// A subject of nothing but a common name.
pub(crate) fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Sets from when to when, in whole seconds.
pub(crate) fn set_validity(params: &mut CertificateParams, begin: Timestamp, end: Timestamp) {
    // What is before 1970 is 1970.
    let date = |time: Timestamp| {
        let seconds = u64::try_from(time.as_second()).unwrap_or_default();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    (params.not_before, params.not_after) = (date(begin), date(end));
}
