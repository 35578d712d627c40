//! `bulkhead check`.

use super::{Context, Outcome};
use bulkhead_auth_callout::{ConfigMode, Keyring};
use bulkhead_control::config::{AccountMode, Config};
use bulkhead_control::directory::Store;
use bulkhead_control::files::read_text;
use bulkhead_control::identity::{DeviceTrust, ExchangeKeys, IdentityError, check_token_keys};
use bulkhead_control::issuer::Keys;
use bulkhead_control::metrics::Metrics;
use jiff::Timestamp;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

/// One thing that was looked at.
struct Check {
    what: String,
    outcome: Result<String, String>,
}

/// Reads the configuration and everything that it refers to, and says what is wrong with it.
pub(super) async fn run(context: &Context) -> Outcome {
    let config = match context.config() {
        Ok(config) => config,
        Err(error) => {
            let value = json!({"ok": false, "checks": [{"what": "configuration", "error": error.to_string()}]});
            context.output.print(&value, || format!("FAIL  configuration: {error}"))?;
            return Ok(ExitCode::from(crate::NOT_AS_IT_SHOULD_BE));
        }
    };
    let mut checks = vec![Check {
        what: "configuration".to_owned(),
        outcome: Ok(context.path.display().to_string()),
    }];
    checks.extend(issuers(&config)?);
    checks.push(directory(&config).await);
    checks.push(usage(&config).await);
    checks.extend(nats(&config));
    checks.extend(identities(&config));
    checks.extend(others(&config));
    let ok = checks.iter().all(|check| check.outcome.is_ok());
    let rows: Vec<_> = checks
        .iter()
        .map(|check| match &check.outcome {
            Ok(detail) => json!({"what": check.what, "detail": detail}),
            Err(error) => json!({"what": check.what, "error": error}),
        })
        .collect();
    context.output.print(&json!({"ok": ok, "checks": rows}), || {
        checks
            .iter()
            .map(|check| match &check.outcome {
                Ok(detail) => format!("ok    {}: {detail}\n", check.what),
                Err(error) => format!("FAIL  {}: {error}\n", check.what),
            })
            .collect()
    })?;
    Ok(ExitCode::from(if ok { 0 } else { crate::NOT_AS_IT_SHOULD_BE }))
}

fn issuers(config: &Config) -> Result<Vec<Check>, Box<dyn std::error::Error>> {
    let metrics = Metrics::new(&config.metrics)?;
    let check = |issuer: &bulkhead_control::config::IssuerConfig| Check {
        what: format!("issuer {}", issuer.name),
        outcome: match (Keys::open(issuer, &metrics), &issuer.keys.jwks_url) {
            (Ok(_), Some(url)) => Ok(format!("keys are fetched from {url}")),
            (Ok(_), None) => Ok("keys are usable".to_owned()),
            (Err(error), _) => Err(format!("{error}; check its `keys`")),
        },
    };
    Ok(config.issuers.iter().map(check).collect())
}

async fn directory(config: &Config) -> Check {
    let outcome = async {
        let store = Store::open(&config.directory).await?;
        store.list().await
    };
    Check {
        what: "directory".to_owned(),
        outcome: match outcome.await {
            Ok(tenants) if tenants.is_empty() => {
                Ok("no tenants yet; add one with `bulkhead tenant create`".to_owned())
            }
            Ok(tenants) if tenants.len() == 1 => Ok("1 tenant".to_owned()),
            Ok(tenants) => Ok(format!("{} tenants", tenants.len())),
            Err(error) => Err(error.to_string()),
        },
    }
}

async fn usage(config: &Config) -> Check {
    let kept = bulkhead_control::usage::check(config).await;
    let outcome = kept.map(|at| format!("what tenants use is kept in {at}"));
    Check { what: "usage".to_owned(), outcome: outcome.map_err(|error| error.to_string()) }
}

fn nats(config: &Config) -> Option<Check> {
    let outcome = match config.nats.as_ref()?.mode()? {
        AccountMode::Operator(keys) => Keyring::read(&keys.keys)
            .map(|keys| format!("operator mode, callout account {}", keys.auth.account))
            .map_err(|error| error.to_string()),
        AccountMode::Config(fixed) => ConfigMode::open(fixed)
            .map(|_| {
                format!(
                    "config mode, {} accounts; a reload of the server drops every client",
                    fixed.accounts.len()
                )
            })
            .map_err(|error| error.to_string()),
    };
    Some(Check { what: "nats".to_owned(), outcome })
}

/// The exchange's keys, and what MQTT and Zenoh verify its credentials by. What the first start makes
/// need not be there.
fn identities(config: &Config) -> Vec<Check> {
    let folder = config.exchange_keys();
    let mut checks = Vec::new();
    let made_later = || Ok("made at the first start".to_owned());
    if let Some(folder) = folder {
        let outcome = match ExchangeKeys::open(folder) {
            Ok(keys) if keys.authority().expires_at() > Timestamp::now() => {
                Ok(format!("device authority until {}", keys.authority().expires_at()))
            }
            Ok(_) => {
                Err("the device authority of ca.pem has ended; move ca.pem and ca.key away to \
                          have another made"
                    .to_owned())
            }
            Err(IdentityError::NoKeys(_)) => made_later(),
            Err(error) => Err(error.to_string()),
        };
        checks.push(Check { what: "exchange.keys".to_owned(), outcome });
    }
    let is_made_later =
        |path: &Path| folder.is_some_and(|folder| path.starts_with(folder)) && !path.exists();
    let mqtt_tls = config.mqtt.as_ref().and_then(|mqtt| mqtt.tls.as_ref());
    let zenoh_tls = config.zenoh.as_ref().and_then(|zenoh| zenoh.tls.as_ref());
    for (setting, tls) in
        [("mqtt.tls.client_ca_file", mqtt_tls), ("zenoh.tls.client_ca_file", zenoh_tls)]
    {
        let Some(path) = tls.and_then(|tls| tls.client_ca_file.as_deref()) else { continue };
        let outcome = if is_made_later(path) {
            made_later()
        } else {
            let trusted = DeviceTrust::open(path).map(|_| "authorities are usable".to_owned());
            trusted.map_err(|error| error.to_string())
        };
        checks.push(Check { what: setting.to_owned(), outcome });
    }
    if let Some(path) = config.mqtt_exchange_jwks() {
        let outcome = if is_made_later(&path) {
            made_later()
        } else {
            let read = check_token_keys(&path).map(|()| "keys are usable".to_owned());
            read.map_err(|error| error.to_string())
        };
        checks.push(Check { what: "mqtt.exchange_jwks_file".to_owned(), outcome });
    }
    checks
}

