//! The exchange's keys.

use super::authority::CertificateAuthority;
use super::merge;
use crate::files::{self, create_private_folder, create_secret, read_text};
use crate::issuer::{KeySet, Signer, SignerError};
use crate::tls::TlsError;
use jsonwebtoken::Algorithm;
use std::io;
use std::path::{Path, PathBuf};

/// The authority's certificate, and further ones that are trusted besides. Public.
const CA_CERT: &str = "ca.pem";

/// The authority's private key.
const CA_KEY: &str = "ca.key";

/// The keys that verify tokens of the exchange, as a JWKS (RFC 7517 §5). Public.
pub const TOKEN_KEYS: &str = "tokens.jwks.json";

/// The private key that signs tokens.
const TOKEN_KEY: &str = "tokens.key";

/// What signs credentials: a folder of four files, of which two are private.
#[derive(Debug)]
pub struct ExchangeKeys {
    authority: CertificateAuthority,
    tokens: Signer,
}

/// The files outside of the keys' folder by which brokers verify what the exchange issues.
#[derive(Clone, Debug, Default)]
pub struct Trusting {
    /// Authorities of devices' certificates.
    pub client_ca_files: Vec<PathBuf>,
    /// Keys of tokens.
    pub jwks_files: Vec<PathBuf>,
}

/// Why keys or what verifies identities cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
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
    /// Half of a pair is missing.
    #[error("{} is missing, and {} is there; restore it from a backup, or move the other away too to have new ones made", missing.display(), there.display())]
    Half {
        /// What is missing.
        missing: PathBuf,
        /// What is there.
        there: PathBuf,
    },
    /// Nothing is there.
    #[error("{} does not hold the keys of the exchange; run `bulkhead init exchange`, or start the service that has [exchange], which makes them", .0.display())]
    NoKeys(PathBuf),
    /// Randomness, above all.
    #[error("keys cannot be made: {0}")]
    Generate(String),
    /// The key of tokens.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The authorities that are trusted.
    #[error("client_ca_file: {0}")]
    Trust(#[from] TlsError),
    /// The keys that verify tokens.
    #[error("exchange_jwks_file: {0}")]
    Tokens(#[from] crate::issuer::SourceError),
}

impl ExchangeKeys {
    /// Reads the keys of a folder.
    ///
    /// # Errors
    /// [`IdentityError`] if one is missing or unusable.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let [ca, tokens] = Pair::all(folder);
        let (has_ca, has_tokens) = (ca.exists()?, tokens.exists()?);
        if !has_ca || !has_tokens {
            return Err(IdentityError::NoKeys(folder.to_owned()));
        }
        let keys = Self {
            authority: CertificateAuthority::open(&ca.public, &ca.private)?,
            tokens: Signer::read(&tokens.private)?,
        };
        keys.check_published(&tokens.public)?;
        Ok(keys)
    }

    /// The same, where those that are missing are made first. What is there is never changed.
    ///
    /// # Errors
    /// [`IdentityError`], also if one of two files that belong together is missing.
    pub fn open_or_create(folder: &Path) -> Result<Self, IdentityError> {
        create_private_folder(folder)?;
        // Of two processes that start at the same time one makes them.
        let _lock = files::lock(&folder.join("keys"))?;
        let [ca, tokens] = Pair::all(folder);
        if !ca.exists()? {
            CertificateAuthority::create(&ca.public, &ca.private)?;
        }
        if !tokens.exists()? {
            let signer = Signer::create(&tokens.private)?;
            create_secret(&tokens.public, signer.jwks().to_string().as_bytes())?;
        }
        Self::open(folder)
    }

    /// Puts new keys in the place of the old ones, for whoever opens the folder next. Before anything can
    /// be signed with them, they are trusted beside the old ones: in the folder itself, and in the files
    /// that `trusting` names. If this ends half way, some keys are new and some old, and all are trusted.
    ///
    /// # Errors
    /// [`IdentityError`] if a file is not there, or holds something else.
    pub fn rotate(folder: &Path, trusting: &Trusting) -> Result<Self, IdentityError> {
        // What is not there cannot be rotated, nor may its folder be made.
        Self::open(folder)?;
        let _lock = files::lock(&folder.join("keys"))?;
        let before = Self::open(folder)?;
        let scratch = tempfile::tempdir_in(folder)?;
        let next = Self::create(scratch.path())?;
        let ([ca, tokens], [next_ca, next_tokens]) = (Pair::all(folder), Pair::all(scratch.path()));
        let own_ca = read_text(&ca.public)?;
        let new_ca = read_text(&next_ca.public)?;
        let (own_keys, new_keys) = (read_text(&tokens.public)?, next.tokens.jwks().to_string());
        // All are read before any is written.
        let authorities = trusting.client_ca_files.iter().map(|path| {
            let trusted = merge::authorities(path, &[&read_text(path)?, &own_ca, &new_ca])?;
            Ok((path, trusted))
        });
        let authorities = authorities.collect::<Result<Vec<_>, IdentityError>>()?;
        let published = before.tokens.jwks().to_string();
        let key_sets = trusting.jwks_files.iter().map(|path| {
            let trusted = merge::keys(path, &[&read_text(path)?, &published, &new_keys])?;
            Ok((path, trusted))
        });
        let key_sets = key_sets.collect::<Result<Vec<_>, IdentityError>>()?;
        let authorities_here = merge::authorities(&ca.public, &[&new_ca, &own_ca])?;
        let keys_here = merge::keys(&tokens.public, &[&new_keys, &own_keys])?;
        for (path, text) in authorities.iter().chain(&key_sets) {
            files::replace(path, text.as_bytes())?;
        }
        for (here, text, next) in
            [(ca, authorities_here, next_ca), (tokens, keys_here, next_tokens)]
        {
            files::replace(&here.public, text.as_bytes())?;
            files::write_secret(&here.private, read_text(&next.private)?.as_bytes())?;
        }
        Self::open(folder)
    }

    fn create(folder: &Path) -> Result<Self, IdentityError> {
        let [ca, tokens] = Pair::all(folder);
        let signer = Signer::create(&tokens.private)?;
        Ok(Self {
            authority: CertificateAuthority::create(&ca.public, &ca.private)?,
            tokens: signer,
        })
    }

    /// What signs certificates.
    pub fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// What signs tokens.
    pub fn tokens(&self) -> &Signer {
        &self.tokens
    }

    /// A token that nobody can verify would be of no use.
    fn check_published(&self, file: &Path) -> Result<(), IdentityError> {
        if self.tokens.is_in(&read_text(file)?) {
            return Ok(());
        }
        let what = "does not hold the public key of tokens.key".to_owned();
        Err(IdentityError::Unusable { path: file.to_owned(), what })
    }
}

