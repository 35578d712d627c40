use super::wire::Wire;
use super::{Greeting, say};
use crate::wait::WITHIN;
use std::collections::VecDeque;
use tokio::time::timeout;
use zenoh_buffers::ZSlice;
use zenoh_buffers::writer::HasWriter;
use zenoh_codec::{RCodec, WCodec, Zenoh080};
use zenoh_protocol::core::{Priority, Reliability};
use zenoh_protocol::network::{NetworkBody, NetworkMessage};
use zenoh_protocol::transport::{
    Close, Fragment, Frame, FrameHeader, InitAck, OpenAck, TransportBody, TransportMessage,
    TransportSn, fragment, frame,
};

/// A client that speaks Zenoh by hand, and says what it is told to.
pub struct Raw {
    /// What the gate agreed to.
    pub terms: Option<(InitAck, OpenAck)>,
    /// The number of its next frame.
    pub next_sn: TransportSn,
    wire: Wire,
    said: VecDeque<Said>,
    queries: u32,
}

/// What the gate said.
#[derive(Clone, Debug)]
pub enum Said {
    /// Something within the session.
    Message(Box<NetworkMessage>),
    /// A piece of something.
    Piece(Fragment),
    /// Goodbye.
    Close(Close),
    /// A step of the handshake.
    Step(Box<TransportBody>),
}

impl Raw {
    pub(super) fn new(wire: Wire) -> Self {
        // Queries of the test's own have small numbers.
        Self { terms: None, next_sn: 0, wire, said: VecDeque::new(), queries: 1 << 20 }
    }

    /// Opens a session.
    ///
    /// # Errors
    /// The reason of the gate's `Close`, if there was one.
    pub async fn greet(&mut self, greeting: &Greeting) -> Result<(), Option<u8>> {
        self.transport(greeting.init_syn()).await;
        let init = match self.next().await {
            Some(Said::Step(step)) => match *step {
                TransportBody::InitAck(ack) => ack,
                other => panic!("something else than InitAck: {other:?}"),
            },
            Some(Said::Close(close)) => return Err(Some(close.reason)),
            Some(other) => panic!("something else than InitAck: {other:?}"),
            None => return Err(None),
        };
        self.transport(greeting.open_syn(init.cookie.clone())).await;
        match self.next().await {
            Some(Said::Step(step)) => match *step {
                TransportBody::OpenAck(ack) => self.terms = Some((init, ack)),
                other => panic!("something else than OpenAck: {other:?}"),
            },
            Some(Said::Close(close)) => return Err(Some(close.reason)),
            Some(other) => panic!("something else than OpenAck: {other:?}"),
            None => return Err(None),
        }
        self.next_sn = greeting.initial_sn;
        Ok(())
    }

    /// Sends a message of the transport, in a batch of its own.
    pub async fn transport(&mut self, message: impl Into<TransportMessage>) {
        let mut batch = Vec::new();
        Zenoh080::new().write(&mut (&mut batch).writer(), &message.into()).unwrap();
        self.wire.send(&batch).await;
    }

    /// Sends a batch as it is.
    pub async fn batch(&mut self, batch: &[u8]) {
        self.wire.send(batch).await;
    }

    /// Sends bytes as they are, with no length before them.
    pub async fn bytes(&mut self, bytes: &[u8]) {
        self.wire.send_bytes(bytes).await;
    }

    /// Sends messages in one frame.
    pub async fn say(&mut self, messages: impl IntoIterator<Item = NetworkMessage>) {
        let sn = self.sn();
        self.frame(sn, Priority::Data, Reliability::Reliable, messages).await;
    }

    /// The number of the next frame, which is taken.
    pub fn sn(&mut self) -> TransportSn {
        let sn = self.next_sn;
        self.next_sn += 1;
        sn
    }

