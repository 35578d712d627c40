//! `bulkhead nats`.

use super::{Context, Outcome};
use crate::args::{Nats, RotateWhat};
use crate::output::relative;
use bulkhead_auth_callout::{Rotation, rotate};
use bulkhead_control::config::AccountMode;
use jiff::Timestamp;
use serde_json::json;

pub(super) fn run(context: &Context, command: Nats) -> Outcome {
    let Nats::Rotate { what } = command;
    let config = context.config()?;
    let Some(AccountMode::Operator(keys)) = config.nats.as_ref().and_then(|nats| nats.mode())
    else {
        return Err(
            "there is nothing to rotate: [nats] has no `operator`; in config mode the keys \
                    stand in the server's own file"
                .into(),
        );
    };
    let what = match what {
        RotateWhat::Issuer => Rotation::Issuer,
        RotateWhat::Tenants => Rotation::Tenants,
        RotateWhat::Xkey => Rotation::Curve,
    };
    let from = rotate(&keys.keys, what)?;
    let text = format!("the new key is in use {}", relative(from, Timestamp::now()));
    context.done(json!({"in_use_from": from}), text)
}
