//! What a device's certificate says.
//!
//! It has one subject alternative name, a URI (RFC 5280 §4.2.1.6) of fixed fields in a fixed order:
//!
//! ```text
//! bulkhead:identity?tenant=acme&device=cam-1&role=device&issued=1795317234&origin=MGI2Zg
//! ```
//!
//! `issued` is in Unix seconds; `origin`, the `jti` of the token that the certificate was asked for
//! with, is in base64url without padding, or absent. The other values are ids, in which no character
//! means anything. The serial number is the credentials' id, 128 bits. Names in the subject are for
//! people, and never believed.

use crate::http::exchange::{ISSUER, Subject};
use bulkhead_policy::{
    DenyReason, DeviceId, Principal, RoleName, Scope, TenantId, TokenId, Verdict,
};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::parse_x509_certificate;
use x509_parser::x509::X509Version;

/// What the URI of an identity begins with.
const PREFIX: &str = "bulkhead:identity?";

/// `digitalSignature` and nothing else (RFC 5280 §4.2.1.3), as `x509_parser` counts the bits.
const DIGITAL_SIGNATURE: u16 = 1;

/// The URI of a subject.
pub(super) fn uri(subject: &Subject) -> String {
    let Subject { tenant, device, role, .. } = subject;
    let issued = subject.issued_at.as_second();
    let mut uri = format!("{PREFIX}tenant={tenant}&device={device}&role={role}&issued={issued}");
    if let Some(origin) = &subject.origin {
        uri += "&origin=";
        uri += &BASE64URL_NOPAD.encode(origin.as_str().as_bytes());
    }
    uri
}

/// The 16 bytes of an id as a serial number; `None` for an id that the exchange did not make.
pub(super) fn serial(id: &TokenId) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(id.as_str(), 16).ok()?;
    (id_of(number)? == *id).then(|| number.to_be_bytes())
}

fn id_of(serial: u128) -> Option<TokenId> {
    TokenId::parse(&format!("{serial:032x}")).ok()
}

/// Whose certificate this is. Its signature and its time are not looked at here.
///
/// # Errors
/// [`DenyReason::CertificateInvalid`] if it is not exactly of the form that [`uri`] and the authority
/// give it.
pub(super) fn principal(der: &[u8]) -> Verdict<Principal> {
    read(der).ok_or(DenyReason::CertificateInvalid)
}

fn read(der: &[u8]) -> Option<Principal> {
    let (rest, certificate) = parse_x509_certificate(der).ok()?;
    if !rest.is_empty() || certificate.version() != X509Version::V3 || !is_for_clients(&certificate)
    {
        return None;
    }
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return None };
    let fields = Fields::read(uri)?;
    Some(Principal {
        scope: Scope::Tenant(fields.tenant),
        device: Some(fields.device),
        role: fields.role,
        issuer: ISSUER.into(),
        token_id: Some(token_id(certificate.raw_serial())?),
        origin: fields.origin,
        issued_at: Some(fields.issued_at),
        expires_at: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
    })
}

/// Whether a certificate says that it identifies clients, and nothing more.
fn is_for_clients(certificate: &X509Certificate<'_>) -> bool {
    let clients_alone = ExtendedKeyUsage {
        any: false,
        server_auth: false,
        client_auth: true,
        code_signing: false,
        email_protection: false,
        time_stamping: false,
        ocsp_signing: false,
        other: Vec::new(),
    };
    let is_leaf = matches!(certificate.basic_constraints(), Ok(Some(basic)) if !basic.value.ca);
    let signs = matches!(certificate.key_usage(), Ok(Some(usage)) if usage.value.flags == DIGITAL_SIGNATURE);
    let authenticates = matches!(certificate.extended_key_usage(), Ok(Some(usage)) if *usage.value == clients_alone);
    is_leaf && signs && authenticates
}

/// The id that a serial number is, which is positive and of at most 128 bits.
fn token_id(serial: &[u8]) -> Option<TokenId> {
    if serial.first().is_none_or(|first| first & 0x80 != 0) {
        return None;
    }
    let number = serial
        .iter()
        .try_fold(0_u128, |number, byte| Some(number.checked_mul(256)? | u128::from(*byte)))?;
    id_of(number)
}

struct Fields {
    tenant: TenantId,
    device: DeviceId,
    role: RoleName,
    issued_at: Timestamp,
    origin: Option<TokenId>,
}

impl Fields {
    fn read(uri: &str) -> Option<Self> {
        let mut fields = uri.strip_prefix(PREFIX)?.split('&');
        let mut next = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let tenant = TenantId::parse(next("tenant")?).ok()?;
        let device = DeviceId::parse(next("device")?).ok()?;
        let role = RoleName::parse(next("role")?).ok()?;
        let issued = next("issued")?;
        let seconds: i64 = issued.parse().ok().filter(|s: &i64| s.to_string() == issued)?;
        let origin = match fields.next() {
            Some(field) => {
                let bytes = BASE64URL_NOPAD.decode(field.strip_prefix("origin=")?.as_bytes());
                Some(TokenId::parse(std::str::from_utf8(&bytes.ok()?).ok()?).ok()?)
            }
            None => None,
        };
        let issued_at = Timestamp::from_second(seconds).ok()?;
        fields.next().is_none().then_some(Self { tenant, device, role, issued_at, origin })
    }
}
