//! The row of Device Connect's registry.

use super::probe::{ANSWER, Client, Side, Sides};
use super::report::{Cannot, Judged, Seen, Trial};
use serde_json::{Value, json};
use std::time::Duration;

/// The row.
pub(super) async fn judge<C: Client>(sides: &Sides<C>) -> Judged {
    sides
        .each("see the other tenant's devices in the registry", async |attacker, victim| {
            look(attacker, victim, sides.wait).await
        })
        .await
}

/// Each tenant asks for its own devices and for the other's, and has to be answered for its own. Nothing is registered: who is present stays
/// as it is.
async fn look<C: Client>(
    attacker: &Side<C>,
    victim: &Side<C>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let (Some(own_tenant), Some(tenant)) =
        (attacker.space.device_connect_tenant(), victim.space.device_connect_tenant())
    else {
        return Err(Cannot::Apply(
            "the tenants' names are not those of Device Connect (prefix)".to_owned(),
        ));
    };
    let devices = async |side: &Side<C>, client: &C, tenant: &str, within: Duration| {
        let name = side.space.device_connect(tenant, "discovery");
        let question = json!({"jsonrpc": "2.0", "id": "bulkhead-verify",
            "method": "discovery/listDevices", "params": {"limit": 100}});
        let answer = client.ask(&name, &question.to_string(), within).await?;
        let answer: Value = serde_json::from_slice(&answer).ok()?;
        answer.pointer("/result/devices").and_then(Value::as_array).cloned()
    };
    let Some(theirs) = devices(victim, &victim.sender, tenant, ANSWER).await else {
        return Err(Cannot::Apply("no registry answers".to_owned()));
    };
    // A broker may end the connection over the question.
    let apart = attacker.sender.again().await?;
    let across = devices(attacker, &apart, tenant, wait * 2).await;
    let listed = devices(attacker, &attacker.sender, own_tenant, ANSWER).await;
    // Documents hold when a device was registered: no two are alike.
    let mixed = listed.iter().flatten().any(|device| theirs.contains(device));
    let leak = match (&across, mixed) {
        (Some(_), _) => format!(
            "{} asked for the devices of {}, and the registry answered",
            attacker.name(),
            victim.name()
        ),
        _ => format!("{} is told of devices of {}", attacker.name(), victim.name()),
    };
    let arrived = across.is_some() || mixed;
    if listed.is_none() && !arrived {
        return Err(Cannot::Tell(format!(
            "the registry answers {}, and not {}: see what that may publish and whether its own \
             tenant is served",
            victim.name(),
            attacker.name()
        )));
    }
    let note = theirs.is_empty().then_some(
        "no device is registered with the other tenant, so it was not seen whether lists are kept apart",
    );
    Ok(Trial { own: Seen::Arrived, foreign: Seen::of(arrived, true), leak, note })
}
