//! Opening a session: with the client first, and with the router once it is known who it is.

use crate::link::{MAX_BATCH, Reader, Writer, receive, send};
use crate::wire::Negotiated;
use secrecy::SecretString;
use std::io;
use std::time::Duration;
use zenoh_buffers::reader::HasReader;
use zenoh_buffers::writer::HasWriter;
use zenoh_buffers::{ZBuf, ZSlice};
use zenoh_codec::{RCodec, WCodec, Zenoh080};
use zenoh_protocol::VERSION;
use zenoh_protocol::common::{ZExtBody, ZExtUnknown, iext};
use zenoh_protocol::core::{Field, Resolution, WhatAmI, ZenohIdProto};
use zenoh_protocol::transport::{
    BatchSize, Close, InitAck, InitSyn, OpenAck, OpenSyn, TransportBody, TransportSn, close, init,
    open,
};

/// The extension of user name and password, within that of authentication.
const USER_PASSWORD: u8 = 0x2;

/// Smallest batch that a client may ask for, so that every declaration fits into one.
const MIN_BATCH: BatchSize = 2048;

/// How long the router waits for a sign of life of the gate, which shares its process.
pub(crate) const UPSTREAM_LEASE: Duration = Duration::from_secs(3600);

/// What the router offers to any client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub zid: ZenohIdProto,
    pub whatami: WhatAmI,
    pub resolution: Resolution,
    pub batch_size: BatchSize,
    pub qos: bool,
    pub patch: init::ext::PatchType,
}

/// A client that has said who it is.
#[derive(Debug)]
pub(crate) struct Hello {
    /// The id that the client chose.
    pub zid: ZenohIdProto,
    /// The token in its user name.
    pub token: Option<SecretString>,
    /// How long it may be silent.
    pub lease: Duration,
    /// The number of its first frame.
    pub initial_sn: TransportSn,
    agreed: Agreed,
}

#[derive(Clone, Copy, Debug)]
struct Agreed {
    resolution: Resolution,
    batch_size: BatchSize,
    qos: bool,
    patch: init::ext::PatchType,
    password: bool,
}

/// A session that the router has accepted.
#[derive(Debug)]
pub(crate) struct Opened {
    ack: OpenAck,
}

/// Why a session was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The connection.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// Something else than the next message of a handshake.
    #[error("another message than the next one of the handshake")]
    Unexpected,
    /// A version of the protocol, or a feature of it, that the gate needs and the client lacks.
    #[error("the client does not have what is needed: {0}")]
    Unsupported(&'static str),
    /// The router does not offer what it offered before.
    #[error("the router has changed what it offers")]
    Changed,
    /// The router closed, with this reason.
    #[error("the router refused: {0}")]
    Refused(&'static str),
}

impl HandshakeError {
    /// The reason for the client's `Close`.
    pub(crate) fn close_reason(&self) -> u8 {
        match self {
            HandshakeError::Unsupported(_) => close::reason::UNSUPPORTED,
            HandshakeError::Unexpected => close::reason::INVALID,
            HandshakeError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                close::reason::INVALID
            }
            _ => close::reason::GENERIC,
        }
    }
}

/// Asks the router what it offers. The connection is of no use afterwards.
///
/// # Errors
/// [`HandshakeError`].
pub(crate) async fn probe(
    reader: &mut Reader,
    writer: &mut Writer,
    zid: ZenohIdProto,
) -> Result<Offer, HandshakeError> {
    let everything = Agreed {
        resolution: Resolution::default(),
        batch_size: BatchSize::MAX,
        qos: true,
        patch: init::ext::PatchType::CURRENT,
        password: false,
    };
    send(writer, everything.syn(zid)).await?;
    let ack = expect_init_ack(reader).await?;
    Ok(Offer {
        zid: ack.zid,
        whatami: ack.whatami,
        resolution: ack.resolution,
        batch_size: ack.batch_size,
        qos: ack.ext_qos.is_some(),
        patch: ack.ext_patch,
    })
}

