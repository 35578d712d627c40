//! Certificates of the platform's own TLS: an authority, and what servers and clients show.
//!
//! ```text
//!  ca.key ──▶ TransportAuthority ──▶ broker.pem   for servers, under their names
//!  ca.pem ──▶ who verifies           front.pem    for clients, by their common name
//! ```
//!
//! Devices have another authority, the exchange's ([`identity`](crate::identity)). Whether a certificate
//! is still good is asked of the library that TLS itself asks.

use crate::files::{create_private_folder, create_secret, read_text, write_secret};
use crate::tls::{TlsError, certificates, client_verifier};
use crate::x509::{self, AUTHORITY_LIFE, LEEWAY, NoAuthority, Signing, named, set_validity};
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::parse_x509_certificate;

/// How long a certificate lives: what public authorities may give at most.
const LIFE: SignedDuration = SignedDuration::from_hours(397 * 24);

/// How long before its end a certificate is issued again.
const RENEW: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Most names in a certificate.
const MAX_HOSTS: usize = 100;

/// An authority that signs while its key is here, and only says what is its own otherwise.
#[derive(Debug)]
pub struct TransportAuthority {
    cert_file: PathBuf,
    key_file: PathBuf,
    /// All that the file holds: during a change of authorities there are two.
    all: Vec<CertificateDer<'static>>,
    signing: Option<Signing>,
    expires_at: Timestamp,
    /// Whether it was made just now.
    is_new: bool,
}

/// What a certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its common name: who a client is.
    pub common_name: String,
    /// The DNS names and addresses by which a server is reached; none for one that is a client alone.
    pub hosts: Vec<String>,
    /// Whether its owner is a client.
    pub client: bool,
}

/// What became of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is good, and was left alone.
    Kept,
    /// There was none.
    Issued,
    /// There was one that would not have done for long, or lacked something.
    Renewed,
    /// It should be issued again, which wants the authority's key; it has not ended yet.
    Due,
}

/// A certificate that is in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What became of it.
    pub state: State,
    /// What was wrong with the one before, if anything was.
    pub because: Option<String>,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A file.
    #[error("{0}; check the path and its permissions")]
    Io(#[from] io::Error),
    /// A file holds something else.
    #[error("{} {what}; restore it from a backup, or move it and its counterpart away to have new ones made", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The authorities.
    #[error(transparent)]
    Authorities(#[from] TlsError),
    /// The authority has come to its end.
    #[error("the authority of {} ended {ended}; move it and {} away to have another made, and tell everybody who verifies", cert_file.display(), key_file.display())]
    Ended {
        /// Its certificate.
        cert_file: PathBuf,
        /// Its key.
        key_file: PathBuf,
        /// When.
        ended: Timestamp,
    },
    /// The authority's key is elsewhere.
    #[error("{} {because}, and {}, which signs, is not there; put it back for as long as this takes", cert_file.display(), key_file.display())]
    NoKey {
        /// What has to be issued.
        cert_file: PathBuf,
        /// Why.
        because: String,
        /// The authority's key.
        key_file: PathBuf,
    },
    /// A name that no certificate can hold.
    #[error(
        "'{0}' is no name or address of a server; write broker.example.com, *.example.com or 192.0.2.1"
    )]
    Host(String),
    /// Nothing to be used for.
    #[error(
        "a certificate is for a server, a client or both; give at least one host, or say that it is for a client"
    )]
    NoPurpose,
    /// Too many names.
    #[error("a certificate has at most {MAX_HOSTS} names")]
    TooManyHosts,
    /// Randomness, above all.
    #[error("it cannot be made: {0}")]
    Generate(String),
}