/// Whether a file holds keys that can verify tokens of the exchange.
///
/// # Errors
/// [`IdentityError`] if it cannot be read, or holds none.
pub fn check_token_keys(file: &Path) -> Result<(), IdentityError> {
    let text = read_text(file)?;
    match KeySet::from_jwks(text.as_bytes(), &[Algorithm::EdDSA]) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(IdentityError::Unusable { path: file.to_owned(), what: error.to_string() })
        }
    }
}

/// Two files that belong together.
struct Pair {
    public: PathBuf,
    private: PathBuf,
}

impl Pair {
    fn all(folder: &Path) -> [Self; 2] {
        [(CA_CERT, CA_KEY), (TOKEN_KEYS, TOKEN_KEY)].map(|(public, private)| Self {
            public: folder.join(public),
            private: folder.join(private),
        })
    }

    /// Whether both are there, or neither is.
    fn exists(&self) -> Result<bool, IdentityError> {
        match (self.public.try_exists()?, self.private.try_exists()?) {
            (true, true) => Ok(true),
            (false, false) => Ok(false),
            (public, _) => {
                let (public_file, private_file) = (self.public.clone(), self.private.clone());
                Err(if public {
                    IdentityError::Half { missing: private_file, there: public_file }
                } else {
                    IdentityError::Half { missing: public_file, there: private_file }
                })
            }
        }
    }
}
