//! The way into the router: its own handler of each client's messages.

use crate::exposure::Exposure;
use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use zenoh_link::Link;
use zenoh_protocol::core::{WhatAmI, ZenohIdProto};
use zenoh_protocol::network::{NetworkMessage, NetworkMessageMut};
use zenoh_result::{ZResult, bail};
use zenoh_transport::multicast::TransportMulticast;
use zenoh_transport::unicast::TransportUnicast;
use zenoh_transport::{
    TransportEventHandler, TransportMulticastEventHandler, TransportPeer, TransportPeerEventHandler,
};

/// Hears of every transport that the router opens, and hands those of the gate's sessions to them.
pub(crate) struct Host {
    expected: Mutex<HashMap<ZenohIdProto, Expected>>,
    on_stranger: Report,
    exposure: Exposure,
    /// Whoever came around the gate, other routers too, has a share of it.
    around: Arc<()>,
}

/// Takes note of a transport that came around the gate, and of a link of it, if it is one that routers should
/// not come by.
type Report = Arc<dyn Fn(&TransportPeer, Option<&Link>) + Send + Sync>;

struct Expected {
    arrival: oneshot::Sender<Attachment>,
    closed: CancellationToken,
}

/// A session's place in the router.
pub(crate) struct Attachment {
    handler: Arc<dyn TransportPeerEventHandler>,
    transport: TransportUnicast,
    has_closed: Arc<AtomicBool>,
}

impl Host {
    /// A host that reports transports which came around the gate.
    pub(crate) fn new(
        exposure: Exposure,
        on_stranger: impl Fn(&TransportPeer, Option<&Link>) + Send + Sync + 'static,
    ) -> Self {
        let (expected, on_stranger) = (Mutex::default(), Arc::new(on_stranger));
        Self { expected, on_stranger, exposure, around: Arc::new(()) }
    }

    /// Whether the router serves others than the gate's sessions, whom it may wait for: the gate reads
    /// what goes to its own at once.
    pub(crate) fn may_wait(&self) -> bool {
        Arc::strong_count(&self.around) > 1
    }

    /// Announces that a transport of this id is about to be opened. `closed` is cancelled when it ends.
    ///
    /// `None` if one is being opened already.
    pub(crate) fn expect(
        self: &Arc<Self>,
        id: ZenohIdProto,
        closed: CancellationToken,
    ) -> Option<Expectation> {
        let (sender, arrival) = oneshot::channel();
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        match expected.entry(id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(Expected { arrival: sender, closed });
                Some(Expectation { host: Arc::clone(self), id, arrival })
            }
        }
    }

    fn take(&self, id: &ZenohIdProto) -> Option<Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

/// A transport that is being opened.
pub(crate) struct Expectation {
    host: Arc<Host>,
    id: ZenohIdProto,
    arrival: oneshot::Receiver<Attachment>,
}

impl Expectation {
    /// Waits for it.
    pub(crate) async fn arrived(mut self) -> Option<Attachment> {
        (&mut self.arrival).await.ok()
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.host.take(&self.id);
    }
}

impl Attachment {
    /// Gives the router a message as if it had come over the transport.
    ///
    /// # Errors
    /// What the router says; that it has closed the session, where what is declared would stay for ever.
    pub(crate) fn inject(&self, message: &mut NetworkMessage) -> ZResult<()> {
        if self.has_closed() {
            bail!("the router has closed the session");
        }
        self.handler.handle_message(message.as_mut())
    }

    /// Whether the router has closed the session.
    pub(crate) fn has_closed(&self) -> bool {
        self.has_closed.load(Ordering::Acquire)
    }

    /// Sends a message to the client, among those that the router sends.
    pub(crate) fn answer(&self, message: &mut NetworkMessage) -> ZResult<bool> {
        self.transport.schedule(message.as_mut())
    }
}

impl TransportEventHandler for Host {
    fn new_unicast(
        &self,
        peer: TransportPeer,
        transport: TransportUnicast,
    ) -> ZResult<Arc<dyn TransportPeerEventHandler>> {
        let Some(expected) = self.take(&peer.zid) else {
            let is_router = peer.whatami == WhatAmI::Router;
            if !is_router {
                (self.on_stranger)(&peer, None);
            }
            return Ok(Arc::new(Outsider {
                peer,
                exposure: is_router.then(|| self.exposure.clone()),
                report: Arc::clone(&self.on_stranger),
                _around: Arc::clone(&self.around),
            }));
        };
        Ok(Arc::new(Watched {
            transport,
            arrival: Mutex::new(Some(expected.arrival)),
            has_closed: Arc::default(),
            closed: expected.closed,
        }))
    }

    fn new_multicast(
        &self,
        _: TransportMulticast,
    ) -> ZResult<Arc<dyn TransportMulticastEventHandler>> {
        bail!("multicast is not watched")
    }
}

/// A session of the gate.
struct Watched {
    transport: TransportUnicast,
    arrival: Mutex<Option<oneshot::Sender<Attachment>>>,
    has_closed: Arc<AtomicBool>,
    closed: CancellationToken,
}

impl TransportPeerEventHandler for Watched {
    fn handle_message(&self, _: NetworkMessageMut<'_>) -> ZResult<()> {
        Ok(())
    }

    /// The first link is the sign that the router's own handler is in place.
    fn new_link(&self, _: Link) {
        let arrival = self.arrival.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(arrival) = arrival else { return };
        if let Ok(Some(handler)) = self.transport.get_callback() {
            let (transport, has_closed) = (self.transport.clone(), Arc::clone(&self.has_closed));
            let _ = arrival.send(Attachment { handler, transport, has_closed });
        }
    }

    fn del_link(&self, _: Link) {}

    fn closed(&self) {
        self.has_closed.store(true, Ordering::Release);
        self.closed.cancel();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Who came around the gate.
struct Outsider {
    peer: TransportPeer,
    /// For who says that it is another router, as anybody can: the ways that routers should not come by.
    exposure: Option<Exposure>,
    report: Report,
    _around: Arc<()>,
}

impl TransportPeerEventHandler for Outsider {
    fn handle_message(&self, _: NetworkMessageMut<'_>) -> ZResult<()> {
        Ok(())
    }

    fn new_link(&self, link: Link) {
        if self.exposure.as_ref().is_some_and(|exposure| exposure.is_open(&link.src)) {
            (self.report)(&self.peer, Some(&link));
        }
    }

    fn del_link(&self, _: Link) {}

    fn closed(&self) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}