impl TransportAuthority {
    /// Reads an authority, and makes one where there is none. A key whose certificate is missing gets
    /// one; a certificate whose key is elsewhere signs nothing, and still says what is its own.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn open_or_create(cert_file: &Path, key_file: &Path) -> Result<Self, TransportError> {
        let is_new = !cert_file.try_exists()?;
        if is_new {
            create(cert_file, key_file)?;
        }
        let wrong = |path: &Path, what: &str| TransportError::Unusable {
            path: path.to_owned(),
            what: what.to_owned(),
        };
        let all = certificates(&read_text(cert_file)?)
            .ok_or_else(|| wrong(cert_file, "holds no certificate in PEM"))?;
        let mut signing = None;
        if key_file.try_exists()? {
            let opened = Signing::open(&all, &read_text(key_file)?);
            signing = Some(opened.map_err(|why| match why {
                NoAuthority::Certificates(what) => wrong(cert_file, what),
                NoAuthority::Key(what) => wrong(key_file, what),
            })?);
        }
        let ends = all.iter().filter_map(|der| {
            let (_, parsed) = parse_x509_certificate(der).ok()?;
            x509::at(parsed.validity().not_after)
        });
        let expires_at = match &signing {
            Some(signing) => signing.expires_at,
            None => ends.max().ok_or_else(|| wrong(cert_file, "holds what cannot be read"))?,
        };
        let (cert_file, key_file) = (cert_file.to_owned(), key_file.to_owned());
        if expires_at <= Timestamp::now() {
            return Err(TransportError::Ended { cert_file, key_file, ended: expires_at });
        }
        Ok(Self { cert_file, key_file, all, signing, expires_at, is_new })
    }

    /// When it ends; no certificate of its own lives longer.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether it was made just now.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Sees to it that a certificate and its key are in their places: it is left alone while it is good,
    /// and else issued again for the key that it has. It is good if it is this authority's, for what is
    /// wanted, under all names that are wanted, and lives another 30 days (or as long as the authority).
    ///
    /// # Errors
    /// [`TransportError`]; a certificate that cannot be issued again and has not ended is none, but
    /// [`State::Due`].
    pub fn ensure(
        &self,
        wanted: &Wanted,
        cert_file: &Path,
        key_file: &Path,
    ) -> Result<Certificate, TransportError> {
        wanted.check()?;
        let now = Timestamp::now();
        let key = match key_file.try_exists()? {
            true => Some(read_key(key_file)?),
            false => None,
        };
        let known = match cert_file.try_exists()? {
            true => Some(self.read(cert_file)?),
            false => None,
        };
        let because = match &known {
            None => "is not there".to_owned(),
            Some(known) => match self.lack(known, wanted, key.as_ref(), now)? {
                None => return Ok(known.become_of(State::Kept, None)),
                Some(lack) => lack,
            },
        };
        let Some(signing) = &self.signing else {
            return match known.filter(|known| key.is_some() && known.expires_at > now) {
                Some(known) => Ok(known.become_of(State::Due, Some(because))),
                None => Err(TransportError::NoKey {
                    cert_file: cert_file.to_owned(),
                    because,
                    key_file: self.key_file.clone(),
                }),
            };
        };
        for file in [cert_file, key_file] {
            private_folder_of(file)?;
        }
        let key = match key {
            Some(key) => key,
            None => create_key(key_file)?,
        };
        let (pem, expires_at) = sign(signing, wanted, &key, now)?;
        write_secret(cert_file, pem.as_bytes())?;
        Ok(match known {
            None => Certificate { state: State::Issued, because: None, expires_at },
            Some(_) => Certificate { state: State::Renewed, because: Some(because), expires_at },
        })
    }

    fn read(&self, cert_file: &Path) -> Result<Known, TransportError> {
        let wrong = |what: &str| TransportError::Unusable {
            path: cert_file.to_owned(),
            what: what.to_owned(),
        };
        let all = certificates(&read_text(cert_file)?);
        let leaf = all.and_then(|all| all.into_iter().next());
        let leaf = leaf.ok_or_else(|| wrong("holds no certificate in PEM"))?;
        let expires_at = parse_x509_certificate(&leaf)
            .ok()
            .and_then(|(_, parsed)| x509::at(parsed.validity().not_after))
            .ok_or_else(|| wrong("holds a certificate that cannot be read"))?;
        Ok(Known { leaf, expires_at })
    }

    /// What a certificate lacks to be good; `None` if it is.
    fn lack(
        &self,
        known: &Known,
        wanted: &Wanted,
        key: Option<&KeyPair>,
        now: Timestamp,
    ) -> Result<Option<String>, TransportError> {
        let parsed = parse_x509_certificate(&known.leaf).map(|(_, parsed)| parsed);
        let parsed = parsed.map_err(|error| TransportError::Generate(error.to_string()))?;
        let lack = |what: &str| Ok(Some(what.to_owned()));
        let Some(key) = key else { return lack("has no key") };
        if parsed.public_key().raw != key.subject_public_key_info() {
            return lack("is of another key");
        }
        let mut names = parsed.subject().iter_common_name();
        if names.next().and_then(|name| name.as_str().ok()) != Some(&wanted.common_name) {
            return lack("is of another common name");
        }
        let until = now.checked_add(RENEW).unwrap_or(now).min(self.expires_at);
        if known.expires_at < until {
            return Ok(Some(format!("ends {}", known.expires_at)));
        }
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(now.as_second()).unwrap_or_default(),
        ));
        if wanted.client {
            let verifier = client_verifier(&self.cert_file, false)?;
            if let Err(error) = verifier.verify_client_cert(&known.leaf, &[], moment) {
                return Ok(Some(format!("is no client's of this authority ({error})")));
            }
        }
        if !wanted.hosts.is_empty() {
            let verifier = self.server_verifier()?;
            for host in &wanted.hosts {
                let name = wanted_name(host)?;
                let verified = verifier.verify_server_cert(&known.leaf, &[], &name, &[], moment);
                if let Err(error) = verified {
                    return Ok(Some(format!("is not good for {host} ({error})")));
                }
            }
        }
        Ok(None)
    }

    fn server_verifier(&self) -> Result<Arc<WebPkiServerVerifier>, TransportError> {
        let wrong = |cause: &dyn Display| TransportError::Unusable {
            path: self.cert_file.clone(),
            what: format!("cannot be used: {cause}"),
        };
        let mut roots = RootCertStore::empty();
        for authority in &self.all {
            roots.add(authority.clone()).map_err(|error| wrong(&error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| wrong(&error))
    }
}

/// A certificate that was found.
struct Known {
    leaf: CertificateDer<'static>,
    expires_at: Timestamp,
}

impl Known {
    fn become_of(&self, state: State, because: Option<String>) -> Certificate {
        Certificate { state, because, expires_at: self.expires_at }
    }
}

impl Wanted {
    fn check(&self) -> Result<(), TransportError> {
        if self.hosts.is_empty() && !self.client {
            return Err(TransportError::NoPurpose);
        }
        if self.hosts.len() > MAX_HOSTS {
            return Err(TransportError::TooManyHosts);
        }
        self.hosts.iter().try_for_each(|host| wanted_name(host).map(drop))
    }
}

/// A name that has to be good for what is wanted: of a wildcard, one of those it stands for.
fn wanted_name(host: &str) -> Result<ServerName<'static>, TransportError> {
    let name = match host.strip_prefix("*.") {
        Some(rest) => format!("any.{rest}"),
        None => host.to_owned(),
    };
    ServerName::try_from(name).map_err(|_| TransportError::Host(host.to_owned()))
}

