//! What two tenants of a deployment can do to each other, tried by real clients.
//!
//! Each row is tried by each tenant on the other, and by each within itself: only what works within
//! shows anything by not working across. Names, groups and client ids are random, less than a
//! hundred small messages are sent on each broker, and what is kept somewhere is removed.

mod deployment;
mod ear;
mod identity;
mod mqtt;
mod nats;
mod probe;
mod registry;
mod report;
mod zenoh;

pub use deployment::{Deployment, DeploymentError, EXAMPLE, Stop};
pub(crate) use deployment::{Party, Target};
pub use nats::settle;
pub(crate) use report::{Attempt, Judged, Trial};
pub use report::{NotTried, Outcome, Report, Row, Seen};

/// Tries every row on every broker of a deployment, the brokers beside each other. Once the deployment's
/// [`Stop`] is set, what has begun is ended and cleaned up, and the rest cannot be told.
pub async fn run(deployment: &Deployment) -> Report {
    Report::new(rows(deployment).await)
}

/// The same, with room for rows of one's own.
pub(crate) async fn rows(deployment: &Deployment) -> Vec<Judged> {
    let Deployment { pace, nats, mqtt, zenoh } = deployment;
    let on_nats = async {
        match nats {
            Some(target) => nats::measure(target, pace).await,
            None => Vec::new(),
        }
    };
    let on_mqtt = async {
        match mqtt {
            Some(target) => mqtt::measure(target, pace).await,
            None => Vec::new(),
        }
    };
    let on_zenoh = async {
        match zenoh {
            Some(target) => zenoh::measure(target, pace).await,
            None => Vec::new(),
        }
    };
    let (nats, mqtt, zenoh) = tokio::join!(on_nats, on_mqtt, on_zenoh);
    [nats, mqtt, zenoh].into_iter().flatten().collect()
}
