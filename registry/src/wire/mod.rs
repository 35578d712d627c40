//! What devices and tools say to the registry, and hear from it: JSON-RPC 2.0 in Device Connect's form.
//!
//! Nothing here does I/O. Whatever a client sends is bounded before it comes here, and answered with an
//! error or taken; there is nothing that it can stop.

mod discovery;
mod heartbeat;
mod lifecycle;
mod registration;
mod rpc;
mod subject;

pub use discovery::{Filter, MAX_PAGE, Page, Question};
pub use heartbeat::Heartbeat;
pub(crate) use lifecycle::seconds;
pub use lifecycle::{Transition, lifecycle};
pub use registration::{MAX_FACT, MAX_TTL, Registration};
pub use rpc::{Code, Request, RpcError, fitting, pull_request, pulled, too_large, with_result};
pub use subject::{Subject, is_reply_topic};
