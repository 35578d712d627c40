//! `bulkhead init`.

use super::{Context, Outcome};
use crate::args::{Init, InitWhat};
use bulkhead_control::files::create_secret;
use bulkhead_control::identity::{ExchangeKeys, IdentityError};
use serde_json::json;
use std::io::ErrorKind;
use std::path::{Path, PathBuf, absolute};

/// The configuration to begin with. Every setting that has to be chosen is there, and every other one
/// is named.
const TEMPLATE: &str = include_str!("bulkhead.toml");

pub(super) fn run(context: &Context, args: Init) -> Outcome {
    match args.what {
        None => {
            let shown = context.path.display();
            create_secret(&context.path, TEMPLATE.as_bytes()).map_err(|error| {
                if error.kind() == ErrorKind::AlreadyExists {
                    return format!(
                        "{shown} exists, and a configuration is never overwritten; edit it, or \
                         name another with --config"
                    );
                }
                format!("{error}; check the path of --config")
            })?;
            context.done(
                json!({"config": shown.to_string()}),
                format!(
                    "wrote {shown}\nnext: name your issuer in it, run `bulkhead init nats`, add a \
                     tenant with `bulkhead tenant create`, then `bulkhead check`"
                ),
            )
        }
        Some(InitWhat::Exchange { dir }) => {
            let shown = dir.display().to_string();
            match ExchangeKeys::open(&dir) {
                Err(IdentityError::NoKeys(_)) => {}
                Ok(_) => {
                    return Err(format!(
                        "{shown} holds keys, which are never overwritten; name another folder with \
                         --dir"
                    )
                    .into());
                }
                Err(error) => return Err(error.into()),
            }
            let keys = ExchangeKeys::open_or_create(&dir)?;
            let folder = seen_from(&context.path, &dir)?;
            let ends = keys.authority().expires_at();
            let text = format!(
                "wrote {shown}; its authority of devices ends {ends}\nset in {config}: exchange.keys = \
                 {folder:?}",
                config = context.path.display(),
            );
            context.done(json!({"keys": shown, "authority_ends": ends}), text)
        }
        Some(InitWhat::Nats { dir, listen }) => {
            let made = bulkhead_auth_callout::init(&dir, &listen)?;
            let shown = |path: &Path| path.display().to_string();
            let value = json!({
                "keys": shown(&made.keys),
                "server_config": shown(&made.server_config),
                "operator_seed": shown(&made.operator_seed),
                "system_credentials": shown(&made.system_credentials),
                "registry_credentials": shown(&made.registry_credentials),
            });
            let folder = seen_from(&context.path, &dir)?;
            let text = format!(
                "wrote {keys}\n\
                 1. take {seed} offline: nothing here needs it\n\
                 2. start the server in that folder: (cd {keys} && nats-server -c nats-server.conf)\n\
                 3. append to {config}:\n\n\
                 [nats]\n\
                 servers = [\"nats://{listen}\"]\n\
                 operator = {{ keys = {folder:?} }}\n\n\
                 4. run `bulkhead serve`",
                keys = shown(&made.keys),
                seed = shown(&made.operator_seed),
                config = context.path.display(),
            );
            context.done(value, text)
        }
    }
}

/// A folder as a configuration names it, whose paths start where it lies.
fn seen_from(config: &Path, folder: &Path) -> std::io::Result<PathBuf> {
    let (config, folder) = (absolute(config)?, absolute(folder)?);
    let inside = config.parent().and_then(|parent| folder.strip_prefix(parent).ok());
    Ok(match inside {
        Some(here) if here.as_os_str().is_empty() => ".".into(),
        Some(inside) => inside.to_owned(),
        None => folder,
    })
}
