//! The sending side: packets that were encoded before, written as many at a time as may be.

use super::tally::{STAMP_BYTES, Tally};
use super::wire;
use bulkhead_mqtt_broker::codec::QoS;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Bytes of QoS 0 that are written at a time.
const BATCH_BYTES: usize = 32 * 1024;

/// Bytes that the system takes ahead of the broker; by itself it would take megabytes, and a slow
/// broker would be at them for seconds.
const AHEAD_BYTES: usize = 128 * 1024;

/// Windows in a ring: far enough apart that no packet id is used again too early.
const WINDOWS: u16 = 8;

/// Sends messages of one kind; a thread of its own runs it.
pub enum Publisher {
    /// QoS 0, on several connections in turn.
    Free(Vec<Free>),
    /// QoS 1 and 2, on one.
    Windowed(Windowed),
}

/// One connection that sends without being answered.
pub struct Free {
    stream: TcpStream,
    batch: Vec<u8>,
    messages: u64,
}

/// A connection with a window of messages under way, always full.
pub struct Windowed {
    stream: TcpStream,
    qos: QoS,
    window: usize,
    /// Messages that differ in their packet ids.
    ring: Vec<u8>,
    /// Bytes of each.
    packet: usize,
    /// Bytes of each before its payload.
    head: usize,
    /// Whether to say when they are sent.
    stamped: bool,
    /// The next one's place.
    next: usize,
    under_way: usize,
    /// The beginning of an answer.
    partial: Vec<u8>,
}

impl Free {
    /// On a connection, at most so many messages at a time.
    pub fn new(stream: TcpStream, topic: &str, payload: usize, at_a_time: usize) -> Self {
        let packet = wire::publish(topic, QoS::AtMostOnce, 0, &vec![b'x'; payload]);
        socket2::SockRef::from(&stream).set_send_buffer_size(AHEAD_BYTES).unwrap();
        let messages = (BATCH_BYTES / packet.len()).clamp(1, at_a_time);
        Self { stream, batch: packet.repeat(messages), messages: messages as u64 }
    }
}

impl Windowed {
    /// On a connection.
    pub fn new(
        stream: TcpStream,
        topic: &str,
        qos: QoS,
        payload: usize,
        window: u16,
        stamped: bool,
    ) -> Self {
        assert!(qos != QoS::AtMostOnce && payload >= STAMP_BYTES);
        let text = vec![b'x'; payload];
        let ids = 1..=window * WINDOWS;
        let ring: Vec<u8> =
            ids.clone().flat_map(|id| wire::publish(topic, qos, id, &text)).collect();
        let packet = ring.len() / ids.len();
        let (head, window) = (packet - payload, window.into());
        let (next, under_way, partial) = (0, 0, Vec::new());
        Self { stream, qos, window, ring, packet, head, stamped, next, under_way, partial }
    }

    /// Fills the window. Says how many messages that took.
    fn fill(&mut self, tally: &Tally) -> u64 {
        let mut sent = 0;
        while self.under_way < self.window {
            // A packet id follows from the place, so the ring is written up to its end, then anew.
            let count =
                (self.window - self.under_way).min(self.ring.len() / self.packet - self.next);
            let from = self.next * self.packet;
            let bytes = &mut self.ring[from..from + count * self.packet];
            if self.stamped {
                let stamp = tally.stamp();
                for packet in bytes.chunks_exact_mut(self.packet) {
                    packet[self.head..self.head + STAMP_BYTES].copy_from_slice(&stamp);
                }
            }
            self.stream.write_all(bytes).expect("a broker takes what is published");
            self.next = (self.next + count) % (self.ring.len() / self.packet);
            self.under_way += count;
            sent += count as u64;
        }
        sent
    }

    /// Waits for answers, which have four bytes each in MQTT 3.1.1.
    fn wait(&mut self) {
        let mut buffer = [0; 4096];
        let kept = self.partial.len();
        buffer[..kept].copy_from_slice(&self.partial);
        let read = self.stream.read(&mut buffer[kept..]).expect("a broker answers");
        assert!(read > 0, "a broker closed a publisher's connection");
        let (answers, rest) = buffer[..kept + read].as_chunks::<4>();
        let mut releases = Vec::new();
        for answer in answers {
            match (answer, self.qos) {
                ([0x40, 2, ..], QoS::AtLeastOnce) | ([0x70, 2, ..], QoS::ExactlyOnce) => {
                    self.under_way -= 1;
                }
                ([0x50, 2, high, low], QoS::ExactlyOnce) => {
                    releases.extend_from_slice(&[0x62, 2, *high, *low]);
                }
                _ => panic!("a publisher got {answer:x?}"),
            }
        }
        self.partial = rest.to_vec();
        self.stream.write_all(&releases).expect("a broker takes what is released");
    }
}

impl Publisher {
    /// Publishes until it is enough, and says how many messages.
    pub fn run(&mut self, tally: &Tally) -> u64 {
        let mut sent = 0;
        match self {
            Self::Free(connections) => {
                while !tally.is_enough() {
                    for Free { stream, batch, messages } in &mut *connections {
                        stream.write_all(batch).expect("a broker takes what is published");
                        sent += *messages;
                    }
                }
            }
            Self::Windowed(connection) => {
                while !tally.is_enough() {
                    sent += connection.fill(tally);
                    connection.wait();
                }
                while connection.under_way > 0 {
                    connection.wait();
                }
            }
        }
        sent
    }
}