fn failed(error: impl Display) -> TransportError {
    TransportError::Generate(error.to_string())
}

fn private_folder_of(file: &Path) -> io::Result<()> {
    match file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => create_private_folder(folder),
        None => Ok(()),
    }
}

fn read_key(path: &Path) -> Result<KeyPair, TransportError> {
    // What is wrong with the key is not said: it could show some of it.
    KeyPair::from_pem(&read_text(path)?).map_err(|_| TransportError::Unusable {
        path: path.to_owned(),
        what: "holds no private key in PEM (PKCS #8)".to_owned(),
    })
}

fn create_key(path: &Path) -> Result<KeyPair, TransportError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    match create_secret(path, key.serialize_pem().as_bytes()) {
        // Somebody else made one at the same time.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_key(path),
        made => Ok(made.map(|()| key)?),
    }
}

/// Makes the certificate of an authority, for the key that is there or a new one.
fn create(cert_file: &Path, key_file: &Path) -> Result<(), TransportError> {
    for file in [cert_file, key_file] {
        private_folder_of(file)?;
    }
    let key = match key_file.try_exists()? {
        true => read_key(key_file)?,
        false => create_key(key_file)?,
    };
    let mut suffix = [0; 4];
    aws_lc_rs::rand::fill(&mut suffix).map_err(failed)?;
    let now = Timestamp::now();
    let mut params = CertificateParams::default();
    // Two authorities that are trusted side by side have names of their own.
    params.distinguished_name =
        named(&format!("Bulkhead transport authority {}", HEXLOWER.encode(&suffix)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let begin = now.checked_sub(LEEWAY).map_err(failed)?;
    set_validity(&mut params, begin, now.checked_add(AUTHORITY_LIFE).map_err(failed)?);
    let made = params.self_signed(&key).map_err(failed)?;
    match create_secret(cert_file, made.pem().as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => Ok(made?),
    }
}

fn sign(
    signing: &Signing,
    wanted: &Wanted,
    key: &KeyPair,
    now: Timestamp,
) -> Result<(String, Timestamp), TransportError> {
    let begin = now.checked_sub(LEEWAY).map_err(failed)?.max(signing.begins_at);
    let end = now.checked_add(LIFE).map_err(failed)?.min(signing.expires_at);
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = named(&wanted.common_name);
    params.subject_alt_names =
        wanted.hosts.iter().map(|host| san(host)).collect::<Result<_, _>>()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let server = (!wanted.hosts.is_empty()).then_some(ExtendedKeyUsagePurpose::ServerAuth);
    let client = wanted.client.then_some(ExtendedKeyUsagePurpose::ClientAuth);
    params.extended_key_usages = server.into_iter().chain(client).collect();
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, begin, end);
    let made = params.signed_by(key, &signing.issuer).map_err(failed)?;
    Ok((made.pem(), Timestamp::from_second(end.as_second()).unwrap_or(end)))
}

fn san(host: &str) -> Result<SanType, TransportError> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => {
            host.try_into().map(SanType::DnsName).map_err(|_| TransportError::Host(host.to_owned()))
        }
    }
}
