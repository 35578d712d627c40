//! Many sessions at once: transports alone, which do not come back by themselves.

use super::routers::Target;
use bulkhead_policy::TenantId;
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zenoh_link::Link;
use zenoh_protocol::core::{WhatAmI, ZenohIdProto};
use zenoh_protocol::network::NetworkMessageMut;
use zenoh_result::{ZResult, bail};
use zenoh_transport::multicast::TransportMulticast;
use zenoh_transport::unicast::TransportUnicast;
use zenoh_transport::unicast::establishment::ext::auth::{Auth, AuthUsrPwd};
use zenoh_transport::{
    TransportEventHandler, TransportManager, TransportMulticastEventHandler, TransportPeer,
    TransportPeerEventHandler,
};

/// How many are opened at a time.
const AT_ONCE: usize = 16;

/// How long opening one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A session that does nothing. It ends when this is dropped.
pub struct Member {
    manager: TransportManager,
    ended: oneshot::Receiver<Instant>,
}

/// Opens a session of each of these devices of a tenant.
pub fn open_all(
    runtime: &Runtime,
    target: Target<'_>,
    tenant: &TenantId,
    devices: &[String],
) -> Vec<Member> {
    let mut all = Vec::with_capacity(devices.len());
    for some in devices.chunks(AT_ONCE) {
        let opening: Vec<_> = some
            .iter()
            .map(|device| {
                let (endpoint, token) = (target.endpoint(), target.token(tenant, device));
                runtime.spawn(async move { open(&endpoint, token).await.unwrap() })
            })
            .collect();
        all.extend(opening.into_iter().map(|member| runtime.block_on(member).unwrap()));
    }
    all
}

/// Opens one.
///
/// # Errors
/// Why it was refused.
pub async fn open(endpoint: &str, token: Option<String>) -> ZResult<Member> {
    let mut auth = Auth::empty();
    let named = token.map(|token| (token.into_bytes(), b"any".to_vec()));
    auth.set_usrpwd(Some(AuthUsrPwd::new(named)));
    let unicast = TransportManager::config_unicast().authenticator(auth).open_timeout(PATIENCE);
    let (sender, ended) = oneshot::channel();
    let manager = TransportManager::builder()
        .zid(ZenohIdProto::rand())
        .whatami(WhatAmI::Client)
        .unicast(unicast)
        .build(Arc::new(Ends(Mutex::new(Some(sender)))))?;
    manager.open_transport_unicast(endpoint.parse()?).await?;
    Ok(Member { manager, ended })
}

impl Member {
    /// Holds the session until the router ends it, and says when that was.
    pub fn hold(self, runtime: &Runtime) -> JoinHandle<Instant> {
        runtime.spawn(async move {
            let at = self.ended.await.unwrap_or_else(|_| Instant::now());
            drop(self.manager);
            at
        })
    }

    /// Ends it.
    pub async fn close(self) {
        self.manager.close().await;
    }
}

/// Says when the one transport has ended.
struct Ends(Mutex<Option<oneshot::Sender<Instant>>>);

struct End(Mutex<Option<oneshot::Sender<Instant>>>);

impl TransportEventHandler for Ends {
    fn new_unicast(
        &self,
        _: TransportPeer,
        _: TransportUnicast,
    ) -> ZResult<Arc<dyn TransportPeerEventHandler>> {
        Ok(Arc::new(End(Mutex::new(self.0.lock().unwrap().take()))))
    }

    fn new_multicast(
        &self,
        _: TransportMulticast,
    ) -> ZResult<Arc<dyn TransportMulticastEventHandler>> {
        bail!("nobody asked for multicast")
    }
}

impl TransportPeerEventHandler for End {
    fn handle_message(&self, _: NetworkMessageMut<'_>) -> ZResult<()> {
        Ok(())
    }

    fn new_link(&self, _: Link) {}

    fn del_link(&self, _: Link) {}

    fn closed(&self) {
        if let Some(sender) = self.0.lock().unwrap().take() {
            let _ = sender.send(Instant::now());
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
