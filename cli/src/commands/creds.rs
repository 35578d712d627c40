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
use bulkhead_control::identity::{ExchangeKeys, MqttCredentials, ZenohCredentials};
use bulkhead_policy::Status;
use jiff::SignedDuration;
use serde_json::json;
use std::error::Error;
use std::path::Path;
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
            files::write_secret(path, text.as_bytes())
                .map_err(|error| format!("{error}; check the path of --out"))?;
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
async fn sign(context: &Context, args: &Issue) -> Result<serde_json::Value, Box<dyn Error>> {
    let config = context.config()?;
    let tenant = args.tenant.clone().ok_or("name the tenant with --tenant")?;
    let device = args.device.clone().ok_or("name the device with --device")?;
    let known = Store::open(&config.directory).await?.get(&tenant).await?;
    if !known.roles.contains_key(&args.role) && !config.role_set().contains_key(&args.role) {
        return Err(format!(
            "role '{}' does not exist; see [roles] in the configuration",
            args.role
        )
        .into());
    }
    if args.role.as_str() == "service" {
        return Err("role 'service' is for the platform's own programs; credentials are for a \
                    tenant's devices"
            .into());
    }
    if known.status == Status::Suspended {
        return Err(format!("tenant {tenant} is suspended; see `bulkhead tenant resume`").into());
    }
    if known.revoked_devices.contains_key(&device) {
        return Err(
            format!("device {tenant}/{device} is revoked; see `bulkhead device restore`").into()
        );
    }
    let issuer: Box<dyn CredentialIssuer> = match backend(args, &config)? {
        Backend::Nats => Box::new(nats_issuer(&config)?),
        Backend::Mqtt => Box::new(mqtt_issuer(&config)?),
        Backend::Zenoh => Box::new(zenoh_issuer(&config)?),
    };
    let limit = config.exchange.as_ref().map_or(TTL, |exchange| exchange.credentials_ttl);
    let ttl = args.ttl.unwrap_or(limit);
    if ttl < SignedDuration::from_secs(1) {
        return Err("--ttl has to be at least 1s".into());
    }
    let subject = Subject::new(tenant, device, args.role.clone(), None, ttl)?;
    let file = CredentialsFile::issue(&*issuer, &subject, args.certificate)?;
    let record = Record::new(Event::CredentialIssued, issuer.section()).tenant(&subject.tenant);
    let detail =
        format!("device {}, id {}, until {}", subject.device, subject.id, subject.expires_at);
    context.audit(&config, record.detail(detail))?;
    Ok(serde_json::to_value(file)?)
}

/// The backend that was typed, or the only one that this configuration can issue for.
fn backend(args: &Issue, config: &Config) -> Result<Backend, &'static str> {
    if let Some(backend) = args.backend {
        return Ok(backend);
    }
    let signs = config.exchange_keys().is_some();
    let configured = [
        (Backend::Nats, config.nats.is_some()),
        (Backend::Mqtt, signs && config.mqtt.is_some()),
        (Backend::Zenoh, signs && config.zenoh.is_some()),
    ];
    let mut configured = configured.into_iter().filter_map(|(backend, is)| is.then_some(backend));
    match (configured.next(), configured.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            Err("several backends are configured; name one with --backend nats, mqtt or zenoh")
        }
        (None, _) => {
            Err("nothing issues credentials: for NATS configure [nats], as `bulkhead init \
                          nats` says; for MQTT and Zenoh set [mqtt] or [zenoh], and exchange.keys")
        }
    }
}

fn mqtt_issuer(config: &Config) -> Result<MqttCredentials, Box<dyn Error>> {
    let mqtt = config.mqtt.as_ref().ok_or("[mqtt] is not configured; set mqtt.listeners")?;
    Ok(MqttCredentials::new(exchange_keys(config)?, mqtt.device_urls()))
}

fn zenoh_issuer(config: &Config) -> Result<ZenohCredentials, Box<dyn Error>> {
    let zenoh = config.zenoh.as_ref().ok_or("[zenoh] is not configured; set zenoh.listeners")?;
    Ok(ZenohCredentials::new(exchange_keys(config)?, zenoh))
}