/// Talks to a client until it has said who it is. `cookie` is what it has to say in between.
///
/// # Errors
/// [`HandshakeError`].
pub(crate) async fn greet(
    reader: &mut Reader,
    writer: &mut Writer,
    offer: &Offer,
    nonce: u64,
    cookie: [u8; 16],
) -> Result<Hello, HandshakeError> {
    let TransportBody::InitSyn(first) = receive(reader, MAX_BATCH).await?.body else {
        return Err(HandshakeError::Unexpected);
    };
    let agreed = agree(offer, &first)?;
    let nonce = ZExtUnknown::new(USER_PASSWORD, false, ZExtBody::Z64(nonce));
    let ack = InitAck {
        version: VERSION,
        whatami: offer.whatami,
        zid: offer.zid,
        resolution: agreed.resolution,
        batch_size: agreed.batch_size,
        cookie: ZSlice::from(cookie.to_vec()),
        ext_qos: agreed.qos.then(init::ext::QoS::new),
        ext_qos_link: None,
        ext_auth: agreed.password.then(|| auth(nonce)).flatten().map(init::ext::Auth::new),
        ext_mlink: None,
        ext_lowlatency: None,
        ext_compression: None,
        ext_patch: agreed.patch,
        ext_region_name: None,
    };
    send(writer, ack).await?;
    let TransportBody::OpenSyn(second) = receive(reader, MAX_BATCH).await?.body else {
        return Err(HandshakeError::Unexpected);
    };
    if second.cookie.as_slice() != cookie {
        return Err(HandshakeError::Unexpected);
    }
    let token = match (&second.ext_auth, agreed.password) {
        (Some(extension), true) => user_name(&extension.value)?,
        _ => None,
    };
    let (lease, initial_sn) = (second.lease, second.initial_sn);
    Ok(Hello { zid: first.zid, token, lease, initial_sn, agreed })
}

impl Hello {
    /// What both directions of the session keep to.
    pub(crate) fn negotiated(&self) -> Negotiated {
        let resolution = self.agreed.resolution.get(Field::FrameSN);
        Negotiated { resolution, qos: self.agreed.qos }
    }

    /// Opens the session with the router, under another id than the client's.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub(crate) async fn enter(
        &self,
        reader: &mut Reader,
        writer: &mut Writer,
        zid: ZenohIdProto,
    ) -> Result<Opened, HandshakeError> {
        let agreed = &self.agreed;
        send(writer, agreed.syn(zid)).await?;
        let ack = expect_init_ack(reader).await?;
        let same = ack.resolution == agreed.resolution
            && ack.batch_size == agreed.batch_size
            && ack.ext_qos.is_some() == agreed.qos
            && ack.ext_patch == agreed.patch
            && ack.ext_lowlatency.is_none()
            && ack.ext_compression.is_none();
        if !same {
            return Err(HandshakeError::Changed);
        }
        let syn = OpenSyn {
            lease: UPSTREAM_LEASE,
            initial_sn: 0,
            cookie: ack.cookie,
            ext_qos: None,
            ext_auth: None,
            ext_mlink: None,
            ext_lowlatency: None,
            ext_compression: None,
            ext_remote_bound: None,
        };
        send(writer, syn).await?;
        match receive(reader, MAX_BATCH).await?.body {
            TransportBody::OpenAck(ack) => Ok(Opened { ack }),
            TransportBody::Close(Close { reason, .. }) => Err(refused(reason)),
            _ => Err(HandshakeError::Unexpected),
        }
    }

    /// Tells the client that its session is open.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn welcome(&self, writer: &mut Writer, opened: Opened) -> io::Result<()> {
        let accepted = ZExtUnknown::new(USER_PASSWORD, false, ZExtBody::Unit);
        let password = self.agreed.password.then(|| auth(accepted)).flatten();
        let ack = OpenAck { ext_auth: password.map(open::ext::Auth::new), ..opened.ack };
        send(writer, ack).await
    }
}

