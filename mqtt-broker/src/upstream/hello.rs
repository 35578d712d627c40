//! CONNECT to the broker and its answer.

use super::names::{self, Names};
use super::wills;
use super::{Limits, Upstream};
use crate::codec::{
    self, Connect, DecodeError, Frame, Properties, PropertiesBuf, Property, ReasonCode,
    ServerPacket, Version, Will, connack,
};
use crate::connection::{Stream, check_will};
use crate::hook::{Access, Hook};
use crate::settings::{Settings, TOPIC_ALIASES};
use bulkhead_policy::{DenyReason, Verdict, service};
use secrecy::ExposeSecret;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest CONNACK of the broker, in bytes.
const MAX_CONNACK: usize = 64 * 1024;

/// Bytes that a packet may get on its way besides the names before its own: its lengths grow.
const MORE_BYTES: usize = 16;

/// Longest keep alive towards the broker, in seconds: the front itself sees to it.
const KEEP_ALIVE: u16 = 120;

/// Why the broker has no connection for a client.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Network(#[from] io::Error),
    #[error("its answer cannot be read: {0}")]
    Decode(#[from] DecodeError),
    #[error("its answer is no CONNACK")]
    Unexpected,
    #[error("no answer in time")]
    Timeout,
    #[error("it refuses: {0}")]
    Refused(ReasonCode),
}

impl Failure {
    /// What the client is told.
    pub(super) fn reason(&self) -> ReasonCode {
        match self {
            // What is about the client. Everything else is between the front and the broker.
            Self::Refused(
                reason @ (ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
                | ReasonCode::CLIENT_IDENTIFIER_NOT_VALID
                | ReasonCode::SERVER_BUSY
                | ReasonCode::PACKET_TOO_LARGE
                | ReasonCode::QUOTA_EXCEEDED
                | ReasonCode::PAYLOAD_FORMAT_INVALID
                | ReasonCode::RETAIN_NOT_SUPPORTED
                | ReasonCode::QOS_NOT_SUPPORTED
                | ReasonCode::CONNECTION_RATE_EXCEEDED),
            ) => *reason,
            _ => ReasonCode::SERVER_UNAVAILABLE,
        }
    }

    /// Whether the broker does not want the front itself.
    pub(super) fn is_credentials(&self) -> bool {
        matches!(
            self,
            Self::Refused(
                ReasonCode::BAD_USER_NAME_OR_PASSWORD
                    | ReasonCode::NOT_AUTHORIZED
                    | ReasonCode::BANNED
                    | ReasonCode::BAD_AUTHENTICATION_METHOD
            )
        )
    }

    /// The metric label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Network(_) => "network",
            Self::Decode(_) | Self::Unexpected => "malformed",
            Self::Timeout => "timeout",
            Self::Refused(_) => "refused",
        }
    }
}

/// The answer to CONNECT, and what came after it.
pub(super) struct Answer {
    buffer: Vec<u8>,
    /// Bytes of the CONNACK.
    len: usize,
}

impl Answer {
    /// The CONNACK of a broker that accepts.
    fn read(&self, version: Version) -> Result<(bool, Properties<'_>), Failure> {
        let frame = Frame::find(&self.buffer, MAX_CONNACK)?.ok_or(Failure::Unexpected)?;
        match ServerPacket::decode(&frame, version)? {
            ServerPacket::ConnAck { session_present, reason: ReasonCode::SUCCESS, properties } => {
                Ok((session_present, properties))
            }
            ServerPacket::ConnAck { reason, .. } => Err(Failure::Refused(reason)),
            _ => Err(Failure::Unexpected),
        }
    }

    /// What came after the CONNACK.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.buffer.split_off(self.len)
    }
}

