use super::inbound::{Inbound, METHOD};
use super::{Connection, Stream};
use crate::broker::Shared;
use crate::codec::{
    Auth, Connect, DecodeError, Frame, Packet, Property, ReasonCode, Version, auth, connack,
    is_topic_name,
};
use crate::hook::{Access, Attempt, Noted, Operation};
use crate::realm::{Attach, Attached, Realm, SessionKey, Will};
use crate::record::Message;
use crate::settings::{MAX_CLIENT_ID_BYTES, OWN_TOPIC_ALIASES, TOPIC_ALIASES};
use crate::upstream::{Admitted, Candidate};
use bulkhead_policy::DenyReason;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Bytes read at a time before there is a session.
const READ_BYTES: usize = 4 * 1024;

/// A connection whose lower layers are ready for CONNECT.
pub(crate) struct Arrival {
    /// The bytes.
    pub(crate) stream: Box<dyn Stream>,
    /// Where it comes from.
    pub(crate) source: IpAddr,
    /// The token in the `Authorization: Bearer` header of a WebSocket.
    pub(crate) bearer: Option<Vec<u8>>,
    /// The verified leaf of the client's certificate, in DER.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Why a client gets no session.
#[derive(Debug)]
enum Refusal {
    /// It said nothing that could be answered.
    Silent(&'static str),
    /// CONNACK says why.
    Answered(Version, ReasonCode, &'static str),
}

/// Serves a client, from its CONNECT to its end. CONNECT has to be there by `deadline`; what is
/// `pending` is dropped once it is answered.
pub(crate) async fn serve<P: Send>(
    shared: Arc<Shared>,
    mut arrival: Arrival,
    deadline: Instant,
    pending: P,
) {
    let opened = timeout_at(deadline, open(&shared, &mut arrival)).await;
    drop(pending);
    let refused = match opened {
        Ok(Ok(opened)) => {
            shared.metrics.connections.inc();
            match opened {
                Opened::Session(connected) => {
                    connected.into_connection(Arc::clone(&shared), arrival).run().await;
                }
                Opened::Relay(admitted, rest) => {
                    admitted.into_relay(arrival.stream, rest).run().await;
                }
            }
            return shared.metrics.connections.dec();
        }
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal::Silent("timeout"),
    };
    let label = match refused {
        Refusal::Silent(label) => label,
        Refusal::Answered(version, reason, label) => {
            let mut out = Vec::new();
            connack(&mut out, version, false, reason, &[]);
            // Whoever does not take it goes without.
            let _ = tokio::time::timeout(Duration::from_secs(1), async {
                arrival.stream.write_all(&out).await?;
                arrival.stream.shutdown().await
            })
            .await;
            label
        }
    };
    shared.metrics.handshakes_failed.with_label_values(&[label]).inc();
}

/// A client that is served from now on.
enum Opened {
    /// By this broker.
    Session(Box<Connected>),
    /// By the broker behind it. With what came after CONNECT.
    Relay(Box<Admitted>, Vec<u8>),
}

/// A client that has its session.
struct Connected {
    realm: Arc<Realm>,
    attached: Attached,
    access: Arc<dyn Access>,
    version: Version,
    method: Option<Box<str>>,
    keep_alive: u16,
    /// What came after CONNECT.
    rest: Vec<u8>,
}

async fn open(shared: &Arc<Shared>, arrival: &mut Arrival) -> Result<Opened, Refusal> {
    let mut buffer = Vec::new();
    let len = read_packet(shared, arrival, &mut buffer).await?;
    let rest = buffer.split_off(len);
    let frame = whole(&buffer, shared.settings.max_packet)?;
    let connect = match Packet::decode(&frame, Version::V5) {
        Ok(Packet::Connect(connect)) => connect,
        Ok(_) => return Err(Refusal::Silent("not_connect")),
        // §3.1.2.2: whoever speaks a version that is not known may not understand the answer.
        Err(DecodeError::UnsupportedVersion(level)) => {
            let version = if level > 5 { Version::V5 } else { Version::V311 };
            let reason = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
            return Err(Refusal::Answered(version, reason, "version"));
        }
        Err(_) => return Err(Refusal::Silent("malformed")),
    };
    let version = connect.version;
    let refuse = |reason, label| Refusal::Answered(version, reason, label);
    let (method, data, rest) = enhanced(shared, arrival, &connect, rest).await?;
    let client_id = client_id(&connect).map_err(|reason| refuse(reason, "client_id"))?;
    let tokens: Vec<&[u8]> = [connect.password, arrival.bearer.as_deref(), data.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    let attempt = Attempt {
        source: arrival.source,
        client_id: &client_id,
        user_name: connect.user_name,
        tokens: &tokens,
        certificate: arrival.certificate.as_deref(),
    };
    let access = shared.hook.connect(attempt).await;
    let access = access.map_err(|reason| refuse(refusing_reason(reason), reason.code()))?;
    if let Some(upstream) = &shared.upstream {
        let method = method.as_deref();
        let (client_id, source) = (&*client_id, arrival.source);
        let candidate = Candidate { connect: &connect, client_id, method, access, source };
        let admitted = upstream.admit(shared, candidate).await;
        let admitted = admitted.map_err(|(reason, label)| refuse(reason, label))?;
        return Ok(Opened::Relay(Box::new(admitted), rest));
    }
    let realm = shared.realm(&*access);
    let realm = realm.map_err(|reason| refuse(refusing_reason(reason), reason.code()))?;
    let will = will(&realm, &*access, &connect).map_err(|reason| {
        realm.denied(&*access, Operation::Will, reason);
        refuse(ReasonCode::NOT_AUTHORIZED, reason.code())
    })?;
    let terms = Terms::agree(shared, &connect, client_id, method.as_deref());
    let write_connack = |present| terms.connack(shared, &connect, present);
    let attached = realm.attach(Attach {
        key: SessionKey { device: access.device().cloned(), client_id: terms.client_id.clone() },
        access: Arc::clone(&access),
        clean_start: connect.clean_start,
        expiry: terms.expiry,
        will,
        version,
        max_packet: connect
            .properties
            .maximum_packet_size()
            .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        receive_maximum: connect
            .properties
            .receive_maximum()
            .unwrap_or(u16::MAX)
            .min(shared.settings.max_in_flight),
        alias_maximum: connect.properties.topic_alias_maximum().unwrap_or(0).min(OWN_TOPIC_ALIASES),
        connack: &write_connack,
    });
    let attached = attached.map_err(|reason| {
        realm.denied(&*access, Operation::Connect, reason);
        refuse(refusing_reason(reason), reason.code())
    })?;
    access.note(Noted::Connected);
    // What has changed since the hook was asked did not find the session yet.
    realm.reassess_session(&attached.session);
    let keep_alive = terms.server_keep_alive.unwrap_or(connect.keep_alive);
    let connected = Connected { realm, attached, access, version, method, keep_alive, rest };
    Ok(Opened::Session(Box::new(connected)))
}

impl Connected {
    fn into_connection(self, shared: Arc<Shared>, arrival: Arrival) -> Connection {
        // §3.1.2.10: one and a half times the keep alive.
        let silence = Duration::from_millis(u64::from(self.keep_alive) * 1500);
        Connection {
            stream: arrival.stream,
            shared,
            realm: self.realm,
            session: self.attached.session,
            generation: self.attached.generation,
            access: self.access,
            rights: u64::MAX,
            version: self.version,
            source: arrival.source,
            method: self.method,
            keep_alive: (self.keep_alive > 0).then_some(silence),
            last_heard: Instant::now(),
            partial: self.rest,
            out: Vec::new(),
            sent: 0,
            behind: 0,
            unflushed: false,
            is_greeted: false,
            inbound: Inbound::default(),
        }
    }
}

/// Reads until there is a whole packet, and says how long it is.
async fn read_packet(
    shared: &Shared,
    arrival: &mut Arrival,
    buffer: &mut Vec<u8>,
) -> Result<usize, Refusal> {
    loop {
        match Frame::find(buffer, shared.settings.max_packet) {
            Ok(Some(frame)) => return Ok(frame.len),
            Ok(None) => {}
            Err(_) => return Err(Refusal::Silent("malformed")),
        }
        buffer.reserve(READ_BYTES);
        match arrival.stream.read_buf(buffer).await {
            Ok(n) if n > 0 => {}
            _ => return Err(Refusal::Silent("gone")),
        }
    }
}

fn whole(buffer: &[u8], max_packet: usize) -> Result<Frame<'_>, Refusal> {
    Frame::find(buffer, max_packet).ok().flatten().ok_or(Refusal::Silent("malformed"))
}

/// Enhanced authentication (MQTT 5 §4.12): its method, the token, and what came after it.
async fn enhanced(
    shared: &Shared,
    arrival: &mut Arrival,
    connect: &Connect<'_>,
    mut rest: Vec<u8>,
) -> Result<(Option<Box<str>>, Option<Vec<u8>>, Vec<u8>), Refusal> {
    let Some(method) = connect.properties.authentication_method() else {
        return Ok((None, None, rest));
    };
    if method != METHOD {
        let reason = ReasonCode::BAD_AUTHENTICATION_METHOD;
        return Err(Refusal::Answered(connect.version, reason, "method"));
    }
    let named = Some(Box::from(method));
    if let Some(data) = connect.properties.authentication_data() {
        return Ok((named, Some(data.to_vec()), rest));
    }
    let mut out = Vec::new();
    let properties = [Property::AuthenticationMethod(method)];
    auth(&mut out, ReasonCode::CONTINUE_AUTHENTICATION, &properties);
    arrival.stream.write_all(&out).await.map_err(|_| Refusal::Silent("gone"))?;
    arrival.stream.flush().await.map_err(|_| Refusal::Silent("gone"))?;
    let len = read_packet(shared, arrival, &mut rest).await?;
    let after = rest.split_off(len);
    let frame = whole(&rest, shared.settings.max_packet)?;
    match Packet::decode(&frame, connect.version) {
        Ok(Packet::Auth(Auth { reason: ReasonCode::CONTINUE_AUTHENTICATION, properties }))
            if properties.authentication_method() == Some(METHOD) =>
        {
            Ok((named, properties.authentication_data().map(<[u8]>::to_vec), after))
        }
        _ => Err(Refusal::Answered(connect.version, ReasonCode::PROTOCOL_ERROR, "malformed")),
    }
}

/// The client id, or one that the broker makes up (MQTT 5 §3.1.3.1).
fn client_id<'a>(connect: &Connect<'a>) -> Result<Cow<'a, str>, ReasonCode> {
    if connect.client_id.len() > MAX_CLIENT_ID_BYTES {
        return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    }
    if !connect.client_id.is_empty() {
        return Ok(Cow::Borrowed(connect.client_id));
    }
    if connect.version == Version::V311 && !connect.clean_start {
        return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    }
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| ReasonCode::SERVER_UNAVAILABLE)?;
    Ok(Cow::Owned(format!("auto-{:032x}", u128::from_be_bytes(random))))
}

