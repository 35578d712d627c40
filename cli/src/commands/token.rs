//! `bulkhead token`.

use super::{Context, Outcome};
use crate::args::{Mint, Token};
use crate::output::relative;
use crate::signer::{Signer, TokenRequest};
use bulkhead_control::config::Config;
use bulkhead_control::files;
use bulkhead_control::identity::{Accepted, Sources};
use bulkhead_control::{Control, Identified};
use bulkhead_policy::{Broker, Principal, RoleName, Tenant, TokenId};
use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

/// How long the keys of an issuer may take to arrive.
const READY: Duration = Duration::from_secs(3);

/// The role of the platform's own services.
const SERVICE: &str = "service";

/// How long the entry of a revoked token is kept where nobody says when it expires.
const REVOKED_FOR: SignedDuration = SignedDuration::from_hours(365 * 24);

pub(super) async fn run(context: &Context, command: Token) -> Outcome {
    match command {
        Token::Mint(args) => mint(context, args),
        Token::Inspect { token } => inspect(context, &token).await,
        Token::Revoke { tenant, id, until, issued_before } => {
            let now = Timestamp::now();
            let id = id.as_deref().map(token_id).transpose()?;
            let until = match until {
                Some(until) if until <= now => {
                    return Err(
                        "--until has passed, so the token would not stay revoked; give its \
                                `exp`, or leave --until out"
                            .into(),
                    );
                }
                Some(until) => until,
                None => now.checked_add(REVOKED_FOR)?,
            };
            // Revoking again never lets in what is refused already.
            let revoke = |known: &mut Tenant| {
                known.revoked_tokens.retain(|_, until| *until > now);
                if let Some(id) = &id {
                    let entry = known.revoked_tokens.entry(id.clone()).or_insert(until);
                    *entry = until.max(*entry);
                }
                known.tokens_valid_from = known.tokens_valid_from.max(issued_before);
            };
            let known = context.store().await?.update(&tenant, revoke).await?;
            let issued_before = issued_before.and(known.tokens_valid_from);
            let text = match (&id, issued_before) {
                (Some(id), _) => format!("token {id} of {tenant} is revoked"),
                (None, from) => {
                    format!("tokens of {tenant} issued before {} are revoked", from.unwrap_or(now))
                }
            };
            context.done(json!({"tenant": tenant, "id": id, "issued_before": issued_before}), text)
        }
    }
}

/// A token's id. Who gives the token instead would revoke nothing, and it is not to be repeated in an
/// error, as the parser of arguments would.
fn token_id(text: &str) -> Result<TokenId, String> {
    if decode_part(text, 0).is_some() {
        return Err(
            "that is a token, not its id; `bulkhead token inspect` shows its `jti`".to_owned()
        );
    }
    TokenId::parse(text).map_err(|error| format!("{error}; it is the token's `jti`"))
}

/// A part of a token, if it is base64 of JSON.
fn decode_part(token: &str, part: usize) -> Option<Value> {
    let bytes = BASE64URL_NOPAD.decode(token.split('.').nth(part)?.as_bytes()).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object)
}

fn mint(context: &Context, args: Mint) -> Outcome {
    let (iss, aud) = match args.iss {
        Some(iss) => (iss, args.aud),
        None => configured(context, args.issuer.as_deref(), args.service.is_some())?,
    };
    let signer = Signer::read(&args.key)?;
    let mut request = TokenRequest::new(&iss, &aud, args.ttl)?;
    let service = args.service.as_ref().map(|_| RoleName::parse(SERVICE)).transpose()?;
    request.role = args.role.or(service);
    request.tenant = args.tenant;
    request.sub = args.service;
    request.device = args.device;
    let token = signer.sign(&request)?;
    let Some(path) = args.out else {
        let value = json!({"token": token, "jti": request.jti, "exp": request.exp});
        return context.done(value, token);
    };
    files::write_secret(&path, token.as_bytes())
        .map_err(|error| format!("{error}; check the path of --out"))?;
    let file = path.display().to_string();
    let text = format!("the token is in {file}");
    context.done(json!({"file": file, "jti": request.jti, "exp": request.exp}), text)
}

