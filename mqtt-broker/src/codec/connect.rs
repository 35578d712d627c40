//! The first packet of a connection.

use super::property::Scope;
use super::read::Reader;
use super::{DecodeError, Frame, Properties, QoS, Version, topic};
use std::fmt;

/// A CONNECT (§3.1). `Debug` hides the password and authentication data.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// What the connection speaks.
    pub version: Version,
    /// Without the session of before. In 3.1.1 the session also ends with the connection.
    pub clean_start: bool,
    /// Seconds between two packets of the client; 0: no limit.
    pub keep_alive: u16,
    /// May be empty: the server chooses one, in 3.1.1 only for a clean session.
    pub client_id: &'a str,
    /// Its properties.
    pub properties: Properties<'a>,
    /// What to publish if the connection breaks.
    pub will: Option<Will<'a>>,
    /// Who the client says it is.
    pub user_name: Option<&'a str>,
    /// The proof. In 3.1.1 there is none without a user name.
    pub password: Option<&'a [u8]>,
}

/// What is published if a connection breaks (§3.1.2.5).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// How often it may arrive.
    pub qos: QoS,
    /// It is to be kept for later subscribers.
    pub retain: bool,
    /// A topic name.
    pub topic: &'a str,
    /// Its properties.
    pub properties: Properties<'a>,
    /// The message proper, up to 65,535 bytes.
    pub payload: &'a [u8],
}

impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("properties", &self.properties)
            .field("will", &self.will)
            .field("user_name", &self.user_name)
            .field("password", &self.password.map(|_| ".."))
            .finish()
    }
}

pub(super) const CLEAN_START: u8 = 1 << 1;
pub(super) const WILL: u8 = 1 << 2;
pub(super) const WILL_QOS_SHIFT: u8 = 3;
pub(super) const WILL_RETAIN: u8 = 1 << 5;
pub(super) const PASSWORD: u8 = 1 << 6;
pub(super) const USER_NAME: u8 = 1 << 7;

impl<'a> Connect<'a> {
    pub(super) fn decode(frame: &Frame<'a>) -> Result<Self, DecodeError> {
        frame.expect_flags(0)?;
        let mut reader = Reader::new(frame.body);
        let name = reader.text()?;
        let version = match (name, reader.byte()?) {
            ("MQTT", 4) => Version::V311,
            ("MQTT", 5) => Version::V5,
            (_, level) => return Err(DecodeError::UnsupportedVersion(level)),
        };
        let flags = reader.byte()?;
        check_flags(flags, version)?;
        let keep_alive = reader.two()?;
        let properties = read_properties(&mut reader, version, Scope::CONNECT)?;
        let client_id = reader.text()?;
        let will = if flags & WILL != 0 {
            let properties = read_properties(&mut reader, version, Scope::WILL)?;
            let topic = reader.text()?;
            if !topic::is_topic_name(topic) {
                return Err(DecodeError::TopicName);
            }
            let qos = QoS::from_bits(flags >> WILL_QOS_SHIFT & 3).ok_or(WILL_QOS_3)?;
            let payload = reader.data()?;
            Some(Will { qos, retain: flags & WILL_RETAIN != 0, topic, properties, payload })
        } else {
            None
        };
        let user_name = if flags & USER_NAME != 0 { Some(reader.text()?) } else { None };
        let password = if flags & PASSWORD != 0 { Some(reader.data()?) } else { None };
        reader.end()?;
        let clean_start = flags & CLEAN_START != 0;
        Ok(Self {
            version,
            clean_start,
            keep_alive,
            client_id,
            properties,
            will,
            user_name,
            password,
        })
    }
}

const WILL_QOS_3: DecodeError = DecodeError::Malformed("a will has QoS 3");

fn check_flags(flags: u8, version: Version) -> Result<(), DecodeError> {
    if flags & 1 != 0 {
        return Err(DecodeError::Malformed("the reserved connect flag is set"));
    }
    if flags & WILL == 0 && flags & (3 << WILL_QOS_SHIFT | WILL_RETAIN) != 0 {
        return Err(DecodeError::Malformed("connect flags describe a will that is not there"));
    }
    if flags >> WILL_QOS_SHIFT & 3 == 3 {
        return Err(WILL_QOS_3);
    }
    if version == Version::V311 && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        return Err(DecodeError::Malformed("MQTT 3.1.1 has no password without a user name"));
    }
    Ok(())
}

fn read_properties<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    scope: Scope,
) -> Result<Properties<'a>, DecodeError> {
    match version {
        Version::V311 => Ok(Properties::default()),
        Version::V5 => Properties::read(reader, scope),
    }
}