/// The will, if the client may publish it.
fn will(
    realm: &Realm,
    access: &dyn Access,
    connect: &Connect<'_>,
) -> Result<Option<Will>, DenyReason> {
    let Some(will) = &connect.will else { return Ok(None) };
    let topic = realm.mounted(will.topic);
    if !is_topic_name(&topic) {
        return Err(DenyReason::NameInvalid);
    }
    let response = will.properties.response_topic().map(|response| realm.mounted(response));
    check_will(access, &topic, response.as_deref(), will.payload.len())?;
    let properties = super::inbound::kept_properties(will.properties);
    let message = Message {
        topic: &topic,
        properties: &properties,
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        packet_id: 0,
        deadline: None,
    };
    Ok(Some(Will {
        record: message.to_bytes(),
        expiry: will.properties.message_expiry(),
        delay: will.properties.will_delay().unwrap_or(0),
    }))
}

/// Whether a client may have a will: of this topic, with this response topic, and of so many bytes.
pub(crate) fn check_will(
    access: &dyn Access,
    topic: &str,
    response: Option<&str>,
    payload: usize,
) -> Result<(), DenyReason> {
    access.publish(topic)?;
    if response.is_some_and(|name| !is_topic_name(name) || !access.receives(name)) {
        return Err(DenyReason::ResponseTopicDenied);
    }
    let too_large = |limit| u64::try_from(payload).is_ok_and(|bytes| bytes > limit);
    if access.quotas().payload_bytes.is_some_and(too_large) {
        return Err(DenyReason::PayloadQuotaExceeded);
    }
    Ok(())
}

