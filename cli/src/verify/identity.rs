//! What a client shows a broker of itself.

use super::ear::random_word;
use nkeys::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;

/// A tenant's credentials.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) shown: Shown,
    /// A client certificate and its key.
    pub(crate) certificate: Option<(Pem, Pem)>,
}

/// What is shown beside a certificate.
#[derive(Clone, Debug)]
pub(crate) enum Shown {
    Nothing,
    Password {
        user: String,
        password: SecretString,
    },
    /// A tenant token: on NATS the token, on MQTT a password, on Zenoh a user name.
    Token(SecretString),
    /// A NATS user JWT and its key, as a `.creds` file has them.
    Creds(SecretString),
}

/// Certificates, or a key, in PEM.
#[derive(Clone, Debug)]
pub(crate) struct Pem(pub(crate) SecretString);

impl Identity {
    /// Nobody.
    pub(crate) fn nobody() -> Self {
        Self { shown: Shown::Nothing, certificate: None }
    }

    /// The same with a secret that is wrong, and the same certificate; `None` where nothing is shown
    /// that could be wrong.
    pub(crate) fn forged(&self) -> Option<Self> {
        let wrong = || SecretString::from(random_word());
        let shown = match &self.shown {
            Shown::Nothing => return None,
            Shown::Password { user, .. } => {
                Shown::Password { user: user.clone(), password: wrong() }
            }
            Shown::Token(_) => Shown::Token(wrong()),
            Shown::Creds(creds) => {
                // Whoever has seen the JWT, which is no secret, has not its key.
                let stranger = KeyPair::new_user().seed().ok()?;
                Shown::creds(between(creds.expose_secret(), "NATS USER JWT")?, &stranger)
            }
        };
        Some(Self { shown, certificate: self.certificate.clone() })
    }

    /// The client's side of TLS.
    ///
    /// # Errors
    /// What is wrong with the certificates.
    pub(crate) fn tls(&self, authorities: Option<&Pem>) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        match authorities {
            Some(pem) => {
                for one in CertificateDer::pem_slice_iter(pem.0.expose_secret().as_bytes()) {
                    let one = one.map_err(|error| format!("ca_file: {error}"))?;
                    roots.add(one).map_err(|error| format!("ca_file: {error}"))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err("no authority of the broker's certificate is known; set ca_file".to_owned());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        match &self.certificate {
            None => Ok(config.with_no_client_auth()),
            Some((cert, key)) => {
                let chain = CertificateDer::pem_slice_iter(cert.0.expose_secret().as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|error| format!("cert_file: {error}"))?;
                let key = PrivateKeyDer::from_pem_slice(key.0.expose_secret().as_bytes());
                let key = key.map_err(|error| format!("key_file: {error}"))?;
                let config = config.with_client_auth_cert(chain, key);
                config.map_err(|error| format!("cert_file: {error}"))
            }
        }
    }
}

impl Shown {
    pub(crate) fn creds(jwt: &str, seed: &str) -> Self {
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        Self::Creds(text.into())
    }
}

/// What stands in a section of a `.creds` file.
fn between<'a>(text: &'a str, section: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("-----BEGIN {section}-----"))?;
    Some(after.split_once("-----")?.0.trim())
}

#[cfg(test)]
mod tests {
    use super::{Identity, Shown};
    use secrecy::ExposeSecret;

    #[test]
    fn forged_credentials_differ_in_the_secret_alone() {
        let password = Shown::Password { user: "acme".to_owned(), password: "right".into() };
        let forged = Identity { shown: password, certificate: None }.forged().unwrap();
        let Shown::Password { user, password } = forged.shown else { panic!("another kind") };
        assert_eq!(user, "acme");
        assert_ne!(password.expose_secret(), "right");

        let creds = Identity { shown: Shown::creds("e.y.j", "the-owners"), certificate: None };
        let Shown::Creds(text) = creds.forged().unwrap().shown else { panic!("another kind") };
        assert!(
            text.expose_secret().contains("\ne.y.j\n")
                && !text.expose_secret().contains("the-owners")
        );
        assert!(Identity::nobody().forged().is_none());
    }
}
