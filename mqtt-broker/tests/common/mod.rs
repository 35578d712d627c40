//! A blocking MQTT client for tests: it sends what it is told and hears what there is.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test stops at a surprise, and each uses what it needs"
)]

use bulkhead_mqtt_broker::codec::{
    AckKind, Connect, Frame, Properties, PropertiesBuf, Property, PublishHeader, QoS, ReasonCode,
    ServerPacket, SubscriptionOptions, Version, ack, client_disconnect, connect, pingreq, publish,
    subscribe, unsubscribe,
};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long anything may take.
pub const WITHIN: Duration = Duration::from_secs(30);

/// What the developer's issuer signs with.
pub const SECRET: &str = "a secret of at least thirty-two bytes for tests";

/// A member's token.
fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({
        "iss": "dev", "aud": "bulkhead", "exp": now + 3600, "tenant": "acme", "role": "member",
    });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// What a client heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    ConnAck { present: bool, reason: ReasonCode },
    Publish { topic: String, payload: Vec<u8>, qos: QoS, id: u16, dup: bool, retain: bool },
    PubAck(u16, ReasonCode),
    PubRec(u16, ReasonCode),
    PubRel(u16),
    PubComp(u16),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    PingResp,
    Other,
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    heard: VecDeque<Heard>,
}

impl Client {
    /// Connects with MQTT 5 and a session that outlives the connection.
    pub fn connect(address: SocketAddr, client_id: &str, clean: bool) -> io::Result<(Self, bool)> {
        Self::connect_as(address, "any", client_id, clean)
    }

    /// The same with a user name.
    pub fn connect_as(
        address: SocketAddr,
        user: &str,
        client_id: &str,
        clean: bool,
    ) -> io::Result<(Self, bool)> {
        let stream = TcpStream::connect_timeout(&address, WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut client = Self { stream, buffer: Vec::new(), heard: VecDeque::new() };
        let properties: PropertiesBuf = [Property::SessionExpiry(3600)].into_iter().collect();
        let mut out = Vec::new();
        connect(
            &mut out,
            &Connect {
                version: Version::V5,
                clean_start: clean,
                keep_alive: 0,
                client_id,
                properties: properties.as_properties(),
                will: None,
                user_name: Some(user),
                password: Some(token().as_bytes()),
            },
        );
        client.stream.write_all(&out)?;
        match client.next()? {
            Heard::ConnAck { present, reason: ReasonCode::SUCCESS } => Ok((client, present)),
            other => panic!("no session: {other:?}"),
        }
    }

    pub fn subscribe(&mut self, filter: &str, qos: QoS) -> io::Result<()> {
        let mut out = Vec::new();
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        subscribe(&mut out, Version::V5, 1, &[], &[(filter, options)]);
        self.stream.write_all(&out)?;
        let mut before = VecDeque::new();
        loop {
            match self.next()? {
                Heard::SubAck(1, codes) => {
                    assert_eq!(codes, [qos as u8]);
                    // MQTT 5 §3.8.4: messages may come before SUBACK.
                    self.heard = before;
                    return Ok(());
                }
                other => before.push_back(other),
            }
        }
    }

    pub fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        packet_id: u16,
        dup: bool,
        retain: bool,
    ) -> io::Result<()> {
        let mut out = Vec::new();
        let header = PublishHeader { dup, qos, retain, topic, packet_id };
        publish(&mut out, Version::V5, header, Properties::default().raw(), &[], payload);
        self.stream.write_all(&out)
    }

    pub fn unsubscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut out = Vec::new();
        unsubscribe(&mut out, Version::V5, 1, &[], &[filter]);
        self.stream.write_all(&out)
    }

    pub fn ping(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        pingreq(&mut out);
        self.stream.write_all(&out)
    }

    /// Ends the connection in order; the session stays.
    pub fn disconnect(mut self) -> io::Result<()> {
        let mut out = Vec::new();
        client_disconnect(&mut out, Version::V5, ReasonCode::SUCCESS, &[]);
        self.stream.write_all(&out)?;
        // The broker has seen it when it closes.
        while self.poll().is_ok() {}
        Ok(())
    }

    pub fn ack(&mut self, kind: AckKind, id: u16) -> io::Result<()> {
        let mut out = Vec::new();
        ack(&mut out, Version::V5, kind, id, ReasonCode::SUCCESS);
        self.stream.write_all(&out)
    }

    /// The next packet.
    pub fn next(&mut self) -> io::Result<Heard> {
        let deadline = Instant::now() + WITHIN;
        loop {
            if let Some(heard) = self.poll()? {
                return Ok(heard);
            }
            assert!(Instant::now() < deadline, "nothing was heard");
        }
    }

    /// The next packet, if there is one already or within 20 ms.
    pub fn poll(&mut self) -> io::Result<Option<Heard>> {
        if let Some(heard) = self.heard.pop_front() {
            return Ok(Some(heard));
        }
        if let Some(frame) = Frame::find(&self.buffer, usize::MAX).unwrap() {
            let heard = hear(&ServerPacket::decode(&frame, Version::V5).unwrap());
            let len = frame.len;
            self.buffer.drain(..len);
            return Ok(Some(heard));
        }
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                Ok(None)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn hear(packet: &ServerPacket<'_>) -> Heard {
    match packet {
        ServerPacket::ConnAck { session_present, reason, .. } => {
            Heard::ConnAck { present: *session_present, reason: *reason }
        }
        ServerPacket::Publish(publish) => Heard::Publish {
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            id: publish.packet_id,
            dup: publish.dup,
            retain: publish.retain,
        },
        ServerPacket::PubAck(ack) => Heard::PubAck(ack.packet_id, ack.reason),
        ServerPacket::PubRec(ack) => Heard::PubRec(ack.packet_id, ack.reason),
        ServerPacket::PubRel(ack) => Heard::PubRel(ack.packet_id),
        ServerPacket::PubComp(ack) => Heard::PubComp(ack.packet_id),
        ServerPacket::SubAck { packet_id, codes, .. } => Heard::SubAck(*packet_id, codes.to_vec()),
        ServerPacket::UnsubAck { packet_id, codes, .. } => {
            Heard::UnsubAck(*packet_id, codes.to_vec())
        }
        ServerPacket::PingResp => Heard::PingResp,
        _ => Heard::Other,
    }
}
