//! Bytes of both sides: as far as the sockets let it, and as far as the other side keeps up.

use super::{End, Relay};
use crate::codec::{DecodeError, Frame, Packet, ServerPacket};
use crate::upstream::pipe::{Pipe, poll_read};
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Bytes that wait for one side before nothing more is read from the other.
const WAITING_BYTES: usize = 256 * 1024;

/// Bytes that wait for one side before nothing more is read from that side itself: whoever does not
/// take answers may not ask for more. Besides, there is room for one packet of the other side.
const UNTAKEN_BYTES: usize = 4 * 1024 * 1024;

/// Who sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Broker,
}

impl Relay {
    pub(super) fn pipe(&mut self, side: Side) -> &mut Pipe {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }

    /// Whether there is room for what a side sends.
    pub(super) fn takes_from(&self, side: Side) -> bool {
        let (own, other) = match side {
            Side::Client => (&self.client, &self.broker),
            Side::Broker => (&self.broker, &self.client),
        };
        let untaken = UNTAKEN_BYTES.saturating_add(self.shared.settings.max_packet);
        other.waiting() < WAITING_BYTES
            && own.waiting() < untaken
            && (side == Side::Broker
                || (!self.requests.are_many() && self.up.reauthentication.is_none()))
    }

    /// Sends and reads as far as the sockets let it.
    pub(super) fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut progress = false;
        match self.client.poll_send(cx) {
            Poll::Ready(Ok(())) => progress = true,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
            Poll::Pending => {}
        }
        match self.broker.poll_send(cx) {
            Poll::Ready(Ok(())) => {
                progress = true;
                self.pulse.last_sent = Instant::now();
                if self.pulse.asked.is_some() {
                    // It takes what it is sent, so it gets time to answer.
                    self.pulse.asked = Some(self.pulse.last_sent);
                }
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Err(self.broker_ends())),
            Poll::Pending => {}
        }
        // What is held comes first, or the end would overtake it.
        if !self.client.is_held && self.takes_from(Side::Client) {
            let read = poll_read(
                self,
                cx,
                |relay| &mut relay.client,
                |relay, bytes| {
                    relay.last_heard = Instant::now();
                    relay.receive(Side::Client, bytes)
                },
            );
            match read {
                Poll::Ready(Ok(received)) => {
                    progress = true;
                    if let Err(end) = received {
                        return Poll::Ready(Err(end));
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Pending => {}
            }
        }
        if !self.broker.is_held && self.takes_from(Side::Broker) {
            let read = poll_read(
                self,
                cx,
                |relay| &mut relay.broker,
                |relay, bytes| {
                    relay.pulse.asked = None;
                    relay.receive(Side::Broker, bytes)
                },
            );
            match read {
                Poll::Ready(Ok(received)) => {
                    progress = true;
                    if let Err(end) = received {
                        return Poll::Ready(Err(end));
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(self.broker_ends())),
                Poll::Pending => {}
            }
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// The broker has closed its end. If a newer connection of the client has made it do so, that is
    /// the reason.
    fn broker_ends(&self) -> End {
        self.seat.handle.ending().unwrap_or(End::BrokerGone)
    }

    /// Takes bytes of a side, and does what its packets ask for.
    pub(super) fn receive(&mut self, side: Side, bytes: &[u8]) -> Result<(), End> {
        // They may have changed while there was nothing to do.
        self.look_at_rights()?;
        let mut joined = std::mem::take(&mut self.pipe(side).rest);
        let outcome;
        if joined.is_empty() {
            let (used, result) = self.packets(side, bytes);
            joined = bytes.get(used..).unwrap_or_default().to_vec();
            outcome = result;
        } else {
            joined.extend_from_slice(bytes);
            let (used, result) = self.packets(side, &joined);
            joined.drain(..used);
            outcome = result;
        }
        self.pipe(side).rest = if joined.is_empty() { Vec::new() } else { joined };
        self.access.count(&mut self.up.uncounted);
        outcome
    }

    fn packets(&mut self, side: Side, bytes: &[u8]) -> (usize, Result<(), End>) {
        let mut used = 0;
        self.pipe(side).is_held = false;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            if !self.takes_from(side) {
                self.pipe(side).is_held = true;
                break;
            }
            let limit = match side {
                Side::Client => self.shared.settings.max_packet,
                Side::Broker => self.limits.from_broker,
            };
            let frame = match Frame::find(rest, limit) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return (used, Err(wrong(side, error))),
            };
            used += frame.len;
            let whole = rest.get(..frame.len).unwrap_or_default();
            let outcome = match side {
                Side::Client => match Packet::decode(&frame, self.version) {
                    Ok(packet) => self.take_from_client(packet, whole),
                    Err(error) => Err(wrong(side, error)),
                },
                Side::Broker => match ServerPacket::decode(&frame, self.version) {
                    Ok(packet) => self.take_from_broker(packet, whole),
                    Err(error) => Err(wrong(side, error)),
                },
            };
            if outcome.is_err() {
                return (used, outcome);
            }
        }
        (used, Ok(()))
    }
}

fn wrong(side: Side, error: DecodeError) -> End {
    match side {
        Side::Client => End::Closed(error.reason()),
        Side::Broker => End::BrokerBroken(match error {
            DecodeError::Malformed(what) | DecodeError::Protocol(what) => what,
            DecodeError::TooLarge => "a packet is larger than what is accepted",
            _ => "a packet cannot be read",
        }),
    }
}
