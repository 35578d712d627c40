//! Certificates of the platform's own TLS: in handshakes, and when they are issued again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at a surprise")]

use bulkhead_control::transport::{Certificate, State, TransportAuthority, TransportError, Wanted};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose as Usage,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// So many seconds from now.
macro_rules! date {
    ($seconds:expr) => {{
        let at = Timestamp::now() + SignedDuration::from_secs($seconds);
        rcgen::date_time_ymd(1970, 1, 1)
            + Duration::from_secs(u64::try_from(at.as_second()).unwrap())
    }};
}

/// A folder with an authority.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn authority(&self) -> TransportAuthority {
        self.try_authority().unwrap()
    }

    fn try_authority(&self) -> Result<TransportAuthority, TransportError> {
        TransportAuthority::open_or_create(&self.path("ca.pem"), &self.path("ca.key"))
    }

    fn ensure(&self, name: &str, wanted: &Wanted) -> Certificate {
        self.try_ensure(name, wanted).unwrap()
    }

    fn try_ensure(&self, name: &str, wanted: &Wanted) -> Result<Certificate, TransportError> {
        let file = |end: &str| self.path(&format!("{name}.{end}"));
        self.try_authority()?.ensure(wanted, &file("pem"), &file("key"))
    }

    fn chain(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let cert = CertificateDer::from_pem_slice(self.read(&format!("{name}.pem")).as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.read(&format!("{name}.key")).as_bytes());
        (vec![cert.unwrap()], key.unwrap())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(self.read("ca.pem").as_bytes()) {
            roots.add(cert.unwrap()).unwrap();
        }
        Arc::new(roots)
    }

    /// Connects to a server under a name; with a client's certificate, one that asks for it.
    fn connect(&self, server: &str, name: &str, client: Option<&str>) -> Result<(), String> {
        let (chain, key) = self.chain(server);
        let builder = ServerConfig::builder();
        let builder = match client {
            Some(_) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder(self.roots()).build().unwrap(),
            ),
            None => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(chain, key).unwrap();
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(self.roots());
        let config = match client {
            Some(client) => {
                let (chain, key) = self.chain(client);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().map_err(|error| error.to_string())?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().map_err(|error| error.to_string())?;
        }
        // What is sealed on one side is opened on the other.
        client.writer().write_all(b"hello").unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|error| error.to_string())?;
        let mut heard = [0; 5];
        server.reader().read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        Ok(())
    }

    /// Replaces a certificate by one of the authority's that somebody else made.
    fn forge(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::from_pem(&self.read("ca.key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&self.read("ca.pem"), key).unwrap();
        let own = KeyPair::from_pem(&self.read(&format!("{name}.key"))).unwrap();
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a.test");
        params.extended_key_usages = vec![Purpose::ServerAuth];
        params.not_before = date!(-60);
        params.not_after = date!(300 * 24 * 3600);
        change(&mut params);
        let made = params.signed_by(&own, &issuer).unwrap();
        self.write(&format!("{name}.pem"), &made.pem());
    }
}

fn server(hosts: &[&str]) -> Wanted {
    Wanted {
        common_name: (*hosts.first().unwrap()).to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        client: false,
    }
}

fn client(name: &str) -> Wanted {
    Wanted { common_name: name.to_owned(), hosts: Vec::new(), client: true }
}

#[test]
fn a_server_is_verified_under_its_names_and_no_other() {
    let site = Site::new();
    let hosts = ["a.test", "localhost", "192.0.2.1", "::1", "*.wild.test"];
    assert_eq!(site.ensure("tls", &server(&hosts)).state, State::Issued);
    for name in ["a.test", "localhost", "192.0.2.1", "::1", "x.wild.test"] {
        assert_eq!(site.connect("tls", name, None), Ok(()), "{name}");
    }
    for name in ["b.test", "192.0.2.2", "wild.test", "x.y.wild.test"] {
        assert!(site.connect("tls", name, None).unwrap_err().contains("certificate"), "{name}");
    }
    assert_eq!(site.ensure("tls", &server(&hosts)).state, State::Kept);
}

#[test]
fn each_is_good_for_its_purpose_alone() {
    let site = Site::new();
    site.ensure("tls", &server(&["a.test"]));
    site.ensure("front", &client("front"));
    let both = Wanted { client: true, ..server(&["etcd"]) };
    site.ensure("etcd", &both);
    assert_eq!(site.connect("tls", "a.test", Some("front")), Ok(()));
    assert_eq!(site.connect("etcd", "etcd", Some("etcd")), Ok(()));
    assert!(site.connect("tls", "a.test", Some("tls")).is_err(), "a server is no client");
    assert!(site.connect("front", "front", None).is_err(), "a client is no server");
    for (name, wanted) in [("front", client("front")), ("etcd", both)] {
        assert_eq!(site.ensure(name, &wanted).state, State::Kept);
    }
}

#[test]
fn what_lacks_something_is_issued_again_for_its_old_key() {
    let site = Site::new();
    let wanted = server(&["a.test"]);
    site.ensure("tls", &wanted);
    let (key, other) = (site.read("tls.key"), Site::new());
    other.ensure("tls", &wanted);
    let day = 24 * 3600;
    let lacks: [(&str, &dyn Fn()); 6] = [
        ("ends", &|| site.forge("tls", |p| p.not_after = date!(29 * day))),
        ("not good for a.test", &|| site.forge("tls", |p| p.subject_alt_names.clear())),
        ("not good for a.test", &|| {
            site.forge("tls", |p| p.extended_key_usages = vec![Purpose::ClientAuth]);
        }),
        ("common name", &|| {
            site.forge("tls", |p| p.distinguished_name.push(DnType::CommonName, "b.test"));
        }),
        ("another key", &|| site.write("tls.pem", &other.read("tls.pem"))),
        ("not good for a.test", &|| {
            // Of another authority, for this key.
            let own = site.read("ca.pem");
            let own_key = site.read("ca.key");
            site.write("ca.pem", &other.read("ca.pem"));
            site.write("ca.key", &other.read("ca.key"));
            site.forge("tls", |_| {});
            site.write("ca.pem", &own);
            site.write("ca.key", &own_key);
        }),
    ];
    site.forge("tls", |p| p.not_after = date!(31 * day));
    assert_eq!(site.ensure("tls", &wanted).state, State::Kept, "it has a month");
    for (because, spoil) in lacks {
        spoil();
        let made = site.ensure("tls", &wanted);
        assert_eq!(made.state, State::Renewed, "{because}");
        assert!(made.because.as_deref().unwrap().contains(because), "{made:?}");
        assert_eq!(site.read("tls.key"), key);
        assert_eq!(site.connect("tls", "a.test", None), Ok(()), "{because}");
        assert_eq!(site.ensure("tls", &wanted).state, State::Kept, "{because}");
    }
}

#[test]
fn without_the_authoritys_key_what_serves_goes_on_and_nothing_is_made() {
    let site = Site::new();
    let wanted = server(&["a.test"]);
    site.ensure("tls", &wanted);
    let day = 24 * 3600;
    site.forge("tls", |p| p.not_after = date!(10 * day));
    std::fs::rename(site.path("ca.key"), site.path("away")).unwrap();
    let before = site.read("tls.pem");
    let due = site.ensure("tls", &wanted);
    assert_eq!((due.state, site.read("tls.pem")), (State::Due, before));
    let refused = site.try_ensure("front", &client("front")).unwrap_err().to_string();
    assert!(refused.contains("front.pem is not there") && refused.contains("ca.key"), "{refused}");
    assert!(!site.path("front.key").exists());

    std::fs::rename(site.path("away"), site.path("ca.key")).unwrap();
    site.forge("tls", |p| (p.not_before, p.not_after) = (date!(-20), date!(-10)));
    std::fs::rename(site.path("ca.key"), site.path("away")).unwrap();
    let refused = site.try_ensure("tls", &wanted).unwrap_err();
    assert!(matches!(refused, TransportError::NoKey { .. }), "{refused}");
}

#[test]
fn an_authority_is_made_once_and_completed() {
    let site = Site::new();
    assert!(site.authority().is_new());
    let (cert, key) = (site.read("ca.pem"), site.read("ca.key"));
    assert!(!site.authority().is_new());
    assert_eq!((site.read("ca.pem"), site.read("ca.key")), (cert.clone(), key.clone()));
    let shown = format!("{:?}", site.authority());
    assert!(!shown.contains(key.lines().nth(1).unwrap()), "{shown}");
    // Who was interrupted between the two files goes on.
    std::fs::remove_file(site.path("ca.pem")).unwrap();
    assert!(site.authority().is_new());
    assert_eq!(site.read("ca.key"), key);

    // While one is changed for another, both are trusted, and that of the key signs.
    let other = Site::new();
    other.authority();
    for both in
        [site.read("ca.pem") + &other.read("ca.pem"), other.read("ca.pem") + &site.read("ca.pem")]
    {
        site.write("ca.pem", &both);
        let _ = std::fs::remove_file(site.path("tls.pem"));
        site.ensure("tls", &server(&["a.test"]));
        assert_eq!(site.connect("tls", "a.test", None), Ok(()));
    }
    site.write("ca.key", &Site::new_key());
    let refused = site.try_authority().unwrap_err().to_string();
    assert!(refused.contains("ca.key is not the key of any certificate"), "{refused}");
}

impl Site {
    fn new_key() -> String {
        KeyPair::generate().unwrap().serialize_pem()
    }
}

#[test]
fn an_authority_that_ends_signs_nothing_that_lives_longer() {
    let site = Site::new();
    let make = |end: i64| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![Usage::KeyCertSign];
        (params.not_before, params.not_after) = (date!(-3600), date!(end));
        site.write("ca.pem", &params.self_signed(&key).unwrap().pem());
        site.write("ca.key", &key.serialize_pem());
    };
    make(5 * 24 * 3600);
    let wanted = server(&["a.test"]);
    let made = site.ensure("tls", &wanted);
    assert_eq!(made.expires_at, site.authority().expires_at());
    assert_eq!(site.ensure("tls", &wanted).state, State::Kept, "it cannot be had longer");
    make(-10);
    let refused = site.try_ensure("tls", &wanted).unwrap_err().to_string();
    assert!(refused.contains("ended") && refused.contains("ca.key"), "{refused}");
}

#[test]
fn what_no_certificate_can_say_is_refused() {
    let site = Site::new();
    let refused = |wanted: &Wanted| site.try_ensure("tls", wanted).unwrap_err().to_string();
    let many: Vec<String> = (0..101).map(|n| format!("h{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(refused(&server(&many)).contains("at most 100"));
    assert!(
        refused(&Wanted { client: false, ..client("a") })
            .contains("for a server, a client or both")
    );
    for host in ["", "a b", "*", "a.*.test", "https://a.test", "a:1", "-a", &"x".repeat(300)] {
        assert!(refused(&server(&[host])).contains("no name or address"), "{host}");
    }
    assert!(!site.path("tls.key").exists());
}

#[test]
fn of_many_that_begin_at_once_all_have_the_same_authority() {
    let site = Site::new();
    let names: Vec<String> = (0..8).map(|n| format!("t{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| site.ensure(name, &server(&["a.test"])));
        }
    });
    for name in &names {
        assert_eq!(site.ensure(name, &server(&["a.test"])).state, State::Kept, "{name}");
        assert_eq!(site.connect(name, "a.test", None), Ok(()), "{name}");
    }
}
