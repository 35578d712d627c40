//! The wire of Zenoh 1 as far as a gate has to read it, without I/O.
//!
//! # Why the gate cannot be made to see another message than the router
//!
//! A filter that reads bytes and passes them on has to read them exactly as the one behind it does:
//! the same sequence numbers taken, the same fragments put together, the same ids resolved. This gate
//! passes on no bytes of a client. It reads them once, with Zenoh's own codec ([`Inbound`]), and hands
//! the router the very objects that were checked; the router's own reader of bytes never sees what a
//! tenant wrote. What the two still keep twice is the meaning of declared ids ([`Names`]):
//!
//! 1. the router learns an id only from a declaration that the gate has recorded and handed on, and
//!    forgets it only by an undeclaration that the gate has handed on;
//! 2. an id never changes its meaning: declaring one again with another key ends the session;
//! 3. a message that uses an id which the gate does not know, or did not hand on, is dropped.
//!
//! So whatever id the router resolves, the gate has resolved to the same key before. Towards the
//! client, bytes are cut and passed on ([`Outbound`]), but those were written by the router's own
//! encoder, one session after the other, and their reader is the client that they are for.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod agreement;
mod fragments;
mod inbound;
mod names;
mod outbound;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod resources;
mod sequence;
mod skip;
#[cfg(test)]
mod tests;

pub(crate) use inbound::{Found, Inbound};
pub(crate) use names::{Names, Resolved, Side};
pub(crate) use outbound::{Censor, Outbound, Passage};
pub(crate) use sequence::Negotiated;
pub(crate) use skip::Head;

/// What no client of this protocol sends. The session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// Bytes that are no message.
    #[error("a message could not be read")]
    Malformed,
    /// A message that has no place in an open session.
    #[error("a message of the handshake, or of a multicast group, came within the session")]
    OutOfPlace,
    /// A sequence number that does not follow, or one outside of the agreed range.
    #[error("a sequence number does not follow the one before")]
    Sequence,
    /// An id declared again for another key.
    #[error("an id was declared a second time, for something else")]
    Redeclared,
    /// A query under the id of one that still waits for answers.
    #[error("a query came under the id of one that is not answered to the end")]
    QueryRepeated,
    /// More declarations than one session may have.
    #[error("the session has more declarations than one may have")]
    TooManyDeclarations,
    /// More declarations, or names, than all sessions of a tenant may have.
    #[error("the tenant has as many declarations, or names declared, as it may")]
    TenantHasTooMany,
}
