//! Identities that the exchange issues: certificates and tokens, and what is not quite one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::Control;
use bulkhead_control::http::exchange::{CredentialIssuer, CredentialsFile, ISSUER, Subject};
use bulkhead_control::identity::{
    Accepted, CertificateAuthority, ClientCertificate, DeviceTrust, ExchangeKeys, MqttCredentials,
    Sources, TOKEN_KEYS, Trusting,
};
use bulkhead_policy::{Broker, DenyReason, Principal, Scope, TokenId, Verdict};
use common::signer::{Signer, claims, jwks, now};
use common::site::{Site, config, enter, issuer};
use common::{until, until_true};
use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose as Usage, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// An authority in a folder, and whoever trusts it.
struct World {
    folder: TempDir,
    authority: CertificateAuthority,
    trust: DeviceTrust,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let authority = CertificateAuthority::create(&at("ca.pem"), &at("ca.key")).unwrap();
        let trust = DeviceTrust::open(&at("ca.pem")).unwrap();
        Self { folder, authority, trust }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn identify(&self, leaf: &[u8]) -> Verdict<Principal> {
        self.trust.identify(leaf, Timestamp::now())
    }

    /// Signs whatever is asked for, with this authority's key.
    fn forge(&self, params: &CertificateParams) -> Vec<u8> {
        signed(&self.path("ca.pem"), &self.path("ca.key"), params)
    }
}

fn signed(cert: &Path, key: &Path, params: &CertificateParams) -> Vec<u8> {
    let read = |path| std::fs::read_to_string(path).unwrap();
    let key = KeyPair::from_pem(&read(key)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read(cert), key).unwrap();
    let own = KeyPair::generate().unwrap();
    params.signed_by(&own, &issuer).unwrap().der().to_vec()
}

fn subject(tenant: &str, device: &str, origin: Option<&str>) -> Subject {
    let origin = origin.map(|id| TokenId::parse(id).unwrap());
    let hour = SignedDuration::from_hours(1);
    let role = "device".parse().unwrap();
    Subject::new(tenant.parse().unwrap(), device.parse().unwrap(), role, origin, hour).unwrap()
}

fn der(certificate: &ClientCertificate) -> Vec<u8> {
    CertificateDer::from_pem_slice(certificate.cert_pem.as_bytes()).unwrap().to_vec()
}

/// A time as the library has it.
macro_rules! date {
    ($time:expr) => {{
        let seconds = u64::try_from($time.as_second()).unwrap();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    }};
}

/// What a good certificate is made of.
fn good() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&[7; 16]));
    params.distinguished_name.push(DnType::CommonName, "cam-1");
    params.subject_alt_names = vec![uri(GOOD)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![Usage::DigitalSignature];
    params.extended_key_usages = vec![Purpose::ClientAuth];
    params.not_before = date!(Timestamp::now() - SignedDuration::from_mins(1));
    params.not_after = date!(Timestamp::now() + SignedDuration::from_hours(1));
    params
}

const GOOD: &str = "bulkhead:identity?tenant=acme&device=cam-1&role=device&issued=1795317234";

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_certificate_tells_the_principal_again() {
    let world = World::new();
    let odd = "an/odd?id&tenant=globex \u{e9}%00\"";
    for origin in [None, Some("t-1"), Some(odd), Some(&"x".repeat(256))] {
        let subject = subject("acme", "cam-1", origin);
        let principal = world.identify(&der(&world.authority.issue(&subject).unwrap())).unwrap();
        assert_eq!(principal.scope, Scope::Tenant("acme".parse().unwrap()));
        assert_eq!(principal.device, Some("cam-1".parse().unwrap()));
        assert_eq!(principal.role, "device".parse().unwrap());
        assert_eq!(*principal.issuer, *ISSUER);
        assert_eq!(principal.token_id, Some(subject.id));
        assert_eq!(principal.origin, subject.origin);
        let whole = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap();
        assert_eq!(principal.issued_at, Some(whole(subject.issued_at)));
        assert_eq!(principal.expires_at, whole(subject.expires_at));
    }
}

