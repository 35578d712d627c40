//! `bulkhead exchange`.

use super::{Context, Outcome};
use crate::args::Exchange;
use bulkhead_control::config::Config;
use bulkhead_control::identity::{ExchangeKeys, Trusting};
use serde_json::json;
use std::path::{Path, PathBuf};

pub(super) fn run(context: &Context, command: Exchange) -> Outcome {
    let Exchange::Rotate { dir, client_ca_file, exchange_jwks_file } = command;
    let mut trusting = Trusting { client_ca_files: client_ca_file, jwks_files: exchange_jwks_file };
    let dir = match dir {
        Some(dir) => dir,
        None => configured(&context.config()?, &mut trusting)?,
    };
    let keys = ExchangeKeys::rotate(&dir, &trusting)?;
    let ends = keys.authority().expires_at();
    let files = || trusting.client_ca_files.iter().chain(&trusting.jwks_files);
    let value = json!({
        "keys": dir,
        "authority_ends": ends,
        "key_id": keys.tokens().key_id(),
        "trusted_in": files().collect::<Vec<_>>(),
    });
    let mut text = format!("new keys are in {}, trusted beside the old ones", dir.display());
    for file in files() {
        text += &format!(", also in {}", file.display());
    }
    text += "\n1. where brokers on other machines have copies of the public files, bring them the new ones\n\
             2. restart the service that has the exchange: from then on the new keys sign\n\
             3. when what the old ones signed has expired, take them out of these files";
    context.done(value, text)
}

/// The folder of the configuration. Files outside of it by which brokers verify are added.
fn configured(config: &Config, trusting: &mut Trusting) -> Result<PathBuf, String> {
    let dir = config.exchange_keys().ok_or(
        "there is nothing to rotate: exchange.keys is not configured; set it, or name the folder with \
         --dir",
    )?;
    let add = |files: &mut Vec<PathBuf>, file: Option<&Path>| {
        let file = file.filter(|file| !file.starts_with(dir)).map(Path::to_owned);
        files.extend(file.filter(|file| !files.contains(file)));
    };
    let tls = [
        config.mqtt.as_ref().and_then(|mqtt| mqtt.tls.as_ref()),
        config.zenoh.as_ref().and_then(|zenoh| zenoh.tls.as_ref()),
    ];
    for tls in tls.into_iter().flatten() {
        add(&mut trusting.client_ca_files, tls.client_ca_file.as_deref());
    }
    add(&mut trusting.jwks_files, config.mqtt_exchange_jwks().as_deref());
    Ok(dir.to_owned())
}
