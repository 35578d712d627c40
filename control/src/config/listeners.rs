//! What holds for the listeners of every backend.

use super::Problem;
use std::net::SocketAddr;

/// The listeners of one backend, and its words for them.
pub(super) struct Listeners<'a> {
    /// Each one's address, and whether it is encrypted.
    pub all: Vec<(SocketAddr, bool)>,
    /// The backend's section.
    pub section: &'a str,
    /// One that could be listed.
    pub example: &'a str,
    /// What the encrypted ones begin with.
    pub encrypted: &'a str,
    /// Whether there is a certificate.
    pub has_tls: bool,
    /// Whether those that are not encrypted may be off loopback.
    pub plaintext: bool,
}

impl Listeners<'_> {
    /// Checks that there are some, that they can be opened, and that no token crosses a network in the
    /// clear.
    pub(super) fn check(&self, dev: bool) -> Result<(), Problem> {
        let Self { all, section, example, encrypted: schemes, has_tls, plaintext } = self;
        if all.is_empty() {
            return Err(Problem::new(
                "listeners",
                "is empty, so nobody could connect",
                &format!("list some, such as [\"{example}\"]"),
            ));
        }
        for (i, (address, encrypted)) in all.iter().enumerate() {
            let setting = format!("listeners[{i}]");
            let loopback = address.ip().is_loopback();
            if *encrypted && !has_tls {
                return Err(Problem::new(
                    &setting,
                    "needs a certificate",
                    &format!("set {section}.tls = {{ cert_file = …, key_file = … }}"),
                ));
            }
            if !loopback && dev {
                return Err(Problem::new(
                    &setting,
                    "is reachable from other machines, with dev = true",
                    "listen on loopback, or set dev = false",
                ));
            }
            if !loopback && !encrypted && !plaintext {
                return Err(Problem::new(
                    &setting,
                    "would let tokens cross the network in the clear",
                    &format!("use {schemes}, or say plaintext = true where the network is trusted"),
                ));
            }
        }
        Ok(())
    }
}