#[test]
fn the_serial_number_is_the_id() {
    let world = World::new();
    let id = |text: &str| TokenId::parse(text).unwrap();
    for text in [
        "00000000000000000000000000000001",
        "0000000000000000000000000000007f",
        "00000000000000000000000000000080",
        "7fffffffffffffffffffffffffffffff",
        "ffffffffffffffffffffffffffffffff",
    ] {
        let subject = Subject { id: id(text), ..subject("acme", "cam-1", None) };
        let principal = world.identify(&der(&world.authority.issue(&subject).unwrap())).unwrap();
        assert_eq!(principal.token_id, Some(id(text)));
    }
    // An id of another form would come back as another.
    for text in ["t-1", "1", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", "+0000000000000000000000000000001"]
    {
        let subject = Subject { id: id(text), ..subject("acme", "cam-1", None) };
        assert_eq!(world.authority.issue(&subject).unwrap_err(), DenyReason::Internal, "{text}");
    }
}

#[test]
fn what_is_not_exactly_ours_is_no_identity() {
    let world = World::new();
    assert_eq!(world.identify(&world.forge(&good())).unwrap().to_string(), "acme/cam-1");
    let mut cases: Vec<(String, CertificateParams)> = Vec::new();
    let mut case = |what: &str, change: &dyn Fn(&mut CertificateParams)| {
        let mut params = good();
        change(&mut params);
        cases.push((what.to_owned(), params));
    };
    case("of a server", &|p| p.extended_key_usages = vec![Purpose::ServerAuth]);
    case("of a server too", &|p| p.extended_key_usages.push(Purpose::ServerAuth));
    case("for anything", &|p| p.extended_key_usages.push(Purpose::Any));
    case("for something else too", &|p| p.extended_key_usages.push(Purpose::Other(vec![1, 2, 3])));
    case("for nothing in particular", &|p| p.extended_key_usages.clear());
    case("without key usage", &|p| p.key_usages.clear());
    case("with more key usage", &|p| p.key_usages.push(Usage::KeyEncipherment));
    case("an authority", &|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    case("not said to be none", &|p| p.is_ca = IsCa::NoCa);
    case("without a name", &|p| p.subject_alt_names.clear());
    case("with a name twice", &|p| p.subject_alt_names.push(uri(GOOD)));
    case("of two devices", &|p| {
        p.subject_alt_names.push(uri(&GOOD.replace("cam-1", "cam-2")));
    });
    case("with a DNS name too", &|p| {
        p.subject_alt_names.push(SanType::DnsName("cam-1.example".try_into().unwrap()));
    });
    case("with a DNS name", &|p| {
        p.subject_alt_names = vec![SanType::DnsName("cam-1.example".try_into().unwrap())];
    });
    case("with a mail address", &|p| {
        p.subject_alt_names = vec![SanType::Rfc822Name(GOOD.try_into().unwrap())];
    });
    case("with a longer serial number", &|p| {
        p.serial_number = Some(SerialNumber::from_slice(&[1; 17]));
    });
    for (from, to) in [
        ("bulkhead:", "Bulkhead:"),
        ("bulkhead:", "https://x/bulkhead:"),
        ("identity?", "identity/?"),
        ("tenant=acme&", ""),
        ("tenant=acme", "tenant="),
        ("tenant=acme", "tenant=acme/x"),
        ("tenant=acme", "tenant=a/../acme"),
        ("tenant=acme", "tenant=acme\0"),
        ("tenant=acme", "tenant=acme%00"),
        ("tenant=acme", "tenant=a%63me"),
        ("tenant=acme", "tenant=*"),
        ("tenant=acme", "tenant=acme "),
        ("tenant=acme", "tenant=acme\n"),
        ("tenant=acme", "tenant=registry"),
        ("tenant=acme", "Tenant=acme"),
        ("tenant=acme", "tenant=acme&tenant=globex"),
        ("tenant=acme&device=cam-1", "device=cam-1&tenant=acme"),
        ("device=cam-1", "device="),
        ("device=cam-1", "device=a.b"),
        ("device=cam-1&", ""),
        ("role=device", "role="),
        ("role=device", "role=de vice"),
        ("issued=", "issued=+"),
        ("issued=", "issued=0"),
        ("issued=1795317234", "issued="),
        ("issued=1795317234", "issued=1e9"),
        ("issued=1795317234", "issued=99999999999999"),
        ("1795317234", "1795317234&"),
        ("1795317234", "1795317234&origin="),
        ("1795317234", "1795317234&origin=dC0x="),
        ("1795317234", "1795317234&origin=dC1"),
        ("1795317234", "1795317234&origin=AAAA"),
        ("1795317234", "1795317234&origin=gICA"),
        ("1795317234", "1795317234&origin=dC0x&origin=dC0x"),
        ("1795317234", "1795317234&origin=dC0x&more=1"),
        ("1795317234", "1795317234#"),
    ] {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD);
        case(&text, &|p| p.subject_alt_names = vec![uri(&text)]);
    }
    for (what, params) in cases {
        let verdict = world.identify(&world.forge(&params));
        assert_eq!(verdict, Err(DenyReason::CertificateInvalid), "{what}");
    }
}

#[test]
fn the_common_name_is_never_believed() {
    let world = World::new();
    let mut params = good();
    params.distinguished_name.push(DnType::CommonName, "globex/cam-2");
    assert_eq!(world.identify(&world.forge(&params)).unwrap().to_string(), "acme/cam-1");
}

#[test]
fn another_authority_says_nothing() {
    let (world, other) = (World::new(), World::new());
    let foreign = other.authority.issue(&subject("acme", "cam-1", None)).unwrap();
    assert_eq!(world.identify(&der(&foreign)), Err(DenyReason::SignatureInvalid));

    // One that took the name of ours.
    let read = |name: &str| std::fs::read_to_string(world.path(name)).unwrap();
    let ours = KeyPair::from_pem(&read("ca.key")).unwrap();
    let ours = Issuer::from_ca_cert_pem(&read("ca.pem"), &ours).unwrap();
    drop(ours);
    let stranger = KeyPair::generate().unwrap();
    let namesake = Issuer::from_ca_cert_pem(&read("ca.pem"), &stranger).unwrap();
    let leaf = KeyPair::generate().unwrap();
    let forged = good().signed_by(&leaf, &namesake).unwrap();
    assert_eq!(world.identify(forged.der()), Err(DenyReason::SignatureInvalid));
    let own = good().self_signed(&leaf).unwrap();
    assert_eq!(world.identify(own.der()), Err(DenyReason::SignatureInvalid));

    // One that ours signed, as if it were an authority itself.
    let mut params = good();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages.push(Usage::KeyCertSign);
    let intermediate = world.forge(&params);
    let between = Issuer::from_ca_cert_der(&intermediate.into(), &leaf).unwrap();
    let below = good().signed_by(&stranger, &between).unwrap();
    assert!(world.identify(below.der()).is_err());
}

#[test]
fn its_time_is_looked_at_each_time() {
    let world = World::new();
    let subject = subject("acme", "cam-1", None);
    let leaf = der(&world.authority.issue(&subject).unwrap());
    let at = |minutes| subject.issued_at + SignedDuration::from_mins(minutes);
    assert!(world.trust.identify(&leaf, at(59)).is_ok());
    let end = Timestamp::from_second(subject.expires_at.as_second()).unwrap();
    assert_eq!(world.trust.identify(&leaf, end), Err(DenyReason::TokenExpired));
    assert_eq!(world.trust.identify(&leaf, at(61)), Err(DenyReason::TokenExpired));
    // A clock that is a little behind is forgiven.
    assert!(world.trust.identify(&leaf, at(0) - SignedDuration::from_secs(30)).is_ok());
    assert_eq!(world.trust.identify(&leaf, at(-5)), Err(DenyReason::TokenNotYetValid));
}

#[test]
fn none_outlives_the_authority() {
    let world = World::new();
    let ends = Timestamp::from_second(Timestamp::now().as_second() + 600).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![Usage::KeyCertSign];
    params.not_after = date!(ends);
    let key = KeyPair::generate().unwrap();
    let write = |name: &str, text: String| std::fs::write(world.path(name), text).unwrap();
    write("short.pem", params.self_signed(&key).unwrap().pem());
    write("short.key", key.serialize_pem());
    let open = || CertificateAuthority::open(&world.path("short.pem"), &world.path("short.key"));
    let authority = open().unwrap();
    assert_eq!(authority.expires_at(), ends);
    let trust = DeviceTrust::open(&world.path("short.pem")).unwrap();
    let leaf = der(&authority.issue(&subject("acme", "cam-1", None)).unwrap());
    assert_eq!(trust.identify(&leaf, Timestamp::now()).unwrap().expires_at, ends);

    params.not_after = date!(Timestamp::now() - SignedDuration::from_mins(1));
    write("short.pem", params.self_signed(&key).unwrap().pem());
    let refused = open().unwrap().issue(&subject("acme", "cam-1", None));
    assert_eq!(refused.unwrap_err(), DenyReason::Internal);
}

#[test]
fn what_is_no_certificate_is_refused() {
    let world = World::new();
    let leaf = der(&world.authority.issue(&subject("acme", "cam-1", None)).unwrap());
    let mut longer = leaf.clone();
    longer.push(0);
    let shorter = &leaf[..leaf.len() - 1];
    for der in [&[][..], b"\x30", b"acme/cam-1", shorter, &longer] {
        assert!(world.identify(der).is_err());
    }
}

#[test]
fn a_certificate_that_was_changed_is_nobodys() {
    let world = World::new();
    let leaf = der(&world.authority.issue(&subject("acme", "cam-1", Some("t-1"))).unwrap());
    proptest!(ProptestConfig::with_cases(2_000), |(at in 0..leaf.len(), flip in 1_u8..)| {
        let mut changed = leaf.clone();
        changed[at] ^= flip;
        prop_assert!(world.identify(&changed).is_err());
    });
}

#[test]
fn only_authorities_are_trusted() {
    let world = World::new();
    let leaf = world.authority.issue(&subject("acme", "cam-1", None)).unwrap();
    let ca = std::fs::read_to_string(world.path("ca.pem")).unwrap();
    for (text, says) in [
        (String::new(), "holds no certificate"),
        ("no PEM".to_owned(), "holds no certificate"),
        (leaf.cert_pem.clone(), "no authority's"),
        (format!("{ca}{}", leaf.cert_pem), "no authority's"),
        (std::fs::read_to_string(world.path("ca.key")).unwrap(), "holds no certificate"),
    ] {
        std::fs::write(world.path("trust.pem"), text).unwrap();
        let error = DeviceTrust::open(&world.path("trust.pem")).unwrap_err().to_string();
        assert!(error.contains("trust.pem") && error.contains(says), "{error}");
    }
    let error = DeviceTrust::open(&world.path("nowhere.pem")).unwrap_err().to_string();
    assert!(error.contains("nowhere.pem"), "{error}");
}

#[tokio::test]
async fn authorities_are_exchanged_while_they_are_in_use() {
    let (world, next) = (World::new(), World::new());
    let old = der(&world.authority.issue(&subject("acme", "cam-1", None)).unwrap());
    let new = der(&next.authority.issue(&subject("acme", "cam-1", None)).unwrap());
    let read = |world: &World| std::fs::read_to_string(world.path("ca.pem")).unwrap();
    let (first, second) = (read(&world), read(&next));
    let write = |text: &str| {
        bulkhead_control::files::write_secret(&world.path("trust.pem"), text.as_bytes()).unwrap();
    };
    write(&first);
    let trust = Arc::new(DeviceTrust::open(&world.path("trust.pem")).unwrap());
    let kept = Arc::clone(&trust);
    let keeping = tokio::spawn(async move { kept.keep_current().await });
    let knows = |leaf: &[u8]| trust.identify(leaf, Timestamp::now()).is_ok();
    assert!(knows(&old) && !knows(&new));
    write(&format!("{second}{first}"));
    until_true("both are trusted", || knows(&new)).await;
    assert!(knows(&old));
    write("broken");
    write(&second);
    until_true("the old one is no longer", || !knows(&old)).await;
    assert!(knows(&new));
    write("broken");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(knows(&new), "what cannot be used changes nothing");
    keeping.abort();
}

#[test]
fn the_exchanges_keys_are_made_once_and_kept() {
    let site = Site::new();
    let folder = site.path("exchange");
    let error = ExchangeKeys::open(&folder).unwrap_err().to_string();
    assert!(error.contains("does not hold the keys of the exchange"), "{error}");
    ExchangeKeys::open_or_create(&folder).unwrap();
    let read = || {
        ["ca.pem", "ca.key", TOKEN_KEYS, "tokens.key"].map(|name| {
            let path = folder.join(name);
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
            std::fs::read_to_string(path).unwrap()
        })
    };
    let made = read();
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    ExchangeKeys::open_or_create(&folder).unwrap();
    ExchangeKeys::open(&folder).unwrap();
    assert_eq!(read(), made);
    let debug = format!("{:?}", ExchangeKeys::open(&folder).unwrap());
    for private in [&made[1], &made[3]] {
        assert!(!debug.contains(private.lines().nth(1).unwrap()), "{debug}");
    }
}

#[test]
fn half_of_a_pair_is_not_made_anew() {
    let site = Site::new();
    let folder = site.path("exchange");
    ExchangeKeys::open_or_create(&folder).unwrap();
    for (gone, left) in [
        ("ca.pem", "ca.key"),
        ("ca.key", "ca.pem"),
        ("tokens.key", TOKEN_KEYS),
        (TOKEN_KEYS, "tokens.key"),
    ] {
        let (from, to) = (folder.join(gone), folder.join("aside"));
        std::fs::rename(&from, &to).unwrap();
        for opened in [ExchangeKeys::open(&folder), ExchangeKeys::open_or_create(&folder)] {
            let error = opened.unwrap_err().to_string();
            assert!(error.contains(gone) && error.contains(left), "{error}");
        }
        std::fs::rename(&to, &from).unwrap();
        ExchangeKeys::open(&folder).unwrap();
    }
}

#[test]
fn keys_that_do_not_go_together_are_named() {
    let site = Site::new();
    let (one, other) = (site.path("one"), site.path("other"));
    for folder in [&one, &other] {
        ExchangeKeys::open_or_create(folder).unwrap();
    }
    for (name, says) in [
        ("ca.pem", "is not the key of any certificate"),
        ("ca.key", "is not the key of any certificate"),
        ("tokens.key", "does not hold the public key of tokens.key"),
        (TOKEN_KEYS, "does not hold the public key of tokens.key"),
    ] {
        let own = std::fs::read(one.join(name)).unwrap();
        std::fs::copy(other.join(name), one.join(name)).unwrap();
        let error = ExchangeKeys::open(&one).unwrap_err().to_string();
        assert!(error.contains(says), "{name}: {error}");
        for text in ["", "nothing of the kind"] {
            std::fs::write(one.join(name), text).unwrap();
            let error = ExchangeKeys::open_or_create(&one).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        std::fs::write(one.join(name), own).unwrap();
    }
    // Of several certificates that of the key signs, wherever it stands; more keys may verify.
    let read = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let (own, more) = (read(&one, "ca.pem"), read(&other, "ca.pem"));
    for both in [format!("{own}{more}"), format!("{more}{own}")] {
        std::fs::write(one.join("ca.pem"), both).unwrap();
        let keys = ExchangeKeys::open(&one).unwrap();
        let leaf = der(&keys.authority().issue(&subject("acme", "cam-1", None)).unwrap());
        let trust = DeviceTrust::open(&one.join("ca.pem")).unwrap();
        trust.identify(&leaf, Timestamp::now()).unwrap();
        let only_other = DeviceTrust::open(&other.join("ca.pem")).unwrap();
        assert!(only_other.identify(&leaf, Timestamp::now()).is_err());
    }
}

/// A process that verifies, with the keys of an exchange.
struct Door {
    site: Site,
    control: Control,
    keys: Arc<ExchangeKeys>,
    accepted: Arc<Accepted>,
    corp: Signer,
}

impl Door {
    async fn open(changes: &str) -> Self {
        let (site, corp) = (Site::new(), Signer::ed25519("k1"));
        site.write("keys.json", jwks(&[&corp]));
        let issuers = vec![issuer("keys.jwks_file = \"keys.json\"")];
        let control = site.start(&config(changes, issuers)).await;
        let folder = site.path("exchange");
        let keys = Arc::new(ExchangeKeys::open_or_create(&folder).unwrap());
        let (jwks_file, ca_file) = (folder.join(TOKEN_KEYS), folder.join("ca.pem"));
        let sources = Sources {
            broker: Broker::Mqtt,
            jwks_file: Some(&jwks_file),
            client_ca_file: Some(&ca_file),
        };
        let accepted = Accepted::open(sources, &control).unwrap();
        Self { site, control, keys, accepted, corp }
    }

    async fn identify(
        &self,
        token: Option<&str>,
        certificate: Option<&[u8]>,
    ) -> Verdict<(Arc<Principal>, Option<Arc<Principal>>)> {
        let source = Some("192.0.2.1".parse().unwrap());
        let auth = self.control.auth();
        let known = auth.identify_client(&self.accepted, token, certificate, source).await?;
        Ok((known.principal, known.beside))
    }

    fn password(&self, subject: &Subject) -> String {
        let section = self.mqtt().issue(subject).unwrap();
        section["credentials"]["password"].as_str().unwrap().to_owned()
    }

    fn certificate(&self, subject: &Subject) -> Vec<u8> {
        der(&self.keys.authority().issue(subject).unwrap())
    }

    fn mqtt(&self) -> MqttCredentials {
        MqttCredentials::new(Arc::clone(&self.keys), vec!["mqtts://broker.example:8883".to_owned()])
    }
}

#[tokio::test]
async fn a_password_is_its_devices_and_good_for_mqtt_alone() {
    let door = Door::open("").await;
    let subject = subject("acme", "cam-1", Some("t-1"));
    let password = door.password(&subject);
    let (principal, beside) = door.identify(Some(&password), None).await.unwrap();
    assert_eq!(principal.to_string(), "acme/cam-1");
    assert_eq!(*principal.issuer, *ISSUER);
    assert_eq!(
        (&principal.token_id, &principal.origin, beside),
        (&Some(subject.id.clone()), &subject.origin, None)
    );
    assert_eq!(principal.issued_at.unwrap().as_second(), subject.issued_at.as_second());
    assert_eq!(principal.expires_at.as_second(), subject.expires_at.as_second());
    let admitted = door.control.auth().admit(Broker::Mqtt, principal);
    assert!(admitted.is_ok());

    // Neither another broker takes it, nor the exchange, where it could be renewed for ever.
    let elsewhere = enter(door.control.auth(), &password).await;
    assert_eq!(elsewhere.err(), Some(DenyReason::IssuerUnknown));
    let nothing = Accepted::default();
    let refused = door.control.auth().identify_client(&nothing, Some(&password), None, None).await;
    assert_eq!(refused.err(), Some(DenyReason::IssuerUnknown));
}

#[tokio::test]
async fn a_password_that_the_exchange_did_not_make_is_refused() {
    let door = Door::open("").await;
    let of = |changes: Value| {
        let mut claims = json!({
            "iss": ISSUER, "aud": "bulkhead-mqtt", "tenant": "acme", "device": "cam-1",
            "role": "device", "jti": "i", "iat": now(), "exp": now() + 600,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        door.keys.tokens().sign(&claims).unwrap()
    };
    let verdict = async |token: String| door.identify(Some(&token), None).await.map(|_| ());
    assert_eq!(verdict(of(json!({}))).await, Ok(()));
    for (changes, reason) in [
        (json!({"aud": "bulkhead"}), DenyReason::AudienceMismatch),
        (json!({"aud": null}), DenyReason::AudienceMismatch),
        (json!({"iss": "another"}), DenyReason::IssuerUnknown),
        (json!({"exp": now() - 1}), DenyReason::TokenExpired),
        (json!({"exp": null}), DenyReason::ClaimMissing),
        (json!({"tenant": null}), DenyReason::ClaimMissing),
        (json!({"tenant": "a/b"}), DenyReason::TenantInvalid),
        (json!({"device": "a.b"}), DenyReason::DeviceInvalid),
        (json!({"origin": 1}), DenyReason::ClaimInvalid),
        (json!({"origin": ""}), DenyReason::ClaimInvalid),
    ] {
        assert_eq!(verdict(of(changes.clone())).await, Err(reason), "{changes}");
    }
    // With the name of the exchange, the id of its key, and another's key.
    let kid = door.keys.tokens().key_id();
    let forger = Signer::ed25519(&kid);
    let payload =
        json!({"iss": ISSUER, "aud": "bulkhead-mqtt", "tenant": "acme", "exp": now() + 60});
    assert_eq!(verdict(forger.sign(&payload)).await, Err(DenyReason::SignatureInvalid));
    assert_eq!(verdict(door.corp.sign(&payload)).await, Err(DenyReason::KeyUnknown));
    let unsigned = format!(
        "{}.{}.",
        BASE64URL_NOPAD.encode(b"{\"alg\":\"none\"}"),
        BASE64URL_NOPAD.encode(payload.to_string().as_bytes())
    );
    assert_eq!(verdict(unsigned).await, Err(DenyReason::AlgorithmNotAllowed));
    // A configured issuer's token does not name an origin.
    let own = door.corp.sign(&claims(json!({"origin": "t-1"})));
    assert_eq!(door.identify(Some(&own), None).await.unwrap().0.origin, None);
}

#[test]
fn no_issuer_can_be_configured_as_the_exchange() {
    let site = Site::new();
    let changes = [
        "issuer = \"exchange\"\nkeys.jwks_file = \"keys.json\"",
        "name = \"exchange\"\nkeys.jwks_file = \"keys.json\"",
    ];
    for changes in changes {
        let error = site.load(&config("", vec![issuer(changes)])).unwrap_err().to_string();
        assert!(error.contains("issuers[0]") && error.contains("another"), "{error}");
    }
}

#[tokio::test]
async fn a_token_and_a_certificate_have_to_be_of_the_same_device() {
    let door = Door::open("").await;
    let of = |tenant: &str, device: &str| {
        let claims = claims(json!({"tenant": tenant, "device": device, "jti": "t-1"}));
        door.corp.sign(&claims)
    };
    let subject = subject("acme", "cam-1", Some("t-0"));
    let (leaf, password) = (door.certificate(&subject), door.password(&subject));

    let (alone, beside) = door.identify(None, Some(&leaf)).await.unwrap();
    assert_eq!((alone.to_string().as_str(), beside), ("acme/cam-1", None));
    assert_eq!(alone.origin, Some("t-0".parse().unwrap()));
    for token in [of("acme", "cam-1"), password] {
        let (principal, beside) = door.identify(Some(&token), Some(&leaf)).await.unwrap();
        let beside = beside.unwrap();
        assert_eq!(
            (principal.to_string(), beside.to_string()),
            ("acme/cam-1".into(), "acme/cam-1".into())
        );
        assert_eq!(beside.token_id, Some(subject.id.clone()));
    }
    let member =
        door.corp.sign(&claims(json!({"tenant": "acme", "device": null, "role": "member"})));
    for other in [of("acme", "cam-2"), of("globex", "cam-1"), of("globex", "cam-2"), member] {
        let verdict = door.identify(Some(&other), Some(&leaf)).await;
        assert_eq!(verdict.err(), Some(DenyReason::CarrierConflict));
        assert!(door.identify(Some(&other), None).await.is_ok());
    }
    // A good certificate makes no bad token good, nor the other way round.
    let forged = Signer::ed25519("k1").sign(&claims(json!({"tenant": "acme", "device": "cam-1"})));
    let verdict = door.identify(Some(&forged), Some(&leaf)).await;
    assert_eq!(verdict.err(), Some(DenyReason::SignatureInvalid));
    let stranger = World::new();
    let foreign = der(&stranger.authority.issue(&subject).unwrap());
    let good = of("acme", "cam-1");
    for token in [Some(good.as_str()), None] {
        let verdict = door.identify(token, Some(&foreign)).await;
        assert_eq!(verdict.err(), Some(DenyReason::SignatureInvalid));
    }
    assert_eq!(door.identify(None, None).await.err(), Some(DenyReason::TokenMissing));
}

#[tokio::test]
async fn a_neighbour_that_guesses_shuts_nobody_out() {
    let door = Door::open("limits.failures_per_minute = 2").await;
    let subject = subject("acme", "cam-1", None);
    let (leaf, password) = (door.certificate(&subject), door.password(&subject));
    assert!(door.identify(Some(&password), None).await.is_ok());
    let mut last = Ok(());
    for _ in 0..5 {
        last = door.identify(Some("guess"), None).await.map(|_| ());
    }
    assert_eq!(last, Err(DenyReason::SourceRateExceeded));
    assert!(door.identify(None, Some(&leaf)).await.is_ok());
    assert!(door.identify(Some(&password), None).await.is_ok(), "it was verified lately");
}

#[tokio::test]
async fn keys_of_tokens_are_exchanged_while_they_are_in_use() {
    let door = Door::open("").await;
    let subject = subject("acme", "cam-1", None);
    let old = door.password(&subject);
    let next = ExchangeKeys::open_or_create(&door.site.path("next")).unwrap();
    let mqtt = MqttCredentials::new(Arc::new(next), Vec::new());
    let file = CredentialsFile::issue(&mqtt, &subject, false).unwrap();
    let new = file.sections["mqtt"]["credentials"]["password"].as_str().unwrap().to_owned();
    assert_eq!(door.identify(Some(&new), None).await.err(), Some(DenyReason::KeyUnknown));
    assert!(door.identify(Some(&old), None).await.is_ok());
    std::fs::copy(
        door.site.path("next").join(TOKEN_KEYS),
        door.site.path("exchange").join(TOKEN_KEYS),
    )
    .unwrap();
    common::until("the new key is known", async || {
        door.identify(Some(&new), None).await.ok().map(drop)
    })
    .await;
    // Not even by the cache.
    assert!(door.identify(Some(&old), None).await.is_err());
}

#[tokio::test]
async fn the_section_is_what_devices_read() {
    let door = Door::open("").await;
    let subject = subject("acme", "cam-1", None);
    let file = CredentialsFile::issue(&door.mqtt(), &subject, true).unwrap();
    let file = serde_json::to_value(file).unwrap();
    assert_eq!((&file["device_id"], &file["tenant"]), (&json!("cam-1"), &json!("acme")));
    assert_eq!(file["auth_type"], "password");
    let section = file["mqtt"].as_object().unwrap();
    assert_eq!(section.keys().collect::<Vec<_>>(), ["credentials", "tls", "urls"]);
    assert_eq!(section["urls"], json!(["mqtts://broker.example:8883"]));
    assert_eq!(section["credentials"]["username"], "cam-1");
    assert!(section["tls"]["key_pem"].as_str().unwrap().contains("PRIVATE KEY"));
    let leaf =
        CertificateDer::from_pem_slice(section["tls"]["cert_pem"].as_str().unwrap().as_bytes());
    let password = section["credentials"]["password"].as_str().unwrap();
    let both = door.identify(Some(password), Some(&leaf.unwrap())).await.unwrap();
    assert_eq!(both.0.token_id, both.1.unwrap().token_id, "one id revokes both");
}

#[tokio::test]
async fn new_keys_are_trusted_before_they_sign_and_old_ones_go_on() {
    let door = Door::open("").await;
    let folder = door.site.path("exchange");
    // A broker with copies of its own.
    let copies = ["ca.pem", TOKEN_KEYS].map(|name| {
        let copy = door.site.path(&format!("copy-of-{name}"));
        std::fs::copy(folder.join(name), &copy).unwrap();
        copy
    });
    let sources = Sources {
        broker: Broker::Mqtt,
        jwks_file: Some(&copies[1]),
        client_ca_file: Some(&copies[0]),
    };
    let elsewhere = Accepted::open(sources, &door.control).unwrap();
    let [ca, keys] = copies.clone();
    let trusting = Trusting { client_ca_files: vec![ca], jwks_files: vec![keys] };
    let subject = subject("acme", "cam-1", None);
    let old = (door.password(&subject), door.certificate(&subject));
    let next = Arc::new(ExchangeKeys::rotate(&folder, &trusting).unwrap());
    let new = MqttCredentials::new(Arc::clone(&next), Vec::new()).issue(&subject).unwrap();
    let password = new["credentials"]["password"].as_str().unwrap().to_owned();
    let new = (password, der(&next.authority().issue(&subject).unwrap()));
    let auth = door.control.auth();
    for accepted in [&door.accepted, &elsewhere] {
        for (password, certificate) in [&old, &new] {
            until("both are accepted", async || {
                let (token, leaf) = (Some(password.as_str()), Some(certificate.as_slice()));
                auth.identify_client(accepted, token, leaf, None).await.ok()
            })
            .await;
        }
    }
    // The process that has the exchange signs with the old ones until it starts again.
    assert_ne!(next.tokens().key_id(), door.keys.tokens().key_id());
    let reopened = ExchangeKeys::open(&folder).unwrap();
    assert_eq!(reopened.tokens().key_id(), next.tokens().key_id());
}
