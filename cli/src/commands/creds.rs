//! `bulkhead creds issue`.

use super::{Context, Outcome};
use crate::args::{Backend, Creds, Issue};
use crate::output::line;
use bulkhead_auth_callout::{NatsCredentials, Operator};
use bulkhead_control::audit::{Event, Record};
use bulkhead_control::config::{AccountMode, Config};
use bulkhead_control::directory::Store;
use bulkhead_control::files;
use bulkhead_control::http::exchange::{CredentialIssuer, CredentialsFile, Subject};
use bulkhead_policy::Status;
use jiff::SignedDuration;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long credentials live where nothing else is said.
const TTL: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How long an exchange may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(context: &Context, command: Creds) -> Outcome {
    let Creds::Issue(args) = command;
    let file = match &args.exchange {
        Some(url) => ask(url, &args).await?,
        None => sign(context, &args).await?,
    };
    let text = serde_json::to_string_pretty(&file)?;
    match &args.out {
        Some(path) => {
            files::write_secret(path, text.as_bytes())?;
            let shown = path.display().to_string();
            context.done(json!({"file": shown}), format!("credentials are in {shown}"))
        }
        None => {
            line(&text)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Signs with the keys of this machine.
async fn sign(
    context: &Context,
    args: &Issue,
) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let config = context.config()?;
    let tenant = args.tenant.clone().ok_or("name the tenant with --tenant")?;
    let device = args.device.clone().ok_or("name the device with --device")?;
    if !config.role_set().contains_key(&args.role) {
        return Err(format!(
            "role '{}' does not exist; see [roles] in the configuration",
            args.role
        )
        .into());
    }
    let known = Store::open(&config.directory).await?.get(&tenant).await?;
    if known.status == Status::Suspended {
        return Err(format!("tenant {tenant} is suspended; see `bulkhead tenant resume`").into());
    }
    if known.revoked_devices.contains_key(&device) {
        return Err(
            format!("device {tenant}/{device} is revoked; see `bulkhead device restore`").into()
        );
    }
    let Backend::Nats = args.backend;
    let issuer = nats_issuer(&config)?;
    let limit = config.exchange.as_ref().map_or(TTL, |exchange| exchange.credentials_ttl);
    let ttl = args.ttl.unwrap_or(limit);
    let subject = Subject::new(tenant, device, args.role.clone(), None, ttl)?;
    let section = issuer.issue(&subject)?;
    let record = Record::new(Event::CredentialIssued, "nats").tenant(&subject.tenant);
    let detail =
        format!("device {}, id {}, until {}", subject.device, subject.id, subject.expires_at);
    context.audit(&config, record.detail(detail))?;
    Ok(serde_json::to_value(CredentialsFile::new(&subject, issuer.section(), section))?)
}

fn nats_issuer(config: &Config) -> Result<NatsCredentials, Box<dyn std::error::Error>> {
    let nats = config.nats.as_ref().ok_or("[nats] is not configured; run `bulkhead init nats`")?;
    let Some(AccountMode::Operator(keys)) = nats.mode() else {
        return Err(
            "credentials files need NATS in operator mode; in config mode clients use their \
                    tenant token as token or password"
                .into(),
        );
    };
    let operator = Arc::new(Operator::open(&keys.keys)?);
    let ca_file = nats.ca_file.as_ref().map(|path| path.display().to_string());
    Ok(NatsCredentials::new(operator, nats.servers.clone(), ca_file))
}

/// Asks an exchange.
async fn ask(url: &str, args: &Issue) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let token_file = args.token_file.as_ref().ok_or("name the token's file with --token-file")?;
    let token = files::read_text(token_file)?;
    let mut client =
        reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
    if let Some(path) = &args.ca_file {
        let pem = files::read_text(path)?;
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes())?);
    }
    let Backend::Nats = args.backend;
    let mut request = json!({"backend": "nats"});
    if let (Some(device), Some(fields)) = (&args.device, request.as_object_mut()) {
        fields.insert("device".to_owned(), json!(device));
    }
    if let (Some(ttl), Some(fields)) = (args.ttl, request.as_object_mut()) {
        fields.insert("ttl".to_owned(), json!(ttl));
    }
    let response = client
        .build()?
        .post(format!("{}/v1/credentials", url.trim_end_matches('/')))
        .bearer_auth(token.trim())
        .json(&request)
        .send()
        .await
        .map_err(|error| format!("the exchange cannot be asked: {error}"))?;
    let status = response.status();
    let answer: serde_json::Value = response.json().await?;
    if status.is_success() {
        return Ok(answer);
    }
    let said =
        |name: &str| answer.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    Err(format!("the exchange refused: {} ({})", said("message"), said("error")).into())
}
