//! `bulkhead check`.

use super::{Context, Outcome};
use bulkhead_auth_callout::{ConfigMode, Keyring};
use bulkhead_control::config::{AccountMode, Config};
use bulkhead_control::directory::Store;
use bulkhead_control::issuer::Keys;
use bulkhead_control::metrics::Metrics;
use serde_json::json;
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
    checks.extend(nats(&config));
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
            (Err(error), _) => Err(error.to_string()),
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
            Ok(tenants) => Ok(format!("{} tenants", tenants.len())),
            Err(error) => Err(error.to_string()),
        },
    }
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