/// What both can do. What the gate does not pass on is not agreed to: other links of the same session,
/// compression, the transport of low latency.
fn agree(offer: &Offer, syn: &InitSyn) -> Result<Agreed, HandshakeError> {
    if syn.version != VERSION {
        return Err(HandshakeError::Unsupported("another version of the protocol"));
    }
    if syn.whatami == WhatAmI::Router {
        return Err(HandshakeError::Unsupported("routers connect to routers, not to a gate"));
    }
    if !syn.ext_patch.has_fragmentation_markers() {
        return Err(HandshakeError::Unsupported("marked fragments, which come with Zenoh 1.1"));
    }
    let batch_size = offer.batch_size.min(syn.batch_size);
    if batch_size < MIN_BATCH {
        return Err(HandshakeError::Unsupported("batches of 2048 bytes"));
    }
    let mut resolution = Resolution::default();
    for field in [Field::FrameSN, Field::RequestID] {
        resolution.set(field, offer.resolution.get(field).min(syn.resolution.get(field)));
    }
    let password = match &syn.ext_auth {
        Some(extension) => extensions(&extension.value)?.iter().any(is_password),
        None => false,
    };
    Ok(Agreed {
        resolution,
        batch_size,
        qos: offer.qos && syn.ext_qos.is_some(),
        patch: offer.patch.min(syn.ext_patch),
        password,
    })
}

/// The user name of the standard user and password authentication; `None` if it is empty. The password
/// says nothing: the name is signed.
fn user_name(value: &ZBuf) -> Result<Option<SecretString>, HandshakeError> {
    let all = extensions(value)?;
    let Some(ZExtUnknown { body: ZExtBody::ZBuf(body), .. }) = all.iter().find(|e| is_password(e))
    else {
        return Ok(None);
    };
    let name: Vec<u8> =
        Zenoh080::new().read(&mut body.reader()).map_err(|_| HandshakeError::Unexpected)?;
    let name = String::from_utf8(name).map_err(|_| HandshakeError::Unexpected)?;
    Ok((!name.is_empty()).then(|| name.into()))
}

fn is_password(extension: &ZExtUnknown) -> bool {
    extension.id & iext::ID_MASK == USER_PASSWORD
}

fn extensions(value: &ZBuf) -> Result<Vec<ZExtUnknown>, HandshakeError> {
    Zenoh080::new().read(&mut value.reader()).map_err(|_| HandshakeError::Unexpected)
}

fn auth(extension: ZExtUnknown) -> Option<ZBuf> {
    let mut bytes: Vec<u8> = Vec::new();
    // Nothing in an extension cannot be written.
    Zenoh080::new().write(&mut bytes.writer(), &*vec![extension]).ok()?;
    Some(bytes.into())
}

async fn expect_init_ack(reader: &mut Reader) -> Result<InitAck, HandshakeError> {
    match receive(reader, MAX_BATCH).await?.body {
        TransportBody::InitAck(ack) => Ok(ack),
        TransportBody::Close(Close { reason, .. }) => Err(refused(reason)),
        _ => Err(HandshakeError::Unexpected),
    }
}

fn refused(reason: u8) -> HandshakeError {
    HandshakeError::Refused(close::reason_to_str(reason))
}

impl Agreed {
    /// What asks for just this.
    fn syn(&self, zid: ZenohIdProto) -> InitSyn {
        InitSyn {
            version: VERSION,
            whatami: WhatAmI::Client,
            zid,
            resolution: self.resolution,
            batch_size: self.batch_size,
            ext_qos: self.qos.then(init::ext::QoS::new),
            ext_qos_link: None,
            ext_auth: None,
            ext_mlink: None,
            ext_lowlatency: None,
            ext_compression: None,
            ext_patch: self.patch,
            ext_region_name: None,
        }
    }
}
