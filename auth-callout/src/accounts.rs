//! The accounts of operator mode, and what they share.
//!
//! The registry's account only exports, with a wildcard where the tenant stands; each tenant's account
//! imports its own part. Bringing in a tenant is then one small JWT, however many there are.

use crate::jwt::{
    Account, AccountLimits, Authorization, Claims, Export, Import, JetStreamLimits, JwtError,
    ServiceOrStream,
};
use crate::keyring::Keyring;
use crate::nkey::NkeyError;
use bulkhead_policy::{Quotas, Status, Tenant, TenantId};
use jiff::Timestamp;

/// Name of the callout's account.
pub const AUTH: &str = "AUTH";

/// Name of the registry's account.
pub const REGISTRY: &str = "REG";

/// Name of the system account.
pub const SYSTEM: &str = "SYS";

/// What a tenant shares with the registry, `{}` being the tenant.
///
/// The registry asks a tenant with an inbox under the tenant's own part, so that a tenant can answer
/// only what it was itself asked.
const SHARED: &[(&str, &str, ServiceOrStream)] = &[
    ("registry", "device-connect.{}.registry", ServiceOrStream::Service),
    ("discovery", "device-connect.{}.discovery", ServiceOrStream::Service),
    ("heartbeat", "device-connect.{}.*.heartbeat", ServiceOrStream::Service),
    ("replies", "_INBOX.{}.>", ServiceOrStream::Service),
    ("lifecycle", "device-connect.{}.device.*", ServiceOrStream::Stream),
    ("commands", "device-connect.{}.*.cmd", ServiceOrStream::Stream),
];

/// The registry's account.
pub fn registry(keys: &Keyring) -> Account {
    let export = |(name, subject, kind): &(&str, &str, ServiceOrStream)| Export {
        name: (*name).to_owned(),
        subject: subject.replace("{}", "*"),
        kind: *kind,
    };
    Account {
        exports: SHARED.iter().map(export).collect(),
        signing_keys: keys.registry.public_keys(),
        ..Account::new()
    }
}

/// The callout's account. Nothing is in it but the service's user, and for a moment each client that
/// is being asked about.
pub fn auth(keys: &Keyring, callout_user: &str, now: Timestamp) -> Account {
    let mut signing_keys = keys.auth.public_keys();
    // What it signs besides the sentinel is refused by the callout, which no longer knows it.
    signing_keys.extend(keys.sentinel_issuer.clone().filter(|key| !signing_keys.contains(key)));
    Account {
        signing_keys,
        // Leaf nodes too are in it while they are being asked about.
        limits: AccountLimits { leaf: -1, ..AccountLimits::default() },
        authorization: Some(Authorization {
            auth_users: vec![callout_user.to_owned()],
            allowed_accounts: vec!["*".to_owned()],
            xkey: keys.curve(now).map(|curve| curve.public().to_owned()).unwrap_or_default(),
        }),
        ..Account::new()
    }
}

/// The system account.
pub fn system(keys: &Keyring) -> Account {
    Account { signing_keys: keys.system.public_keys(), ..Account::new() }
}

/// A tenant's account; for one that is suspended or gone, or has `exhausted` what it may publish in a day,
/// an account that nobody can be connected to.
///
/// # Errors
/// None in practice: every 32 bytes are a key.
pub fn tenant(
    keys: &Keyring,
    id: &TenantId,
    tenant: Option<&Tenant>,
    quotas: Quotas,
    exhausted: bool,
) -> Result<Account, NkeyError> {
    let import = |(name, subject, kind): &(&str, &str, ServiceOrStream)| {
        let subject = subject.replace("{}", id.as_str());
        Import {
            name: (*name).to_owned(),
            local_subject: subject.clone(),
            subject,
            account: keys.registry.account.clone(),
            kind: *kind,
            // The registry believes the server about who asks, and nobody else.
            share: matches!(*name, "registry" | "discovery"),
        }
    };
    let open = tenant.is_some_and(|tenant| tenant.status == Status::Active) && !exhausted;
    Ok(Account {
        imports: if tenant.is_some() { SHARED.iter().map(import).collect() } else { Vec::new() },
        limits: AccountLimits {
            conn: if open { limit(quotas.connections) } else { 0 },
            leaf: if open { limit(quotas.connections) } else { 0 },
            subs: limit(quotas.subscriptions),
            payload: limit(quotas.payload_bytes),
            // A suspended tenant keeps what it stored.
            jetstream: jetstream(&quotas),
            ..AccountLimits::default()
        },
        signing_keys: keys.signers_of(id)?,
        ..Account::new()
    })
}

/// Signs an account with the operator's signing key.
///
/// # Errors
/// [`JwtError`] if it cannot be written, which none cannot.
pub fn sign(
    keys: &Keyring,
    account: &str,
    name: &str,
    content: Account,
    iat: i64,
) -> Result<String, JwtError> {
    let mut claims = Claims::about(account, content);
    name.clone_into(&mut claims.name);
    claims.sign(&keys.operator, iat)
}

fn limit(quota: Option<u64>) -> i64 {
    quota.map_or(-1, |quota| i64::try_from(quota).unwrap_or(i64::MAX))
}

fn jetstream(quotas: &Quotas) -> JetStreamLimits {
    let Some(quota) = quotas.jetstream else {
        return JetStreamLimits::default();
    };
    // To the server 0 streams are any number of them; a quota of none is no JetStream at all.
    if quota.streams == 0 || quota.memory_bytes == 0 && quota.storage_bytes == 0 {
        return JetStreamLimits::default();
    }
    JetStreamLimits {
        mem_storage: limit(Some(quota.memory_bytes)),
        disk_storage: limit(Some(quota.storage_bytes)),
        streams: limit(Some(quota.streams)),
        consumer: limit(Some(quota.consumers.max(1))),
    }
}
