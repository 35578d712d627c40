//! `bulkhead init nats`: everything that a server in operator mode needs, made once.

use crate::accounts;
use crate::jwt::{Account, Claims, JwtError, Operator, Permission, User};
use crate::keyring::{AccountKeys, Keyring, KeyringError, KeyringFile, RotateError, Rotation};
use crate::nkey::{NkeyError, SigningKey};
use bulkhead_control::files;
use jiff::Timestamp;
use nkeys::KeyPairType;
use secrecy::ExposeSecret;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// What was written.
#[derive(Clone, Debug)]
pub struct Initialized {
    /// The folder of keys, for `nats.operator.keys`.
    pub keys: PathBuf,
    /// The server's configuration.
    pub server_config: PathBuf,
    /// The operator's identity seed, to be taken offline.
    pub operator_seed: PathBuf,
    /// Credentials of a user of the system account, for people.
    pub system_credentials: PathBuf,
    /// Credentials of the registry.
    pub registry_credentials: PathBuf,
}

/// Why it could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// There are keys already.
    #[error(
        "{} exists; keys are never overwritten, because tenants' accounts depend on them: choose \
         another folder, or rotate with `bulkhead nats rotate`",
        .0.display()
    )]
    Exists(PathBuf),
    /// A file or folder.
    #[error("{0}; check the path and its permissions")]
    Io(#[from] io::Error),
    /// The keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A new key.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// A key.
    #[error("a key cannot be made: {0}")]
    Key(#[from] NkeyError),
    /// A JWT.
    #[error("a JWT cannot be made: {0}")]
    Jwt(#[from] JwtError),
}

/// Makes operator, accounts, keys and a server configuration in a folder that has none yet. The
/// server listens where `listen` says.
///
/// # Errors
/// [`InitError`]; nothing that exists is overwritten.
pub fn init(folder: &Path, listen: &str) -> Result<Initialized, InitError> {
    files::create_private_folder(folder)?;
    let paths = Initialized {
        keys: folder.to_owned(),
        server_config: folder.join("nats-server.conf"),
        operator_seed: folder.join("operator.seed"),
        system_credentials: folder.join("system.creds"),
        registry_credentials: folder.join("registry.creds"),
    };
    for path in [&KeyringFile::path(folder), &paths.operator_seed, &paths.server_config] {
        if path.exists() {
            return Err(InitError::Exists(path.clone()));
        }
    }
    let operator = SigningKey::generate(KeyPairType::Operator)?;
    let file = KeyringFile::generate(&operator)?;
    let keys = Keyring::open(&file)?;
    let now = Timestamp::now();

    // The operator signs itself with its identity key, once; from then on its signing key does.
    let content =
        Operator::new(vec![keys.operator.public().to_owned()], keys.system.account.clone());
    let mut claims = Claims::about(operator.public(), content);
    "bulkhead".clone_into(&mut claims.name);
    let operator_jwt = claims.sign(&operator, now.as_second())?;

    let server_config = server_config(&keys, &operator_jwt, listen, now)?;
    // The keyring comes last: while it is missing, the folder is not initialized.
    files::create_secret(&paths.operator_seed, operator.seed().expose_secret().as_bytes())?;
    let system = person(&keys.system, "system", now)?;
    files::create_secret(&paths.system_credentials, system.as_bytes())?;
    let registry = person(&keys.registry, "registry", now)?;
    files::create_secret(&paths.registry_credentials, registry.as_bytes())?;
    files::create_secret(&folder.join("operator.jwt"), operator_jwt.as_bytes())?;
    files::create_secret(&paths.server_config, server_config.as_bytes())?;
    file.write(folder, false)?;
    Ok(paths)
}

/// Adds a new key of one kind to the keyring, which running services take over by themselves.
/// Returns when it comes into use.
///
/// # Errors
/// [`InitError`].
pub fn rotate(folder: &Path, what: Rotation) -> Result<Timestamp, InitError> {
    // Of two rotations at the same time both have to arrive.
    let _lock = files::lock(&KeyringFile::path(folder))?;
    let mut file = KeyringFile::read(folder)?;
    let from = file.rotate(what)?;
    // Whatever was read has to be writable as a keyring again before the old one is replaced.
    Keyring::open(&file)?;
    file.write(folder, true)?;
    Ok(from)
}

/// A credentials file of a new user without limits.
fn person(account: &AccountKeys, name: &str, now: Timestamp) -> Result<String, InitError> {
    let user = SigningKey::generate(KeyPairType::User)?;
    let mut content = User::new(Permission::default(), Permission::default());
    content.issuer_account.clone_from(&account.account);
    let mut claims = Claims::about(user.public(), content);
    name.clone_into(&mut claims.name);
    let jwt = claims.sign(signer(account, now)?, now.as_second())?;
    let seed = user.seed().expose_secret();
    Ok(format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    ))
}

/// The user that stands for clients without a JWT: it may do nothing, and the callout is asked.
fn sentinel(keys: &Keyring, now: Timestamp) -> Result<String, InitError> {
    let mut content = User::new(Permission::nothing(), Permission::nothing());
    content.issuer_account.clone_from(&keys.auth.account);
    content.bearer_token = true;
    let mut claims = Claims::about(keys.sentinel.as_str(), content);
    "sentinel".clone_into(&mut claims.name);
    Ok(claims.sign(signer(&keys.auth, now)?, now.as_second())?)
}

fn signer(account: &AccountKeys, now: Timestamp) -> Result<&SigningKey, NkeyError> {
    account.signer(now).map(AsRef::as_ref).ok_or(NkeyError::NONE_CURRENT)
}

fn server_config(
    keys: &Keyring,
    operator_jwt: &str,
    listen: &str,
    now: Timestamp,
) -> Result<String, InitError> {
    let sign = |account: &str, name: &str, content: Account| {
        accounts::sign(keys, account, name, content, now.as_second())
    };
    let preload = [
        (&keys.system.account, accounts::SYSTEM, accounts::system(keys)),
        (&keys.auth.account, accounts::AUTH, accounts::auth(keys, keys.callout_user.public(), now)),
        (&keys.registry.account, accounts::REGISTRY, accounts::registry(keys)),
    ];
    let mut preloaded = String::new();
    for (account, name, content) in preload {
        let jwt = sign(account, name, content)?;
        // Writing to a string cannot fail.
        let _ = writeln!(preloaded, "  # {name}\n  {account}: {jwt}");
    }
    Ok(format!(
        "# Written by `bulkhead init nats`. Add what is yours (TLS, clustering, JetStream) below.\n\
         {listen}\
         # A CONNECT carries a tenant token.\n\
         max_control_line: 32KB\n\
         # How long a client waits for the callout. Clients of NATS's Python library take a server's\n\
         # first PING, two seconds after the connect, for success: keep it below.\n\
         authorization {{ timeout: 1.9 }}\n\n\
         operator: {operator_jwt}\n\
         system_account: {system}\n\
         # Clients without a JWT of their own are asked about as this user, which may do nothing.\n\
         default_sentinel: {sentinel}\n\n\
         # Tenants' accounts are told to the server by the callout service and kept here.\n\
         resolver: {{ type: full, dir: accounts, allow_delete: true, interval: \"2m\", timeout: \"1.9s\" }}\n\
         resolver_preload: {{\n{preloaded}}}\n",
        listen = if listen.is_empty() { String::new() } else { format!("listen: {listen}\n") },
        system = keys.system.account,
        sentinel = sentinel(keys, now)?,
    ))
}