/// What the broker grants of what CONNECT asks for.
struct Terms {
    client_id: Arc<str>,
    expiry: u32,
    server_keep_alive: Option<u16>,
    method: Option<Box<str>>,
}

impl Terms {
    fn agree(
        shared: &Shared,
        connect: &Connect<'_>,
        client_id: Cow<'_, str>,
        method: Option<&str>,
    ) -> Self {
        let settings = &shared.settings;
        let asked = match connect.version {
            Version::V5 => connect.properties.session_expiry().unwrap_or(0),
            // MQTT 3.1.1 §3.1.2.4: a session that is not clean is kept.
            Version::V311 if connect.clean_start => 0,
            Version::V311 => u32::MAX,
        };
        let longest = settings.max_keep_alive;
        let is_too_long = connect.keep_alive == 0 || connect.keep_alive > longest;
        let shortened = connect.version == Version::V5 && is_too_long;
        Self {
            client_id: client_id.into(),
            expiry: asked.min(settings.max_session_expiry),
            server_keep_alive: shortened.then_some(longest),
            method: method.map(Box::from),
        }
    }

    fn connack(&self, shared: &Shared, connect: &Connect<'_>, present: bool) -> Vec<u8> {
        let settings = &shared.settings;
        let asked = connect.properties.session_expiry().unwrap_or(0);
        let max_packet = u32::try_from(settings.max_packet).unwrap_or(u32::MAX);
        let mut properties = vec![
            Property::ReceiveMaximum(settings.max_in_flight),
            Property::MaximumPacketSize(max_packet),
            Property::TopicAliasMaximum(TOPIC_ALIASES),
        ];
        if self.expiry != asked {
            properties.push(Property::SessionExpiry(self.expiry));
        }
        if connect.client_id.is_empty() {
            properties.push(Property::AssignedClientId(&self.client_id));
        }
        properties.extend(self.server_keep_alive.map(Property::ServerKeepAlive));
        properties.extend(self.method.as_deref().map(Property::AuthenticationMethod));
        let mut out = Vec::new();
        connack(&mut out, connect.version, present, ReasonCode::SUCCESS, &properties);
        out
    }
}

/// The reason in CONNACK for why a client is refused.
pub(crate) fn refusing_reason(reason: DenyReason) -> ReasonCode {
    match reason {
        DenyReason::ConnectionQuotaExceeded | DenyReason::SessionQuotaExceeded => {
            ReasonCode::QUOTA_EXCEEDED
        }
        DenyReason::AuthRateExceeded | DenyReason::SourceRateExceeded => {
            ReasonCode::CONNECTION_RATE_EXCEEDED
        }
        DenyReason::KeysUnavailable | DenyReason::DirectoryUnavailable | DenyReason::Internal => {
            ReasonCode::SERVER_UNAVAILABLE
        }
        DenyReason::Overloaded => ReasonCode::SERVER_BUSY,
        DenyReason::TokenMissing
        | DenyReason::TokenMalformed
        | DenyReason::TokenTooLarge
        | DenyReason::CarrierConflict
        | DenyReason::SignatureInvalid
        | DenyReason::TokenExpired => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        _ => ReasonCode::NOT_AUTHORIZED,
    }
}
