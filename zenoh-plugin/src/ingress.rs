//! What a client sends, on its way into the router.

use crate::budget::Share;
use crate::door::Door;
use crate::link::{Batches, Reader, split_batch};
use crate::rules::Operation;
use crate::session::End;
use crate::wire::{Found, Inbound, Violation};
use bulkhead_policy::DenyReason;
use std::future::poll_fn;
use std::sync::Arc;
use zenoh_buffers::ZSlice;

/// Reads a client's batches and gives the router what is allowed of them.
pub(crate) struct Ingress {
    batches: Batches<Reader>,
    inbound: Inbound,
    /// What the session keeps of messages in pieces.
    pieces: Share,
    door: Door,
}

/// Whether the client goes on.
enum Flow {
    Open,
    Closed,
}

/// How far reading of a batch came.
enum Progress {
    /// To the end of the batch.
    End,
    /// To a message that is allowed, but not yet: the tenant publishes more per second than it may.
    Early,
    /// As far as it may before it is others' turn.
    Turn,
    /// To where the client closes.
    Closed,
}

impl Ingress {
    /// A way in for one session.
    pub(crate) fn new(reader: Reader, inbound: Inbound, door: Door) -> Self {
        let pieces = door.seat.tenant.kept_bytes();
        Self { batches: Batches::new(reader), inbound, pieces, door }
    }

    /// Reads until the session ends.
    pub(crate) async fn run(mut self) -> End {
        let seat = Arc::clone(&self.door.seat);
        let end = seat.kill.run_until_cancelled(self.read()).await.unwrap_or(End::Killed);
        self.door.count();
        self.door.leave().await;
        end
    }

    async fn read(&mut self) -> End {
        loop {
            let batches = &mut self.batches;
            let read = poll_fn(|cx| batches.poll(cx, |_, whole| whole.keep())).await;
            let Ok((bytes, len)) = read else { return End::Client };
            self.door.seat.heard();
            match self.take(bytes, len).await {
                Ok(Flow::Open) => {}
                Ok(Flow::Closed) => return End::Client,
                Err(violation) => {
                    let full = [Violation::TooManyDeclarations, Violation::TenantHasTooMany];
                    if full.contains(&violation) {
                        let reason = DenyReason::SubscriptionQuotaExceeded;
                        self.door.denied(Operation::Declare, reason);
                    }
                    return End::Violation(violation);
                }
            }
            self.door.count();
            self.door.wait_for_slow_readers().await;
        }
    }

    /// Goes through the batches that a buffer has in its first `len` bytes.
    async fn take(&mut self, bytes: Arc<Vec<u8>>, len: usize) -> Result<Flow, Violation> {
        let mut rest = bytes.get(..len).unwrap_or_default();
        while let Some((batch, after)) = split_batch(rest) {
            let end = len - after.len();
            // Both ends are within: they come of the same bytes.
            let Ok(mut slice) = ZSlice::new(Arc::clone(&bytes) as _, end - batch.len(), end) else {
                return Err(Violation::Malformed);
            };
            loop {
                match self.read_on(&mut slice)? {
                    Progress::End => break,
                    Progress::Early => self.door.keep_to_rate().await,
                    Progress::Turn => tokio::task::yield_now().await,
                    Progress::Closed => return Ok(Flow::Closed),
                }
            }
            if !self.pieces.hold(self.inbound.kept()) {
                self.inbound.forget_pieces();
                self.pieces.hold(0);
                self.door.denied(Operation::Put, DenyReason::QueueQuotaExceeded);
            }
            rest = after;
        }
        Ok(Flow::Open)
    }

    fn read_on(&mut self, batch: &mut ZSlice) -> Result<Progress, Violation> {
        let Self { inbound, door, .. } = self;
        door.apart(|door| read_on(inbound, door, batch))
    }
}

fn read_on(
    inbound: &mut Inbound,
    door: &mut Door,
    batch: &mut ZSlice,
) -> Result<Progress, Violation> {
    while let Some(found) = inbound.next(batch, |message| door.message(message))? {
        match found {
            Found::Message(is_early) => {
                if is_early? {
                    return Ok(Progress::Early);
                }
                if door.is_others_turn() {
                    return Ok(Progress::Turn);
                }
            }
            Found::TooLarge => door.denied(Operation::Put, DenyReason::PayloadQuotaExceeded),
            Found::Close => return Ok(Progress::Closed),
        }
    }
    Ok(Progress::End)
}