/// What else only a running service would find out: files that cannot be read, and no folder for the
/// audit log.
fn others(config: &Config) -> Vec<Check> {
    let tls = config.exchange.as_ref().and_then(|exchange| exchange.tls.as_ref());
    let nats = config.nats.as_ref();
    let fixed = nats.and_then(|nats| nats.config_mode.as_ref());
    let mqtt = config.mqtt.as_ref();
    let mqtt_tls = mqtt.and_then(|mqtt| mqtt.tls.as_ref());
    let upstream = mqtt.and_then(|mqtt| mqtt.upstream.as_ref());
    let zenoh = config.zenoh.as_ref();
    let zenoh_tls = zenoh.and_then(|zenoh| zenoh.tls.as_ref());
    let registry = config.registry.as_ref();
    let registry_nats = registry.and_then(|registry| registry.nats.as_ref());
    let registry_mqtt = registry.and_then(|registry| registry.mqtt.as_ref());
    let registry_zenoh = registry.and_then(|registry| registry.zenoh.as_ref());
    let in_keys = nats.and_then(|nats| nats.operator.as_ref()).filter(|_| registry.is_some());
    let in_keys = in_keys.map(|operator| operator.keys.join("registry.creds"));
    let credentials = registry_nats.and_then(|nats| nats.credentials_file.as_ref());
    let files = [
        ("registry.nats.credentials_file", credentials.or(in_keys.as_ref())),
        ("registry.nats.ca_file", registry_nats.and_then(|nats| nats.ca_file.as_ref())),
        ("registry.mqtt.token_file", registry_mqtt.and_then(|mqtt| mqtt.token_file.as_ref())),
        ("registry.mqtt.ca_file", registry_mqtt.and_then(|mqtt| mqtt.ca_file.as_ref())),
        ("registry.mqtt.cert_file", registry_mqtt.and_then(|mqtt| mqtt.cert_file.as_ref())),
        ("registry.mqtt.key_file", registry_mqtt.and_then(|mqtt| mqtt.key_file.as_ref())),
        ("registry.zenoh.token_file", registry_zenoh.and_then(|zenoh| zenoh.token_file.as_ref())),
        ("registry.zenoh.ca_file", registry_zenoh.and_then(|zenoh| zenoh.ca_file.as_ref())),
        ("admin.token_file", config.admin.token_file.as_ref()),
        ("exchange.tls.cert_file", tls.map(|tls| &tls.cert_file)),
        ("exchange.tls.key_file", tls.map(|tls| &tls.key_file)),
        ("nats.ca_file", nats.and_then(|nats| nats.ca_file.as_ref())),
        ("nats.config_mode.password_file", fixed.map(|fixed| &fixed.password_file)),
        ("nats.config_mode.system_password_file", fixed.map(|fixed| &fixed.system_password_file)),
        ("mqtt.tls.cert_file", mqtt_tls.map(|tls| &tls.cert_file)),
        ("mqtt.tls.key_file", mqtt_tls.map(|tls| &tls.key_file)),
        ("mqtt.upstream.password_file", upstream.and_then(|broker| broker.password_file.as_ref())),
        ("mqtt.upstream.ca_file", upstream.and_then(|broker| broker.ca_file.as_ref())),
        ("mqtt.upstream.cert_file", upstream.and_then(|broker| broker.cert_file.as_ref())),
        ("mqtt.upstream.key_file", upstream.and_then(|broker| broker.key_file.as_ref())),
        ("zenoh.tls.cert_file", zenoh_tls.map(|tls| &tls.cert_file)),
        ("zenoh.tls.key_file", zenoh_tls.map(|tls| &tls.key_file)),
        ("zenoh.device_ca_file", zenoh.and_then(|zenoh| zenoh.device_ca_file.as_ref())),
    ];
    let mut checks: Vec<_> = files
        .into_iter()
        .filter_map(|(setting, path)| Some((setting, read_text(path?))))
        .map(|(setting, text)| Check {
            what: setting.to_owned(),
            outcome: text
                .map(|_| "can be read".to_owned())
                .map_err(|error| format!("{error}; check the path and its permissions")),
        })
        .collect();
    if let Some(path) = &config.audit.path {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let outcome = if folder.is_dir() {
            Ok(path.display().to_string())
        } else {
            Err(format!("{} is no folder; make it, or change audit.path", folder.display()))
        };
        checks.push(Check { what: "audit log".to_owned(), outcome });
    }
    // The last: from here on the log is on.
    let outcome = super::start_log(&config.log).map(|()| config.log.filter.clone());
    checks.push(Check { what: "log".to_owned(), outcome });
    checks
}
