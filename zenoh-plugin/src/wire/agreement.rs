//! What has to hold of any bytes, checked by tests and by fuzzers.

use super::Negotiated;
use super::inbound::{Found, Inbound};
use super::outbound::{Censor, Outbound, Passage};
use super::skip::{self, Head};
use zenoh_buffers::ZSlice;
use zenoh_buffers::writer::HasWriter;
use zenoh_codec::{RCodec, WCodec, Zenoh080, Zenoh080Reliability};
use zenoh_protocol::core::{Bits, CongestionControl, Reliability, WireExpr};
use zenoh_protocol::network::{NetworkBody, NetworkMessage, RequestId, id as network};

/// Bytes that messages in pieces may take in [`batches`].
const MAX_MESSAGE: usize = 1000;

/// Reads messages as Zenoh's codec does and writes each again, as a router does: in what it has written, the
/// gate finds the same key, the same leave to drop it, and the same end. Returns how many messages there
/// were before something else came.
///
/// What was read first need not agree: the codec passes over the lengths that some extensions say they
/// have. No router writes one that is not so.
///
/// # Panics
/// If the two do not agree.
pub fn messages(bytes: &[u8]) -> usize {
    let (mut rest, mut count) = (bytes, 0);
    while !rest.is_empty() {
        let _ = skip::push(&mut { rest });
        let Some(message) = read(&mut rest) else { break };
        count += 1;
        let mut written = Vec::new();
        let wrote = Zenoh080::new().write(&mut written.writer(), &message);
        assert!(wrote.is_ok(), "what was read cannot be written: {message:?}");
        compare(&written, &message);
    }
    count
}

pub(super) fn read(bytes: &mut &[u8]) -> Option<NetworkMessage> {
    Zenoh080Reliability::new(Reliability::Reliable).read(bytes).ok()
}

fn compare(written: &[u8], message: &NetworkMessage) {
    let (id, rid, expr) = match &message.body {
        NetworkBody::Push(push) => (network::PUSH, None, &push.wire_expr),
        NetworkBody::Request(request) => (network::REQUEST, Some(request.id), &request.wire_expr),
        NetworkBody::Response(reply) => (network::RESPONSE, Some(reply.rid), &reply.wire_expr),
        _ => return,
    };
    agrees(skip::head(&mut { written }), id, rid, expr);
    if let NetworkBody::Push(push) = &message.body {
        let mut skipped = written;
        let head = skip::push(&mut skipped);
        let droppable = push.ext_qos.get_congestion_control() == CongestionControl::Drop;
        assert_eq!(head.as_ref().map(|head| head.droppable), Some(droppable), "{message:?}");
        agrees(head, id, rid, expr);
        assert!(skipped.is_empty(), "another end: {message:?}");
    }
}

fn agrees(head: Option<Head<'_>>, id: u8, rid: Option<RequestId>, expr: &WireExpr<'_>) {
    let found = head.map(|head| (head.id, head.rid, head.expr));
    assert_eq!(found, Some((id, rid, expr.clone())), "another key, or query");
}

/// Reads batches, each after its length in two bytes, as those of a client and as those of a router. The
/// first bytes choose what the two have agreed on.
///
/// # Panics
/// If a reader keeps more than it may, or what is left of a batch is longer than it was.
pub fn batches(bytes: &[u8]) {
    let Some((&[choice, initial], mut rest)) = bytes.split_first_chunk() else { return };
    let resolutions = [Bits::U8, Bits::U16, Bits::U32, Bits::U64];
    let resolution = resolutions.get(usize::from(choice & 3)).copied().unwrap_or(Bits::U32);
    let agreed = Negotiated { resolution, qos: choice & 4 != 0 };
    let inbound = Inbound::new(agreed, initial.into(), MAX_MESSAGE);
    let (mut inbound, mut outbound) = (inbound.ok(), Outbound::default());
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)).min(after.len());
        let (batch, after) = after.split_at(len);
        rest = after;
        let mut passed = Vec::new();
        match outbound.batch(batch, &mut Every::default(), &mut passed) {
            Passage::Whole | Passage::Piece => {
                assert!(passed.is_empty(), "written, and yet whole");
            }
            Passage::Cut => assert!(passed.len() < batch.len(), "cut, and not shorter"),
            Passage::Closed | Passage::Broken => {}
        }
        let Some(reader) = &mut inbound else { continue };
        let mut batch = ZSlice::from(batch.to_vec());
        let ended = loop {
            match reader.next(&mut batch, |_| ()) {
                Ok(Some(Found::Message(()) | Found::TooLarge)) => {}
                Ok(Some(Found::Close)) | Err(_) => break true,
                Ok(None) => break false,
            }
        };
        assert!(reader.kept() <= MAX_MESSAGE, "{} bytes are kept", reader.kept());
        assert_eq!(reader.kept(), reader.in_chains(), "what is kept is counted");
        assert!(ended || batch.is_empty(), "bytes are left behind");
        if ended {
            inbound = None;
        }
    }
}

/// Lets every other message pass, beginning with the first.
#[derive(Default)]
pub(super) struct Every(bool);

impl Every {
    fn next(&mut self) -> bool {
        self.0 = !self.0;
        self.0
    }
}

impl Censor for Every {
    fn head(&mut self, _: &Head<'_>) -> bool {
        self.next()
    }

    fn message(&mut self, _: &NetworkMessage) -> bool {
        self.next()
    }
}