/// Says CONNECT, and waits for the answer. The caller limits how long that may take.
pub(super) async fn introduce(
    stream: &mut Box<dyn Stream>,
    packet: &[u8],
) -> Result<Answer, Failure> {
    stream.write_all(packet).await?;
    stream.flush().await?;
    let mut buffer = Vec::new();
    loop {
        if let Some(frame) = Frame::find(&buffer, MAX_CONNACK)? {
            let len = frame.len;
            return Ok(Answer { buffer, len });
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// A CONNECT of the front's own.
pub(super) fn own_connect(upstream: &Upstream, client_id: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write(
        &mut out,
        upstream,
        &Connect {
            // Every broker speaks it.
            version: Version::V311,
            clean_start: true,
            keep_alive: KEEP_ALIVE,
            client_id,
            properties: Properties::default(),
            will: None,
            user_name: None,
            password: None,
        },
    );
    out
}

/// A CONNECT to the session of a client that has gone.
pub(super) fn resume(upstream: &Upstream, client_id: &str, expiry: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let properties = PropertiesBuf::from_iter([
        Property::SessionExpiry(expiry),
        // Nothing is wanted of what waits there.
        Property::ReceiveMaximum(1),
    ]);
    write(
        &mut out,
        upstream,
        &Connect {
            version: Version::V5,
            clean_start: false,
            keep_alive: KEEP_ALIVE,
            client_id,
            properties: properties.as_properties(),
            will: None,
            user_name: None,
            password: None,
        },
    );
    out
}

/// Whether the broker accepts a CONNECT of the front's own.
pub(super) fn accepts(answer: &Answer, version: Version) -> Result<(), Failure> {
    answer.read(version).map(drop)
}

/// With the front's own user and password: what the client showed goes no further.
fn write(out: &mut Vec<u8>, upstream: &Upstream, connect: &Connect<'_>) {
    let secrets = upstream.dialer.secrets();
    let password = secrets.password.as_ref().map(|password| password.expose_secret().as_bytes());
    codec::connect(out, &Connect { user_name: upstream.dialer.user(), password, ..*connect });
}

/// What is asked of the broker for a client.
pub(super) struct Request {
    /// CONNECT.
    pub(super) packet: Vec<u8>,
    pub(super) limits: Limits,
    pub(super) will: Option<wills::Will>,
    /// Seconds of keep alive towards the broker.
    keep_alive: u16,
    /// Seconds that the session outlives the connection.
    expiry: u32,
}

impl Request {
    /// Of what a client asks the front for.
    ///
    /// # Errors
    /// Why its will is refused.
    pub(super) fn of(
        upstream: &Upstream,
        settings: &Settings,
        names: &Names,
        (hook, access): (&dyn Hook, &dyn Access),
        connect: &Connect<'_>,
        client_id: &str,
    ) -> Verdict<Self> {
        let asked = connect.properties;
        let is_v5 = connect.version == Version::V5;
        let more = names.len() * if is_v5 { 2 } else { 1 } + MORE_BYTES;
        let client = asked
            .maximum_packet_size()
            .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let from_broker = client.min(settings.max_packet) + more;
        let limits = Limits { client, from_broker, to_broker: usize::MAX };
        let longest = settings.max_session_expiry;
        let expiry = match connect.version {
            Version::V5 => asked.session_expiry().unwrap_or(0).min(longest),
            // MQTT 3.1.1 §3.1.2.4: a session that is not clean is kept, for as long as the broker
            // likes.
            Version::V311 if connect.clean_start => 0,
            Version::V311 => longest,
        };
        let receive_maximum =
            asked.receive_maximum().unwrap_or(u16::MAX).min(settings.max_in_flight);
        let keep_alive = match connect.keep_alive {
            0 => KEEP_ALIVE,
            seconds => seconds.min(KEEP_ALIVE),
        };
        let mut properties = PropertiesBuf::new();
        if is_v5 {
            properties.push(Property::SessionExpiry(expiry));
            properties.push(Property::ReceiveMaximum(receive_maximum));
            let most = u32::try_from(from_broker).unwrap_or(u32::MAX);
            properties.push(Property::MaximumPacketSize(most));
            let problems = asked.request_problem_information();
            problems
                .into_iter()
                .for_each(|p| properties.push(Property::RequestProblemInformation(p)));
        }
        let id = names::client_id(access, upstream.dialer.naming().prefix, client_id);
        let mut packet = Vec::new();
        let mut own_will = None;
        let say = |packet: &mut Vec<u8>, will| {
            write(
                packet,
                upstream,
                &Connect {
                    version: connect.version,
                    clean_start: connect.clean_start,
                    keep_alive,
                    client_id: &id,
                    properties: properties.as_properties(),
                    will,
                    user_name: None,
                    password: None,
                },
            );
        };
        match &connect.will {
            None => say(&mut packet, None),
            Some(will) => {
                let topic = names.topic(hook, access, will.topic)?;
                let response = will.properties.response_topic();
                let response = response.map(|said| names.response(hook, access, will.topic, said));
                let response = response.transpose().map_err(|_| DenyReason::ResponseTopicDenied)?;
                let mounted = topic.mounted();
                let answers_to = response.as_ref().map(|response| response.mounted());
                check_will(access, mounted, answers_to, will.payload.len())?;
                own_will = Some(wills::Will {
                    topic: mounted.into(),
                    bytes: will.payload.len(),
                    delay: will.properties.will_delay().unwrap_or(0),
                    client_id: id.as_str().into(),
                });
                let properties: PropertiesBuf = will
                    .properties
                    .iter()
                    .map(|property| {
                        match (property, response.as_ref().map(|response| &*response.wire)) {
                            (Property::ResponseTopic(_), Some(response)) => {
                                Property::ResponseTopic(response)
                            }
                            (property, _) => property,
                        }
                    })
                    .collect();
                let properties = properties.as_properties();
                say(&mut packet, Some(Will { topic: &topic.wire, properties, ..*will }));
            }
        }
        Ok(Self { packet, limits, will: own_will, keep_alive, expiry })
    }

    /// Reads the broker's answer, and writes that of the front.
    ///
    /// # Errors
    /// What is wrong with it, or that it refuses.
    pub(super) fn answered(
        mut self,
        settings: &Settings,
        names: &Names,
        connect: &Connect<'_>,
        client_id: &str,
        method: Option<&str>,
        answer: &Answer,
    ) -> Result<Terms, Failure> {
        let (present, granted) = answer.read(connect.version)?;
        if let Some(most) = granted.maximum_packet_size() {
            self.limits.to_broker = usize::try_from(most).unwrap_or(usize::MAX);
        }
        let is_v5 = connect.version == Version::V5;
        let longest = settings.max_keep_alive;
        let is_too_long = connect.keep_alive == 0 || connect.keep_alive > longest;
        let server_keep_alive = (is_v5 && is_too_long).then_some(longest);
        let expiry = granted.session_expiry().unwrap_or(self.expiry);
        let mut out = Vec::new();
        let more = names.len() * 2 + MORE_BYTES;
        let max_packet = settings.max_packet.min(self.limits.to_broker.saturating_sub(more).max(1));
        let receive_maximum =
            granted.receive_maximum().unwrap_or(u16::MAX).min(settings.max_in_flight);
        let mut properties = vec![
            Property::ReceiveMaximum(receive_maximum),
            Property::MaximumPacketSize(u32::try_from(max_packet).unwrap_or(u32::MAX)),
            Property::TopicAliasMaximum(TOPIC_ALIASES),
        ];
        if expiry != connect.properties.session_expiry().unwrap_or(0) {
            properties.push(Property::SessionExpiry(expiry));
        }
        if connect.client_id.is_empty() {
            properties.push(Property::AssignedClientId(client_id));
        }
        properties.extend(server_keep_alive.map(Property::ServerKeepAlive));
        properties.extend(method.map(Property::AuthenticationMethod));
        if names.is_service() {
            let offer = Property::UserProperty(service::OFFERS, service::TENANT_NAMES);
            properties.push(offer);
        }
        // What the broker can do is true of the front too. Where it wants its clients to go or to
        // answer is not.
        properties.extend(granted.iter().filter(|property| {
            matches!(
                property,
                Property::MaximumQos(_)
                    | Property::RetainAvailable(_)
                    | Property::WildcardSubscriptionAvailable(_)
                    | Property::SubscriptionIdentifiersAvailable(_)
                    | Property::SharedSubscriptionAvailable(_)
            )
        }));
        connack(&mut out, connect.version, present, ReasonCode::SUCCESS, &properties);
        Ok(Terms {
            connack: out,
            goes_on: present,
            limits: self.limits,
            will: self.will,
            keep_alive: server_keep_alive.unwrap_or(connect.keep_alive),
            broker_keep_alive: granted.server_keep_alive().unwrap_or(self.keep_alive),
            expiry,
        })
    }
}

/// What holds between client, front and broker.
pub(super) struct Terms {
    /// What the client is told.
    pub(super) connack: Vec<u8>,
    /// Whether the broker has the session of before.
    pub(super) goes_on: bool,
    pub(super) limits: Limits,
    pub(super) will: Option<wills::Will>,
    /// Seconds of keep alive of the client; 0: none.
    pub(super) keep_alive: u16,
    /// Seconds of keep alive towards the broker; 0: none.
    pub(super) broker_keep_alive: u16,
    /// Seconds that the session outlives the connection.
    pub(super) expiry: u32,
}
