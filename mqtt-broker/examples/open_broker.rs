//! A broker that lets everybody do everything: to compare other brokers with, and to run conformance
//! suites against. `cargo run --release --example open_broker -- 127.0.0.1:1883 [data folder]`

use bulkhead_control::config::MqttConfig;
use bulkhead_mqtt_broker::Broker;
use bulkhead_mqtt_broker::hook::{Access, AllowAll, Answer, Attempt, Hook, Renewal};
use bulkhead_policy::{DenyReason, DeviceId, Quotas, Scope, TenantId, Verdict};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the Eclipse Paho suite expects to be refused.
const REFUSED: &str = "test/nosubscribe";

struct Everybody(AllowAll);

impl Hook for Everybody {
    fn connect<'a>(&'a self, _: Attempt<'a>) -> Answer<'a> {
        let access: Arc<dyn Access> = Arc::new(Self(self.0.clone()));
        Box::pin(std::future::ready(Ok(access)))
    }
}

impl Access for Everybody {
    fn scope(&self) -> &Scope {
        self.0.scope()
    }

    fn device(&self) -> Option<&DeviceId> {
        None
    }

    fn publish(&self, _: &str) -> Verdict<()> {
        Ok(())
    }

    fn subscribe(&self, filter: &str) -> Verdict<()> {
        if filter == REFUSED { Err(DenyReason::SubscribeDenied) } else { Ok(()) }
    }

    fn receives(&self, topic: &str) -> bool {
        topic != REFUSED
    }

    fn expires_at(&self) -> Option<Timestamp> {
        None
    }

    fn quotas(&self) -> Quotas {
        Quotas::default()
    }

    fn renew(&self) -> Verdict<Renewal> {
        Ok(Renewal::Unchanged)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1883".to_owned());
    let mut config = MqttConfig::new(vec![format!("tcp://{address}").parse()?]);
    config.data = std::env::args_os().nth(2).map(Into::into);
    config.max_keep_alive = SignedDuration::from_secs(60);
    let everybody = Everybody(AllowAll::of(TenantId::parse("home")?));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let registry = prometheus::Registry::new();
    let broker = Broker::start(&config, everybody, &registry, &tasks, &stop)?;
    println!("listening on {:?}", broker.addresses());
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}
