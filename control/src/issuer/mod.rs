//! Issuers: their keys, and the verification of what they sign.

mod keys;
mod signer;
mod source;
mod verifier;

pub use keys::{KeyError, KeySet};
pub use signer::{Signer, SignerError};
pub(crate) use source::public_part;
pub use source::{Keys, SourceError};
pub use verifier::{MAX_TOKEN_BYTES, Verifier};
