//! The isolation matrix of two tenants of this machine's own.

use super::environment::{DevError, Environment, TENANTS};
use super::registry;
use crate::verify::{Deployment, Party, Report, Target, rows};

/// Tries every row of `bulkhead verify` with real clients, and those for which one has to be allowed to
/// change what there is.
///
/// # Errors
/// [`DevError`] if a client cannot even connect.
pub async fn measure(environment: &Environment) -> Result<Report, DevError> {
    let [acme, globex] = TENANTS;
    let on = |url: String, separator: &str| -> Result<Target, DevError> {
        // One with the rights of a device, one with those of its whole tenant.
        let device = environment.token(acme, Some("cam-1"), "device")?;
        let events = ["device-connect", acme, "cam-1", "event"].join(separator);
        let member = environment.token(globex, None, "member")?;
        let tenant = ["device-connect", globex].join(separator);
        Ok(Target {
            a: Party::with_token(acme, url.clone(), device, events),
            b: Party::with_token(globex, url, member, tenant),
            jetstream: true,
        })
    };
    let deployment = Deployment::of(
        on(environment.nats_url().to_owned(), ".")?,
        on(format!("mqtt://{}", environment.mqtt_address()), "/")?,
        on(environment.zenoh_endpoint(), "/")?,
    );
    let mut judged = rows(&deployment).await;
    judged.extend(registry::measure(environment).await?);
    Ok(Report::new(judged))
}
