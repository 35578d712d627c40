//! `bulkhead init`.

use super::{Context, Outcome};
use crate::args::{Init, InitWhat};
use bulkhead_control::files::create_secret;
use serde_json::json;

/// The configuration to begin with. Every setting that has to be chosen is there, and every other one
/// is named.
const TEMPLATE: &str = include_str!("bulkhead.toml");

pub(super) fn run(context: &Context, args: Init) -> Outcome {
    match args.what {
        None => {
            create_secret(&context.path, TEMPLATE.as_bytes()).map_err(|error| {
                format!("{error}; an existing configuration is never overwritten")
            })?;
            let shown = context.path.display();
            Ok(context.done(
                json!({"config": shown.to_string()}),
                format!(
                    "wrote {shown}\nnext: name your issuer in it, run `bulkhead init nats`, add a \
                     tenant with `bulkhead tenant create`, then `bulkhead check`"
                ),
            ))
        }
        Some(InitWhat::Nats { dir, listen }) => {
            let made = bulkhead_auth_callout::init(&dir, &listen)?;
            let shown = |path: &std::path::Path| path.display().to_string();
            let value = json!({
                "keys": shown(&made.keys),
                "server_config": shown(&made.server_config),
                "operator_seed": shown(&made.operator_seed),
                "system_credentials": shown(&made.system_credentials),
                "registry_credentials": shown(&made.registry_credentials),
            });
            let folder = dir.file_name().map(|name| name.to_string_lossy().into_owned());
            let text = format!(
                "wrote {keys}\n\
                 1. take {seed} offline: nothing here needs it\n\
                 2. start the server in that folder: (cd {keys} && nats-server -c nats-server.conf)\n\
                 3. set in bulkhead.toml: nats = {{ servers = [\"nats://{listen}\"], operator = {{ keys \
                 = \"{folder}\" }} }}\n\
                 4. run `bulkhead serve`",
                keys = shown(&made.keys),
                seed = shown(&made.operator_seed),
                folder = folder.unwrap_or_else(|| shown(&dir)),
            );
            Ok(context.done(value, text))
        }
    }
}
