use std::time::Duration;
use zenoh_buffers::writer::HasWriter;
use zenoh_buffers::{ZBuf, ZSlice};
use zenoh_codec::{WCodec, Zenoh080};
use zenoh_protocol::VERSION;
use zenoh_protocol::common::{ZExtBody, ZExtUnknown, ZExtZ64, ZExtZBuf};
use zenoh_protocol::core::{Resolution, WhatAmI, ZenohIdProto};
use zenoh_protocol::transport::{BatchSize, InitSyn, OpenSyn, TransportSn, init, open};

/// The extension of user name and password, within that of authentication.
const USER_PASSWORD: u8 = 0x2;

/// Everything that a raw client says while it opens a session.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The version of the protocol.
    pub version: u8,
    /// What it says it is.
    pub whatami: WhatAmI,
    /// What it calls itself.
    pub zid: ZenohIdProto,
    /// How large its numbers are.
    pub resolution: Resolution,
    /// Its largest batch.
    pub batch_size: BatchSize,
    /// Whether it has priorities.
    pub qos: bool,
    /// 1 for marked fragments.
    pub patch: u8,
    /// How it says who it is.
    pub authentication: Authentication,
    /// Whether it offers what the gate does not agree to: other links of the same session, compression,
    /// low latency, a region.
    pub offers: bool,
    /// What it repeats in place of the cookie.
    pub cookie: Option<Vec<u8>>,
    /// How long it may be silent.
    pub lease: Duration,
    /// The number of its first frame.
    pub initial_sn: TransportSn,
}

/// How a raw client says who it is.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// Not at all.
    None,
    /// It announces a user name, and says none.
    Announced,
    /// By user name.
    User(Vec<u8>),
    /// It says a user name that it has not announced.
    Unannounced(Vec<u8>),
    /// With these bytes as extensions, in both messages.
    Garbage(Vec<u8>),
}

impl Greeting {
    /// A client as Zenoh's library is by default, with a token as user name.
    pub fn new(token: &str) -> Self {
        Self::with(Authentication::User(token.as_bytes().to_vec()))
    }

    /// The same, with something else than a token.
    pub fn with(authentication: Authentication) -> Self {
        Self {
            version: VERSION,
            whatami: WhatAmI::Client,
            zid: ZenohIdProto::rand(),
            resolution: Resolution::default(),
            batch_size: BatchSize::MAX,
            qos: true,
            patch: 1,
            authentication,
            offers: false,
            cookie: None,
            lease: Duration::from_secs(60),
            initial_sn: 0,
        }
    }

    /// Calls itself so.
    #[must_use]
    pub fn zid(self, zid: ZenohIdProto) -> Self {
        Self { zid, ..self }
    }

    /// Its first message.
    pub fn init_syn(&self) -> InitSyn {
        let announced = || extensions(ZExtUnknown::new(USER_PASSWORD, false, ZExtBody::Unit));
        let patch = init::ext::PatchType::new(self.patch);
        InitSyn {
            version: self.version,
            whatami: self.whatami,
            zid: self.zid,
            resolution: self.resolution,
            batch_size: self.batch_size,
            ext_qos: self.qos.then(init::ext::QoS::new),
            ext_qos_link: None,
            ext_auth: match &self.authentication {
                Authentication::None | Authentication::Unannounced(_) => None,
                Authentication::Announced | Authentication::User(_) => {
                    Some(ZExtZBuf::new(announced()))
                }
                Authentication::Garbage(bytes) => Some(ZExtZBuf::new(bytes.clone().into())),
            },
            ext_mlink: self.offers.then(|| ZExtZBuf::new(vec![0; 64].into())),
            ext_lowlatency: self.offers.then(init::ext::LowLatency::new),
            ext_compression: self.offers.then(init::ext::Compression::new),
            ext_patch: patch,
            ext_region_name: self.offers.then(|| ZExtZBuf::new(b"globex".to_vec().into())),
        }
    }

    /// Its second message.
    pub fn open_syn(&self, cookie: ZSlice) -> OpenSyn {
        let said = match &self.authentication {
            Authentication::None | Authentication::Announced => None,
            Authentication::User(user) | Authentication::Unannounced(user) => {
                Some(extensions(user_password(user)))
            }
            Authentication::Garbage(bytes) => Some(bytes.clone().into()),
        };
        OpenSyn {
            lease: self.lease,
            initial_sn: self.initial_sn,
            cookie: self.cookie.clone().map_or(cookie, ZSlice::from),
            ext_qos: None,
            ext_auth: said.map(ZExtZBuf::new),
            ext_mlink: self.offers.then(|| ZExtZBuf::new(vec![0; 64].into())),
            ext_lowlatency: self.offers.then(open::ext::LowLatency::new),
            ext_compression: self.offers.then(open::ext::Compression::new),
            ext_remote_bound: self.offers.then(|| ZExtZ64::new(1)),
        }
    }
}

fn user_password(user: &[u8]) -> ZExtUnknown {
    let mut body = Vec::new();
    let (codec, mut writer) = (Zenoh080::new(), (&mut body).writer());
    codec.write(&mut writer, user).unwrap();
    codec.write(&mut writer, [0_u8; 32].as_slice()).unwrap();
    ZExtUnknown::new(USER_PASSWORD, false, ZExtBody::ZBuf(body.into()))
}

fn extensions(one: ZExtUnknown) -> ZBuf {
    let mut bytes: Vec<u8> = Vec::new();
    Zenoh080::new().write(&mut (&mut bytes).writer(), &*vec![one]).unwrap();
    bytes.into()
}