fn exchange_keys(config: &Config) -> Result<Arc<ExchangeKeys>, Box<dyn Error>> {
    let folder = config.exchange_keys().ok_or(
        "credentials for MQTT and Zenoh are signed by the exchange's keys; set exchange = { keys = … \
         }",
    )?;
    let keys = ExchangeKeys::open(folder).map_err(|error| format!("exchange.keys: {error}"))?;
    Ok(Arc::new(keys))
}

fn nats_issuer(config: &Config) -> Result<NatsCredentials, Box<dyn Error>> {
    let nats = config.nats.as_ref().ok_or("[nats] is not configured; run `bulkhead init nats`")?;
    let Some(AccountMode::Operator(keys)) = nats.mode() else {
        return Err(
            "credentials files need NATS in operator mode; in config mode clients use their \
                    tenant token as token or password"
                .into(),
        );
    };
    let operator = Arc::new(Operator::open(&keys.keys)?);
    Ok(NatsCredentials::new(operator, nats))
}

/// Asks an exchange.
async fn ask(url: &str, args: &Issue) -> Result<serde_json::Value, Box<dyn Error>> {
    let token_file = args.token_file.as_ref().ok_or("name the token's file with --token-file")?;
    let address = endpoint(url)?;
    let token = files::read_text(token_file)
        .map_err(|error| format!("{error}; check the path of --token-file"))?;
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!(
            "{} does not hold one token; write it there with nothing else",
            token_file.display()
        )
        .into());
    }
    let mut client =
        reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
    if let Some(path) = &args.ca_file {
        client = client.tls_certs_only(authorities(path)?);
    }
    let mut request = serde_json::Map::new();
    let fields = [
        ("backend", args.backend.map(|backend| json!(backend.section()))),
        ("device", args.device.as_ref().map(|device| json!(device))),
        ("ttl", args.ttl.map(|ttl| json!(ttl))),
        ("certificate", args.certificate.then_some(json!(true))),
    ];
    for (name, value) in fields {
        request.extend(value.map(|value| (name.to_owned(), value)));
    }
    let response = client
        .build()?
        .post(address.clone())
        .bearer_auth(token)
        .json(&request)
        .send()
        .await
        .map_err(|error| {
            format!("the exchange cannot be asked: {}; check --exchange", causes(&error))
        })?;
    let status = response.status();
    let answer: serde_json::Value = response.json().await.unwrap_or_default();
    let said = |name: &str| answer.get(name).and_then(|v| v.as_str());
    match (said("error"), said("message")) {
        _ if status.is_success() && answer.is_object() => Ok(answer),
        (Some("device_missing"), _) => Err("the exchange asks for the device; add --device".into()),
        (Some("backend_missing"), _) => {
            Err("the exchange has several backends; name one with --backend nats, mqtt or zenoh"
                .into())
        }
        (Some(code), Some(message)) if code != message => {
            Err(format!("the exchange refused: {message} ({code})").into())
        }
        (Some(code), _) => Err(format!("the exchange refused: {code}").into()),
        (None, _) => {
            Err(format!("{address} answered {status}, as no exchange does; check --exchange")
                .into())
        }
    }
}

/// The certificates of a PEM file.
fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, String> {
    let pem =
        files::read_text(path).map_err(|error| format!("{error}; check the path of --ca-file"))?;
    match reqwest::Certificate::from_pem_bundle(pem.as_bytes()) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{} holds no certificate in PEM; check --ca-file", path.display())),
    }
}

/// Where an exchange is asked.
fn endpoint(url: &str) -> Result<reqwest::Url, String> {
    let parsed = reqwest::Url::parse(&format!("{}/v1/credentials", url.trim_end_matches('/')))
        .map_err(|error| {
            format!("--exchange {url}: {error}; write it as https://bulkhead.example:8443")
        })?;
    let loopback = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match parsed.scheme() {
        "https" => Ok(parsed),
        "http" if loopback => Ok(parsed),
        _ => Err(format!(
            "--exchange {url}: the token would cross the network in the clear; use https (plain \
             http only on loopback)"
        )),
    }
}

/// An error and what caused it: the cause says what is wrong.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