    /// Sends messages in a frame of this number, on this lane.
    pub async fn frame(
        &mut self,
        sn: TransportSn,
        priority: Priority,
        reliability: Reliability,
        messages: impl IntoIterator<Item = NetworkMessage>,
    ) {
        let ext_qos = frame::ext::QoSType::new(priority);
        let payload = messages.into_iter().collect();
        self.transport(Frame { reliability, sn, ext_qos, payload }).await;
    }

    /// Sends bytes in a frame, as they are.
    pub async fn frame_of(&mut self, bytes: &[u8]) {
        let ext_qos = frame::ext::QoSType::DEFAULT;
        let header = FrameHeader { reliability: Reliability::Reliable, sn: self.sn(), ext_qos };
        let mut batch = Vec::new();
        Zenoh080::new().write(&mut (&mut batch).writer(), &header).unwrap();
        batch.extend_from_slice(bytes);
        self.wire.send(&batch).await;
    }

    /// Sends a piece of a message.
    pub async fn piece(&mut self, sn: TransportSn, first: bool, more: bool, bytes: &[u8]) {
        let piece = Fragment {
            reliability: Reliability::Reliable,
            more,
            sn,
            payload: ZSlice::from(bytes.to_vec()),
            ext_qos: fragment::ext::QoSType::DEFAULT,
            ext_first: first.then(fragment::ext::First::new),
            ext_drop: None,
        };
        self.transport(piece).await;
    }

    /// What the gate says next but for signs of life; `None` once the connection is closed.
    ///
    /// # Panics
    /// If it says nothing in time.
    pub async fn next(&mut self) -> Option<Said> {
        timeout(WITHIN, self.hear()).await.expect("something in time")
    }

    async fn hear(&mut self) -> Option<Said> {
        loop {
            if let Some(said) = self.said.pop_front() {
                return Some(said);
            }
            let batch = self.wire.receive().await?;
            let mut batch = ZSlice::from(batch);
            while !batch.is_empty() {
                let message: TransportMessage = Zenoh080::new().read(&mut batch).unwrap();
                match message.body {
                    TransportBody::Frame(frame) => {
                        self.said
                            .extend(frame.payload.into_iter().map(Box::new).map(Said::Message));
                    }
                    TransportBody::Fragment(fragment) => self.said.push_back(Said::Piece(fragment)),
                    TransportBody::Close(close) => self.said.push_back(Said::Close(close)),
                    TransportBody::KeepAlive(_) => {}
                    step => self.said.push_back(Said::Step(Box::new(step))),
                }
            }
        }
    }

    /// Everything up to a message that is waited for, which is the last one.
    pub async fn until(
        &mut self,
        mut is_last: impl FnMut(&NetworkBody) -> bool,
    ) -> Vec<NetworkMessage> {
        let mut heard = Vec::new();
        loop {
            match self.next().await {
                Some(Said::Message(message)) => {
                    let last = is_last(&message.body);
                    heard.push(*message);
                    if last {
                        return heard;
                    }
                }
                Some(Said::Close(close)) => panic!("closed for reason {}", close.reason),
                Some(_) => {}
                None => panic!("closed without a word"),
            }
        }
    }

    /// Waits until the router has done everything that was said so far. Returns what it said meanwhile.
    /// `nobody` is a key of the client's own tenant that nobody answers queries for.
    pub async fn sync(&mut self, nobody: &str) -> Vec<NetworkMessage> {
        self.queries += 1;
        let rid = self.queries;
        self.say([say::query(rid, say::key(nobody))]).await;
        let mut heard = self
            .until(|body| matches!(body, NetworkBody::ResponseFinal(end) if end.rid == rid))
            .await;
        heard.pop();
        heard
    }

    /// Waits until the connection is closed. Says for which reason of `Close`, if for one.
    pub async fn closed(&mut self) -> Option<u8> {
        let mut reason = None;
        while let Some(said) = self.next().await {
            if let Said::Close(close) = said {
                reason = Some(close.reason);
            }
        }
        reason
    }
}
