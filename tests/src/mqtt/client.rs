use super::heard::{Heard, Message, Owned};
use crate::wait::WITHIN;
use bulkhead_mqtt_broker::codec::{
    AckKind, Frame, PropertiesBuf, Property, PublishHeader, QoS, ReasonCode, SubscriptionOptions,
    Version, ack, auth, client_disconnect, pingreq, publish, subscribe, unsubscribe,
};
use futures::{SinkExt, StreamExt};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frames;

/// How long nothing has to arrive for it to count as nothing, besides everything that was sent before
/// having been answered.
const NOTHING: Duration = Duration::from_millis(100);

/// A connection's bytes.
pub(super) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

pub(super) enum Wire {
    Stream(Box<dyn Bytes>),
    WebSocket(Box<WebSocketStream<Box<dyn Bytes>>>),
}

/// A client that says what it is told to, and nothing by itself but acknowledgements.
pub struct Client {
    /// Whether the broker had a session of before.
    pub present: bool,
    /// The properties of CONNACK.
    pub terms: Owned,
    /// Whether messages are acknowledged as they are read. They are, by default.
    pub acknowledges: bool,
    version: Version,
    wire: Wire,
    received: Vec<u8>,
    heard: VecDeque<Heard>,
    last_id: u16,
}

impl Client {
    pub(super) fn new(wire: Wire, version: Version) -> Self {
        Self {
            present: false,
            terms: Owned::default(),
            acknowledges: true,
            version,
            wire,
            received: Vec::new(),
            heard: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Sends bytes, as they are. A connection that is closed takes them too.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await;
    }

    /// Sends bytes, and says whether they were taken in time.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        let sending = async {
            match &mut self.wire {
                Wire::Stream(stream) => {
                    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
                }
                Wire::WebSocket(socket) => {
                    socket.send(Frames::Binary(bytes.to_vec().into())).await.is_ok()
                }
            }
        };
        timeout(WITHIN, sending).await.expect("bytes are taken in time")
    }

    /// Sends bytes only as long as the broker takes them: says how many it took before it took none
    /// for `patience`. They are sent over and over again.
    pub async fn pour(&mut self, bytes: &[u8], most: usize, patience: Duration) -> usize {
        let Wire::Stream(stream) = &mut self.wire else { panic!("not over a WebSocket") };
        let mut taken = 0;
        while taken < most {
            let rest = &bytes[taken % bytes.len()..];
            match timeout(patience, stream.write(rest)).await {
                Ok(Ok(n)) => taken += n,
                Ok(Err(_)) | Err(_) => return taken,
            }
        }
        taken
    }

    /// Reads so many bytes, whatever they mean.
    pub async fn drain(&mut self, bytes: usize) {
        let Wire::Stream(stream) = &mut self.wire else { panic!("not over a WebSocket") };
        let mut buffer = vec![0; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            let most = left.min(buffer.len());
            let reading = stream.read(&mut buffer[..most]);
            let n = timeout(WITHIN, reading).await.expect("bytes in time").unwrap();
            assert!(n > 0, "the connection ended");
            left -= n;
        }
    }

    /// Sends a text message, on a WebSocket.
    pub async fn send_text(&mut self, text: &str) {
        let Wire::WebSocket(socket) = &mut self.wire else { panic!("only over a WebSocket") };
        socket.send(Frames::text(text)).await.unwrap();
    }

    /// Sends what a function of the codec writes.
    pub async fn say(&mut self, write: impl FnOnce(&mut Vec<u8>, Version)) {
        let mut out = Vec::new();
        write(&mut out, self.version);
        assert!(!out.is_empty(), "a packet that the codec cannot write");
        self.send(&out).await;
    }

    /// The next packet; `None` at the end.
    async fn read(&mut self) -> Option<Heard> {
        loop {
            if let Some(frame) = Frame::find(&self.received, usize::MAX).unwrap() {
                let heard = Heard::read(&frame, self.version);
                let len = frame.len;
                self.received.drain(..len);
                return Some(heard);
            }
            match &mut self.wire {
                Wire::Stream(stream) => {
                    if !matches!(stream.read_buf(&mut self.received).await, Ok(n) if n > 0) {
                        return None;
                    }
                }
                Wire::WebSocket(socket) => match socket.next().await {
                    Some(Ok(Frames::Binary(bytes))) => self.received.extend_from_slice(&bytes),
                    Some(Ok(Frames::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(_)) => {}
                },
            }
        }
    }

    /// The next packet, in time; `None` at the end.
    async fn read_in_time(&mut self) -> Option<Heard> {
        let heard = timeout(WITHIN, self.read()).await.expect("something in time");
        if let (Some(Heard::Publish(message)), true) = (&heard, self.acknowledges) {
            let (kind, id) = match message.qos {
                QoS::AtMostOnce => return heard,
                QoS::AtLeastOnce => (AckKind::PubAck, message.packet_id),
                QoS::ExactlyOnce => (AckKind::PubRec, message.packet_id),
            };
            self.ack(kind, id).await;
        }
        if let (Some(Heard::Ack(AckKind::PubRel, id, _)), true) = (&heard, self.acknowledges) {
            let id = *id;
            self.ack(AckKind::PubComp, id).await;
        }
        heard
    }

    /// The next packet, whatever it is.
    pub async fn next(&mut self) -> Heard {
        match self.heard.pop_front() {
            Some(heard) => heard,
            None => self.read_in_time().await.expect("the connection lives"),
        }
    }

    /// The next packet that a function makes something of. Others wait for those who ask for them.
    pub async fn find<T>(&mut self, mut wanted: impl FnMut(&Heard) -> Option<T>) -> T {
        for at in 0..self.heard.len() {
            if let Some(found) = wanted(&self.heard[at]) {
                self.heard.remove(at);
                return found;
            }
        }
        loop {
            let Some(heard) = self.read_in_time().await else {
                panic!("the connection ended; so far {:?}", self.heard)
            };
            if let Some(found) = wanted(&heard) {
                return found;
            }
            assert!(!matches!(heard, Heard::Disconnect(_)), "closed: {heard:?}");
            self.heard.push_back(heard);
        }
    }

    /// Acknowledges.
    pub async fn ack(&mut self, kind: AckKind, id: u16) {
        self.say(|out, version| ack(out, version, kind, id, ReasonCode::SUCCESS)).await;
    }

    /// Waits for an acknowledgement and says how it went.
    pub async fn acked(&mut self, kind: AckKind, id: u16) -> ReasonCode {
        self.find(|heard| match heard {
            Heard::Ack(k, i, reason) if *k == kind && *i == id => Some(*reason),
            _ => None,
        })
        .await
    }

    /// The next message.
    pub async fn message(&mut self) -> Message {
        self.find(|heard| match heard {
            Heard::Publish(message) => Some(message.clone()),
            _ => None,
        })
        .await
    }

    /// The payload of the next message.
    pub async fn payload(&mut self) -> String {
        self.message().await.payload
    }

    /// Makes sure that no message has arrived, or does.
    pub async fn nothing(&mut self) {
        if let Ok(Some(heard)) = timeout(NOTHING, self.read()).await {
            self.heard.push_back(heard);
        }
        self.ping().await;
        let message = self.heard.iter().find(|heard| matches!(heard, Heard::Publish(_)));
        assert_eq!(message, None, "nothing arrives");
    }

    /// What has arrived and nobody asked for.
    pub fn heard_so_far(&self) -> Vec<Heard> {
        self.heard.iter().cloned().collect()
    }

    /// Forgets the messages that have arrived.
    pub async fn forget_messages(&mut self) {
        self.ping().await;
        self.heard.retain(|heard| !matches!(heard, Heard::Publish(_)));
    }

    /// The next packet, or `None` at the end of the connection.
    pub async fn answer(&mut self) -> Option<Heard> {
        timeout(WITHIN, self.read()).await.expect("an answer in time")
    }

    /// Makes sure that the broker answers, which it does in order.
    pub async fn ping(&mut self) {
        self.say(|out, _| pingreq(out)).await;
        self.find(|heard| (*heard == Heard::PingResp).then_some(())).await;
    }

    /// The same as [`closed`](Self::closed), and makes sure that nothing is acknowledged before.
    pub async fn closed_unacknowledged(&mut self) -> Option<ReasonCode> {
        self.end(|heard| assert!(!matches!(heard, Heard::Ack(..)), "acknowledged: {heard:?}")).await
    }

    /// Waits for the end of the connection, and says the reason in DISCONNECT if there was one.
    pub async fn closed(&mut self) -> Option<ReasonCode> {
        self.end(|_| {}).await
    }

    async fn end(&mut self, look: impl Fn(&Heard)) -> Option<ReasonCode> {
        let mut reason = None;
        loop {
            let heard = match self.heard.pop_front() {
                Some(heard) => heard,
                None => match timeout(WITHIN, self.read()).await.expect("the end in time") {
                    Some(heard) => heard,
                    None => return reason,
                },
            };
            look(&heard);
            if let Heard::Disconnect(told) = heard {
                reason = Some(told);
            }
        }
    }

    /// A packet id that was not used lately.
    pub fn id(&mut self) -> u16 {
        self.last_id = self.last_id % 60_000 + 1;
        self.last_id
    }

    /// Subscribes with QoS 1 and says the reason code.
    pub async fn subscribe(&mut self, filter: &str) -> ReasonCode {
        let options = SubscriptionOptions::of_qos(QoS::AtLeastOnce);
        self.subscribe_with(&[(filter, options)], &[]).await[0]
    }

    /// Subscribes, which is granted.
    pub async fn subscribed(&mut self, filter: &str) {
        let code = self.subscribe(filter).await;
        assert!(!code.is_error(), "{filter}: {code}");
    }

    /// Subscribes and says the reason codes.
    pub async fn subscribe_with(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        properties: &[Property<'_>],
    ) -> Vec<ReasonCode> {
        let id = self.id();
        self.say(|out, version| subscribe(out, version, id, properties, filters)).await;
        self.suback(id).await
    }

    /// Waits for the answer to a SUBSCRIBE.
    pub async fn suback(&mut self, id: u16) -> Vec<ReasonCode> {
        self.find(|heard| match heard {
            Heard::SubAck(i, codes) if *i == id => {
                Some(codes.iter().map(|code| ReasonCode(*code)).collect())
            }
            _ => None,
        })
        .await
    }

    /// Unsubscribes and says the reason codes, of which MQTT 3.1.1 has none.
    pub async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<ReasonCode> {
        let id = self.id();
        self.say(|out, version| unsubscribe(out, version, id, &[], filters)).await;
        self.find(|heard| match heard {
            Heard::UnsubAck(i, codes) if *i == id => {
                Some(codes.iter().map(|code| ReasonCode(*code)).collect())
            }
            _ => None,
        })
        .await
    }

    /// Publishes with QoS 0.
    pub async fn publish(&mut self, topic: &str, payload: &str) {
        self.send_publish(topic, payload, QoS::AtMostOnce, false, &[]).await;
    }

    /// Publishes with QoS 1 and says how it went. Nobody subscribing is no failure.
    pub async fn publish1(&mut self, topic: &str, payload: &str) -> ReasonCode {
        self.publish_with(topic, payload, QoS::AtLeastOnce, false, &[]).await
    }

    /// Publishes with QoS 1, which is taken.
    pub async fn published(&mut self, topic: &str, payload: &str) {
        assert_eq!(self.publish1(topic, payload).await, ReasonCode::SUCCESS, "{topic}");
    }

    /// Has a message retained, or removes one with an empty payload, and says how it went.
    pub async fn retain(&mut self, topic: &str, payload: &str) -> ReasonCode {
        self.publish_with(topic, payload, QoS::AtLeastOnce, true, &[]).await
    }

    /// Publishes, waits for what its quality of service has to be waited for, and says how it went.
    /// Nobody subscribing is no failure.
    pub async fn publish_with(
        &mut self,
        topic: &str,
        payload: &str,
        qos: QoS,
        retain: bool,
        properties: &[Property<'_>],
    ) -> ReasonCode {
        let id = self.send_publish(topic, payload, qos, retain, properties).await;
        let kind = match qos {
            QoS::AtMostOnce => return ReasonCode::SUCCESS,
            QoS::AtLeastOnce => AckKind::PubAck,
            QoS::ExactlyOnce => AckKind::PubRec,
        };
        let reason = self.acked(kind, id).await;
        if qos == QoS::ExactlyOnce && !reason.is_error() {
            self.ack(AckKind::PubRel, id).await;
            assert_eq!(self.acked(AckKind::PubComp, id).await, ReasonCode::SUCCESS);
        }
        match reason {
            ReasonCode::NO_MATCHING_SUBSCRIBERS => ReasonCode::SUCCESS,
            reason => reason,
        }
    }

    /// Publishes without waiting for anything, and says the packet id.
    pub async fn send_publish(
        &mut self,
        topic: &str,
        payload: &str,
        qos: QoS,
        retain: bool,
        properties: &[Property<'_>],
    ) -> u16 {
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { self.id() };
        let header = PublishHeader { dup: false, qos, retain, topic, packet_id };
        let raw: PropertiesBuf = properties.iter().copied().collect();
        let raw = raw.as_properties();
        self.say(|out, version| {
            publish(out, version, header, raw.raw(), &[], payload.as_bytes());
        })
        .await;
        packet_id
    }

    /// Shows another token by AUTH, and says what comes of it: `None` if the connection lives on.
    pub async fn renew(&mut self, token: &str) -> Option<ReasonCode> {
        let properties =
            [Property::AuthenticationMethod("JWT"), Property::AuthenticationData(token.as_bytes())];
        self.say(|out, _| auth(out, ReasonCode::REAUTHENTICATE, &properties)).await;
        loop {
            match self.read_in_time().await.expect("an answer") {
                Heard::Auth(ReasonCode::SUCCESS, _) => return None,
                Heard::Disconnect(reason) => return Some(reason),
                other => self.heard.push_back(other),
            }
        }
    }

    /// Says goodbye, so that no will is published.
    pub async fn goodbye(mut self) {
        self.disconnect(ReasonCode::NORMAL_DISCONNECTION).await;
    }

    /// Sends DISCONNECT and waits for the end.
    pub async fn disconnect(&mut self, reason: ReasonCode) {
        self.say(|out, version| client_disconnect(out, version, reason, &[])).await;
        self.closed().await;
    }

    /// Breaks the connection without a word.
    pub fn vanish(self) {
        drop(self);
    }
}
