//! The receiving side: any number of subscribers on one thread, which counts what arrives and
//! acknowledges what has to be.

use super::tally::Tally;
use super::wire;
use bulkhead_mqtt_broker::codec::{AckKind, ReasonCode, Version, ack};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// Bytes read at a time, beyond what is left of the last time.
const READ_BYTES: usize = 256 * 1024;

/// Connections that are looked at in one go.
const EVENTS: usize = 256;

/// Longest time between two looks at whether it is over.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Subscribers that have subscribed.
pub struct Subscribers {
    epoll: OwnedFd,
    clients: Vec<Client>,
    buffer: Box<[u8]>,
}

struct Client {
    stream: TcpStream,
    /// The beginning of a packet whose end has not come.
    partial: Vec<u8>,
    /// Answers that have not left.
    answers: Vec<u8>,
}

impl Subscribers {
    /// With these connections.
    pub fn new(streams: Vec<TcpStream>) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        for (stream, number) in streams.iter().zip(0..) {
            stream.set_nonblocking(true).unwrap();
            let data = epoll::EventData::new_u64(number);
            epoll::add(&epoll, stream, data, epoll::EventFlags::IN).unwrap();
        }
        let client = |stream| Client { stream, partial: Vec::new(), answers: Vec::new() };
        let clients = streams.into_iter().map(client).collect();
        Self { epoll, clients, buffer: vec![0; READ_BYTES + wire::MAX_PACKET].into() }
    }

    /// Receives until it is over.
    pub fn run(&mut self, tally: &Tally) {
        let mut events = Vec::with_capacity(EVENTS);
        while !tally.is_over() {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&TICK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll_wait: {error}"),
            }
            for event in events.drain(..) {
                let number = usize::try_from(event.data.u64()).unwrap();
                self.clients[number].receive(&mut self.buffer, tally);
            }
        }
    }
}

impl Client {
    fn receive(&mut self, buffer: &mut [u8], tally: &Tally) {
        let kept = self.partial.len();
        buffer[..kept].copy_from_slice(&self.partial);
        let filled = match self.stream.read(&mut buffer[kept..]) {
            Ok(0) => panic!("a broker closed a subscriber's connection"),
            Ok(n) => kept + n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("a subscriber's connection failed: {error}"),
        };
        let (mut used, mut messages) = (0, 0);
        let clock = tally.stopwatch();
        while let Some(frame) = wire::packet(&buffer[used..filled]) {
            used += frame.len;
            let [a, b, rest @ ..] = frame.body else { panic!("an empty packet") };
            let first = u16::from_be_bytes([*a, *b]);
            let answer = match (frame.kind(), frame.first >> 1 & 3) {
                (3, qos) => {
                    messages += 1;
                    let (id, payload) = rest[first.into()..].split_at(if qos > 0 { 2 } else { 0 });
                    clock.stop(payload);
                    let kind = if qos == 1 { AckKind::PubAck } else { AckKind::PubRec };
                    id.first_chunk().map(|id| (kind, u16::from_be_bytes(*id)))
                }
                (6, _) => Some((AckKind::PubComp, first)),
                (kind, _) => panic!("a subscriber got a packet of kind {kind}"),
            };
            if let Some((kind, id)) = answer {
                ack(&mut self.answers, Version::V311, kind, id, ReasonCode::SUCCESS);
            }
        }
        self.partial.clear();
        self.partial.extend_from_slice(&buffer[used..filled]);
        tally.arrived(messages);
        self.answer();
    }

    /// What the socket does not take goes with the answers to the next messages.
    fn answer(&mut self) {
        while !self.answers.is_empty() {
            match self.stream.write(&self.answers) {
                Ok(n) => drop(self.answers.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a subscriber's answer did not leave: {error}"),
            }
        }
    }
}
