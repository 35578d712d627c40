//! `bulkhead init`.

use super::{Context, Outcome};
use crate::args::{Init, InitWhat, Tls};
use bulkhead_control::files::{create_private_folder, create_secret, read_text};
use bulkhead_control::identity::{ExchangeKeys, IdentityError};
use bulkhead_control::issuer::Signer;
use bulkhead_control::transport::{State, TransportAuthority, Wanted};
use serde_json::json;
use std::io::ErrorKind;
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

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
        Some(InitWhat::Issuer { dir, name, jwks }) => {
            let jwks = jwks.unwrap_or_else(|| dir.join(format!("{name}.jwks.json")));
            issuer(context, &dir, &name, &jwks)
        }
        Some(InitWhat::Tls(args)) => tls(context, args),
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

/// Makes a key and its key set; of what is there already, nothing is changed.
fn issuer(context: &Context, dir: &Path, name: &str, jwks: &Path) -> Outcome {
    let key = dir.join(format!("{name}.key"));
    let (has_key, has_jwks) = (key.try_exists()?, jwks.try_exists()?);
    if has_jwks && !has_key {
        return Err(format!(
            "{} is missing, and {} is there; restore it from a backup, or move the other away too to \
             have new ones made",
            key.display(),
            jwks.display()
        )
        .into());
    }
    let signer = if has_key {
        Signer::read(&key)?
    } else {
        create_private_folder(dir)?;
        Signer::create(&key)?
    };
    if has_jwks {
        if !signer.is_in(&read_text(jwks)?) {
            return Err(format!(
                "{} does not hold the public half of {}; add it, or move the file away to have another \
                 written",
                jwks.display(),
                key.display()
            )
            .into());
        }
    } else {
        if let Some(folder) = jwks.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            create_private_folder(folder)?;
        }
        create_secret(jwks, signer.jwks().to_string().as_bytes())?;
    }
    let id = signer.key_id();
    let (key_file, file) = (key.display(), seen_from(&context.path, jwks)?);
    let value = json!({"key": key, "jwks": jwks, "key_id": id, "made": !has_key});
    let text = if has_key {
        format!("{key_file} was there, and is kept; its key set is {}", jwks.display())
    } else {
        format!(
            "wrote {key_file} and {}\nset at the issuer in {}: keys.jwks_file = {file:?}, algorithms = \
             [\"EdDSA\"]",
            jwks.display(),
            context.path.display(),
        )
    };
    context.done(value, text)
}

/// Sees to a certificate, its key and its authority.
fn tls(context: &Context, args: Tls) -> Outcome {
    let ca = args.ca.unwrap_or_else(|| args.dir.join("ca.pem"));
    let ca_key = args.ca_key.unwrap_or_else(|| args.dir.join("ca.key"));
    let cert = args.dir.join(format!("{}.pem", args.name));
    let key = args.dir.join(format!("{}.key", args.name));
    let common_name = args.common_name.or_else(|| args.host.first().cloned());
    let wanted = Wanted {
        common_name: common_name.unwrap_or(args.name),
        hosts: args.host,
        client: args.client,
    };
    let authority = TransportAuthority::open_or_create(&ca, &ca_key)?;
    let made = authority.ensure(&wanted, &cert, &key)?;
    let because = made.because.as_deref().unwrap_or_default();
    let (file, ends) = (cert.display(), made.expires_at);
    let state = match made.state {
        State::Kept => "kept",
        State::Issued => "issued",
        State::Renewed => "renewed",
        State::Due => "due",
    };
    let mut text = match made.state {
        State::Kept => format!("{file} is kept; it ends {ends}"),
        State::Issued => format!("issued {file}; it ends {ends}"),
        State::Renewed => format!("issued {file} again, because it {because}; it ends {ends}"),
        State::Due => format!(
            "{file} {because}, and has to be issued again: put {} back for as long as this takes; it is \
             used until {ends}",
            ca_key.display()
        ),
    };
    if authority.is_new() {
        text = format!(
            "made the authority {}, which everybody trusts who verifies; its key {} belongs to where no \
             server is\n{text}",
            ca.display(),
            ca_key.display()
        );
    }
    let value = json!({
        "state": state, "because": made.because, "ends": ends,
        "certificate": cert, "key": key,
        "authority": ca, "authority_ends": authority.expires_at(), "authority_made": authority.is_new(),
    });
    context.output.print(&value, || text)?;
    let due = made.state == State::Due;
    Ok(ExitCode::from(if due { crate::NOT_AS_IT_SHOULD_BE } else { 0 }))
}

/// A folder or file as a configuration names it, whose paths start where it lies.
fn seen_from(config: &Path, folder: &Path) -> std::io::Result<PathBuf> {
    let (config, folder) = (absolute(config)?, absolute(folder)?);
    let inside = config.parent().and_then(|parent| folder.strip_prefix(parent).ok());
    Ok(match inside {
        Some(here) if here.as_os_str().is_empty() => ".".into(),
        Some(inside) => inside.to_owned(),
        None => folder,
    })
}