/// `iss` and `aud` of a configured issuer.
fn configured(
    context: &Context,
    name: Option<&str>,
    service: bool,
) -> Result<(String, String), Box<dyn std::error::Error>> {
    let config = context.config()?;
    let mut issuers = config.issuers.iter();
    let found = match name {
        Some(name) => issuers.find(|issuer| issuer.name.as_str() == name),
        None => issuers.find(|issuer| issuer.service == service),
    };
    let issuer = found.ok_or_else(|| {
        if name.is_none() {
            let kind = if service { "services: none has service = true" } else { "tenants" };
            return format!(
                "no configured issuer signs for {kind}; add one, or name it with --iss"
            );
        }
        let names: Vec<_> = config.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
        format!("no issuer has the name given with --issuer; there are: {}", names.join(", "))
    })?;
    let audience = issuer.audiences.first().ok_or("the issuer has no audience")?;
    Ok((issuer.issuer.clone(), audience.clone()))
}

/// Shows a token's claims, and what the configured issuers and directory say about it.
async fn inspect(context: &Context, token: &str) -> Outcome {
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        std::io::stdin().take(1 << 20).read_to_string(&mut text)?;
    }
    let token = text.trim();
    let (Some(header), Some(claims)) = (decode_part(token, 0), decode_part(token, 1)) else {
        return Err(
            "this is no JSON Web Token; one is three parts of base64, with dots between".into()
        );
    };
    let (verdicts, word) = match context.config() {
        Ok(config) => (judge(config, token).await?, "refused"),
        Err(error) => (vec![(None, Err(error.to_string()))], "none without a configuration"),
    };
    let first = verdicts.iter().find(|(_, verdict)| verdict.is_ok()).or(verdicts.first());
    let verdict = first.map(|(_, verdict)| verdict.clone()).unwrap_or_else(|| Err(String::new()));
    let refused: Vec<_> = verdicts
        .iter()
        .filter_map(|(broker, verdict)| Some(((*broker)?, verdict.as_ref().err()?)))
        .collect();
    let by_broker: serde_json::Map<String, Value> = refused
        .iter()
        .map(|(broker, reason)| (broker.to_string().to_lowercase(), json!(reason)))
        .collect();
    let value = json!({
        "header": header, "claims": claims,
        "accepted": verdict.is_ok(), "reason": verdict.as_ref().err(),
        "principal": verdict.as_ref().ok(), "refused": by_broker,
    });
    context.output.print(&value, || {
        let now = Timestamp::now();
        let mut text = format!("header  {header}\nclaims  {claims}\n");
        for name in ["iat", "nbf", "exp"] {
            let time = claims.get(name).and_then(Value::as_i64);
            if let Some(time) = time.and_then(|s| Timestamp::from_second(s).ok()) {
                text += &format!("{name:<7} {time} ({})\n", relative(time, now));
            }
        }
        text += &match &verdict {
            Ok(principal) => format!("verdict accepted: {principal}"),
            Err(reason) => format!("verdict {word}: {reason}"),
        };
        for (broker, reason) in refused.iter().filter(|_| verdict.is_ok()) {
            text += &format!("\nbut not on {broker}: {reason}");
        }
        text
    })?;
    Ok(ExitCode::from(if verdict.is_ok() { 0 } else { crate::NOT_AS_IT_SHOULD_BE }))
}

/// What a broker says of a token, where one is asked: who its bearer is, or the code of why it is refused.
type Judged = (Option<Broker>, Result<String, String>);

/// Asks the same code that the configured brokers ask. What the tenant has used of its quotas is not asked for.
async fn judge(mut config: Config, token: &str) -> Result<Vec<Judged>, Box<dyn std::error::Error>> {
    // This process serves nobody and leaves no trace of its own.
    config.admin.listen.set_port(0);
    config.admin.token_file = None;
    config.admin.listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    config.audit.path = None;
    let control = Control::start(config, None).await?;
    let deadline = tokio::time::Instant::now() + READY;
    while !control.readiness().missing().is_empty() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let auth = control.auth();
    let mut brokers = control.config().brokers();
    if brokers.is_empty() {
        brokers.push(Broker::Nats);
    }
    let mut verdicts = Vec::new();
    for broker in brokers {
        // Passwords of MQTT may be the exchange's.
        let keys = control.config().mqtt_exchange_jwks().filter(|file| file.exists());
        let sources = Sources { broker, jwks_file: keys.as_deref(), client_ca_file: None };
        let accepted = Accepted::open(sources, &control)?;
        let verdict = match auth.identify_client(&accepted, Some(token), None, None).await {
            Ok(Identified { principal, .. }) => {
                let Principal { role, issuer, .. } = &*principal;
                let shown = format!("{principal}, role {role}, issuer {issuer}");
                auth.would_admit(broker, &principal).map(|()| shown)
            }
            Err(reason) => Err(reason),
        };
        verdicts.push((Some(broker), verdict.map_err(|reason| reason.code().to_owned())));
    }
    control.shutdown().await;
    Ok(verdicts)
}
