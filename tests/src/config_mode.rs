//! Keys, tenants and configuration for a server with fixed accounts.

use crate::folder::Folder;
use crate::stack::{AUDIENCE, ISSUER};
use bulkhead_auth_callout::nkey::SigningKey;
use bulkhead_auth_callout::xkey::CurveKey;
use bulkhead_cli::signer::Signer;
use bulkhead_control::config::Config;
use nkeys::KeyPairType;
use secrecy::ExposeSecret;
use std::path::Path;

/// A temporary folder with everything that config mode needs. The directory has the tenants `acme`,
/// `globex` and `initech`; the server has accounts for the first two.
pub struct ConfigModeSite {
    /// The issuer of tokens.
    pub signer: Signer,
    /// The key that requests are sealed for.
    pub curve: CurveKey,
    issuer: SigningKey,
    folder: Folder,
}

impl ConfigModeSite {
    /// Makes the keys.
    #[expect(clippy::new_without_default, reason = "it makes keys and a folder")]
    pub fn new() -> Self {
        let folder = Folder::new();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        let signer = Signer::create(&folder.path().join("issuer.pem")).unwrap();
        write("issuer.jwks.json", &signer.jwks().to_string());
        write("tenants.toml", "[tenants.acme]\n[tenants.globex]\n[tenants.initech]\n");
        let issuer = SigningKey::generate(KeyPairType::Account).unwrap();
        write("issuer.seed", issuer.seed().expose_secret());
        let seed = CurveKey::generate_seed().unwrap();
        write("curve.seed", seed.expose_secret());
        write("password", "only-for-tests\n");
        Self { signer, curve: CurveKey::from_seed(&seed).unwrap(), issuer, folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server's configuration.
    pub fn server_config(&self) -> String {
        format!(
            "max_control_line: 32KB\n\
             accounts {{\n\
               SYS: {{ users: [ {{ user: sys, password: only-for-tests }} ] }}\n\
               AUTH: {{ users: [ {{ user: auth, password: only-for-tests }} ] }}\n\
               ACME: {{}}\n  GLOBEX: {{}}\n\
             }}\n\
             system_account: SYS\n\
             authorization {{ timeout: 1.9, auth_callout {{\n\
               issuer: {}, account: AUTH, auth_users: [ auth, sys ], xkey: {}\n\
             }} }}\n",
            self.issuer.public(),
            self.curve.public(),
        )
    }

    /// Writes and reads `bulkhead.toml` for a server.
    pub fn configure(&self, server: &str) -> Config {
        let path = self.folder().join("bulkhead.toml");
        let text = format!(
            "directory = {{ file = \"tenants.toml\" }}\n\
             audit = {{ path = \"audit.jsonl\" }}\n\
             admin = {{ listen = \"127.0.0.1:0\" }}\n\
             [[issuers]]\nname = \"test\"\nissuer = \"{ISSUER}\"\n\
             audiences = [\"{AUDIENCE}\"]\nalgorithms = [\"EdDSA\"]\ntenants = \"all\"\n\
             keys.jwks_file = \"issuer.jwks.json\"\n\
             [nats]\nservers = [\"{server}\"]\n\
             [nats.config_mode]\nissuer_seed_file = \"issuer.seed\"\n\
             xkey_seed_file = \"curve.seed\"\nuser = \"auth\"\npassword_file = \"password\"\n\
             system_user = \"sys\"\nsystem_password_file = \"password\"\n\
             accounts = {{ acme = \"ACME\", globex = \"GLOBEX\" }}\n"
        );
        std::fs::write(&path, text).unwrap();
        Config::load(&path).unwrap()
    }
}
