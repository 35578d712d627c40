//! From a client's first byte to its session.

mod receive;
mod terms;
mod will;

pub(crate) use will::check_will;

use super::inbound::Inbound;
use super::{Connection, Stream};
use crate::broker::Shared;
use crate::codec::{DecodeError, Packet, ReasonCode, Version, connack};
use crate::hook::{Access, Attempt, Noted, Operation};
use crate::realm::{Attach, Attached, Realm, SessionKey};
use crate::settings::OWN_TOPIC_ALIASES;
use crate::upstream::{Admitted, Candidate};
use bulkhead_policy::DenyReason;
use receive::{enhanced, read_packet, whole};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use terms::{Terms, client_id};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

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

impl Refusal {
    /// Its `cause` in the metrics.
    const fn label(&self) -> &'static str {
        match self {
            Self::Silent(label) | Self::Answered(_, _, label) => label,
        }
    }
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
                    admitted.into_relay(arrival, rest).run().await;
                }
            }
            return shared.metrics.connections.dec();
        }
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal::Silent("timeout"),
    };
    // Counted before it is told: whoever was refused finds it in the metrics.
    shared.metrics.handshakes_failed.with_label_values(&[refused.label()]).inc();
    if let Refusal::Answered(version, reason, _) = refused {
        let mut out = Vec::new();
        connack(&mut out, version, false, reason, &[]);
        // Whoever does not take it goes without.
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            arrival.stream.write_all(&out).await?;
            arrival.stream.shutdown().await
        })
        .await;
    }
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
    let will = will::agree(&realm, &*access, &connect).map_err(|reason| {
        realm.denied(&*access, Operation::Will, reason);
        refuse(ReasonCode::NOT_AUTHORIZED, reason.code())
    })?;
    let terms = Terms::agree(shared, &connect, client_id, method.as_deref());
    let write_connack = |present| terms.connack(shared, &connect, access.scope(), present);
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
            certificate: arrival.certificate,
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

/// The reason in CONNACK for why a client is refused.
pub(crate) fn refusing_reason(reason: DenyReason) -> ReasonCode {
    match reason {
        DenyReason::ConnectionQuotaExceeded
        | DenyReason::SessionQuotaExceeded
        | DenyReason::DailyQuotaExceeded => ReasonCode::QUOTA_EXCEEDED,
        DenyReason::AuthRateExceeded | DenyReason::SourceRateExceeded => {
            ReasonCode::CONNECTION_RATE_EXCEEDED
        }
        DenyReason::KeysUnavailable
        | DenyReason::DirectoryUnavailable
        | DenyReason::UsageUnavailable
        | DenyReason::Internal => ReasonCode::SERVER_UNAVAILABLE,
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
