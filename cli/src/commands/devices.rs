//! `bulkhead devices`: who is present, as a registry knows it.

use super::creds::causes;
use super::{Context, Outcome};
use crate::args::{Devices, RegistryAt};
use crate::output::{line, relative, table};
use bulkhead_control::files;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

/// How long a registry may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// For how many seconds already the registry's answers come from memory alone.
const BEHIND_HEADER: &str = "bulkhead-store-behind-seconds";

/// How many tenants are missing in a list of all.
const PARTIAL_HEADER: &str = "bulkhead-partial";

/// Longest event, in bytes: a document and what stands around it.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

pub(super) async fn run(context: &Context, command: Devices) -> Outcome {
    match command {
        Devices::List { at } => list(context, &at).await,
        Devices::Watch { at } => watch(context, &at).await,
    }
}

/// A device, as the registry lists it.
#[derive(Deserialize)]
struct Listed {
    tenant: String,
    device: String,
    #[serde(rename = "type")]
    device_type: Option<String>,
    location: Option<String>,
    seen: Timestamp,
}

async fn list(context: &Context, at: &RegistryAt) -> Outcome {
    let answer = ask(context, at, "/v1/devices", Some(TIMEOUT)).await?;
    if let Some(seconds) = header(&answer, BEHIND_HEADER) {
        crate::output::complain(format!(
            "the registry has not reached its store for {seconds} s; this is what it remembers"
        ));
    }
    if let Some(missing) = header(&answer, PARTIAL_HEADER) {
        crate::output::complain(format!(
            "this is not all: this replica does not serve {missing} of the tenants; ask the others too, \
             or name one with --tenant to learn who serves it"
        ));
    }
    let found: Value = answer.json().await.map_err(|error| causes(&error))?;
    context.output.print(&found, || {
        let all: Vec<Listed> = serde_json::from_value(found.clone()).unwrap_or_default();
        let now = Timestamp::now();
        let rows = all.into_iter().map(|one| {
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            vec![
                one.tenant,
                one.device,
                or_none(one.device_type),
                or_none(one.location),
                relative(one.seen, now),
            ]
        });
        table(&["TENANT", "DEVICE", "TYPE", "LOCATION", "SEEN"], rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what changes, a line each, until the registry or the reader ends it.
async fn watch(context: &Context, at: &RegistryAt) -> Outcome {
    let mut answer = ask(context, at, "/v1/devices/events", None).await?;
    let mut rest: Vec<u8> = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| causes(&error))? {
        rest.extend_from_slice(&part);
        // An event ends with an empty line (WHATWG HTML §9.2.5).
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = rest.drain(..end + 2).collect();
            show(context, &String::from_utf8_lossy(&event))?;
        }
        if rest.len() > MAX_EVENT_BYTES {
            return Err("what answers is no registry: an event never ends; check --url".into());
        }
    }
    Err("the registry has ended the watch: it stops, or the token may not watch any more".into())
}

fn show(context: &Context, event: &str) -> Result<(), Box<dyn Error>> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
    let (Some(kind), Some(data)) = (field("event: "), field("data: ")) else { return Ok(()) };
    if kind == "missed" {
        let text = format!("{data} changes were missed; see `bulkhead devices list`");
        crate::output::complain(text);
        return Ok(());
    }
    if kind == "partial" {
        crate::output::complain(format!("{data} of the tenants are not served by this replica"));
        return Ok(());
    }
    if kind == "ended" {
        return Err(format!("the registry has ended the watch: {data}").into());
    }
    let value: Value = serde_json::from_str(data)?;
    if context.output.json {
        let mut value = value;
        if let Some(object) = value.as_object_mut() {
            object.insert("event".to_owned(), kind.into());
        }
        return Ok(line(&value.to_string())?);
    }
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("-");
    let at = text("at").parse().map(|at| relative(at, Timestamp::now()));
    let at = at.unwrap_or_else(|_| "-".to_owned());
    Ok(line(&format!("{kind:<8} {}/{}  {at}", text("tenant"), text("device")))?)
}

fn header<'a>(answer: &'a reqwest::Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

async fn ask(
    context: &Context,
    at: &RegistryAt,
    path: &str,
    timeout: Option<Duration>,
) -> Result<reqwest::Response, Box<dyn Error>> {
    let base = match &at.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", context.config()?.admin.listen),
    };
    let mut url = reqwest::Url::parse(&format!("{base}{path}"))
        .map_err(|error| format!("--url {base}: {error}; write it as http://127.0.0.1:9180"))?;
    let is_loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() != "https" && !is_loopback {
        return Err(format!(
            "--url {base}: the token would cross the network in the clear; use https, or a tunnel to \
             loopback"
        )
        .into());
    }
    if let Some(tenant) = &at.tenant {
        url.query_pairs_mut().append_pair("tenant", tenant.as_str());
    }
    let token = files::read_text(&at.token_file)
        .map_err(|error| format!("{error}; check the path of --token-file"))?;
    let mut client = reqwest::Client::builder()
        .connect_timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    if let Some(timeout) = timeout {
        client = client.timeout(timeout);
    }
    let asked = client.build()?.get(url).bearer_auth(token.trim()).send().await;
    let answer = asked.map_err(|error| format!("{}; check --url", causes(&error)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let said: Value = answer.json().await.unwrap_or_default();
    Err(match said.get("error").and_then(Value::as_str) {
        Some(error) => format!("the registry refused: {error}").into(),
        None => format!("{base} answered {status}, as no registry does; check --url").into(),
    })
}
