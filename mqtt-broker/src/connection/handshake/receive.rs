//! What a client says before it is let in.

use super::{Arrival, Refusal};
use crate::broker::Shared;
use crate::codec::{Auth, Connect, Frame, Packet, Property, ReasonCode, auth};
use crate::connection::inbound::METHOD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes read at a time before there is a session.
const READ_BYTES: usize = 4 * 1024;

/// Reads until there is a whole packet, and says how long it is.
pub(super) async fn read_packet(
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

/// A packet that is there.
pub(super) fn whole(buffer: &[u8], max_packet: usize) -> Result<Frame<'_>, Refusal> {
    Frame::find(buffer, max_packet).ok().flatten().ok_or(Refusal::Silent("malformed"))
}

/// Enhanced authentication (MQTT 5 §4.12): its method, the token, and what came after it.
pub(super) async fn enhanced(
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
