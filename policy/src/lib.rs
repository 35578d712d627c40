//! The decision core of Bulkhead.
//!
//! Everything here is a pure function of its arguments: no socket, no file, no clock. A broker
//! adapter verifies a token's signature, hands the claims to this crate and gets back who the
//! client is and what it may do:
//!
//! ```text
//! token bytes ──signature──▶ Claims ──Expectations──▶ Principal ──Tenant::admit──▶ Role ──▶ Grants
//!                                        │                             │                      │
//!                                        └───────────── DenyReason ◀───┴──────────────────────┘
//! ```
//!
//! Allow lists decide by inclusion ([`Pattern::includes`]): everything a client asks for has to lie
//! inside one allowed pattern. Deny lists decide by overlap ([`Pattern::intersects`]).

mod algebra;
mod claims;
mod day;
mod deny;
mod grants;
mod keyexpr;
mod name;
mod overlap;
mod pattern;
mod principal;
mod quota;
mod requester;
mod resource;
mod role;
pub mod service;
mod syntax;
mod tenant;

pub use claims::{ClaimMap, ClaimPath, Claims, Expectations};
pub use day::{Amounts, Day, Mark, Tally};
pub use deny::{DenyReason, Verdict};
pub use grants::Grants;
pub use keyexpr::{KeyExpr, MAX_KEY_BYTES, MAX_PARTIAL_BYTES, MAX_RESTS};
pub use name::{DeviceId, NameError, RoleName, TenantId, TokenId};
pub use overlap::{Beyond, Overlap, keeps_apart};
pub use pattern::{MAX_PATTERN_BYTES, MAX_SEGMENTS, Pattern, PatternError, Template};
pub use principal::{Principal, Scope};
pub use quota::{JetStreamQuota, Quotas, TokenBucket};
pub use requester::{Requester, RequesterError};
pub use resource::Resource;
pub use role::{Discover, Responses, Role, RoleError, RoleSet, Rules};
pub use syntax::{Broker, Name, SyntaxError};
pub use tenant::{Status, Tenant};
