use serde::{Deserialize, Serialize};

/// The `nats` section of an account JWT.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// What it takes from other accounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// What it offers to others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    /// Limits. A limit that is left out is 0, so all are always written.
    pub limits: AccountLimits,
    /// Keys besides the account's own that sign its users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<String>,
    /// Permissions of users that have none.
    pub default_permissions: NoPermissions,
    /// External authorization: the callout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
    /// `account`.
    #[serde(rename = "type")]
    pub kind: String,
    /// 2.
    pub version: u32,
}

/// Default permissions of an account: none are ever set here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoPermissions {
    #[serde(rename = "pub", default)]
    publish: Empty,
    #[serde(rename = "sub", default)]
    subscribe: Empty,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Empty {}

/// Something taken from another account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// A name for people.
    pub name: String,
    /// The subject there.
    pub subject: String,
    /// The other account.
    pub account: String,
    /// The subject here.
    pub local_subject: String,
    /// Requests or messages.
    #[serde(rename = "type")]
    pub kind: ServiceOrStream,
    /// Whether the server tells the other account who sent a request.
    #[serde(default, skip_serializing_if = "is_false")]
    pub share: bool,
}

/// Something offered to other accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// A name for people.
    pub name: String,
    /// The subject.
    pub subject: String,
    /// Requests or messages.
    #[serde(rename = "type")]
    pub kind: ServiceOrStream,
}

/// What is shared between accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceOrStream {
    /// Requests, towards the exporter.
    Service,
    /// Messages, from the exporter.
    Stream,
}

/// Limits of an account; −1 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLimits {
    /// Subscriptions of each connection.
    pub subs: i64,
    /// Bytes.
    pub data: i64,
    /// Bytes of a payload.
    pub payload: i64,
    /// Imports.
    pub imports: i64,
    /// Exports.
    pub exports: i64,
    /// Whether exports may have wildcards.
    pub wildcards: bool,
    /// Connections. 0 closes those that are there.
    pub conn: i64,
    /// Leaf nodes.
    pub leaf: i64,
    /// JetStream, off where absent.
    #[serde(flatten)]
    pub jetstream: JetStreamLimits,
}

/// Limits of an account's JetStream; all 0 is off, −1 no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JetStreamLimits {
    /// Bytes in memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub mem_storage: i64,
    /// Bytes on disk.
    #[serde(skip_serializing_if = "is_zero")]
    pub disk_storage: i64,
    /// Streams.
    #[serde(skip_serializing_if = "is_zero")]
    pub streams: i64,
    /// Consumers.
    #[serde(skip_serializing_if = "is_zero")]
    pub consumer: i64,
}

/// The callout of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// Users of this account that bypass the callout, above all the service itself.
    pub auth_users: Vec<String>,
    /// Accounts that the callout may put users into.
    pub allowed_accounts: Vec<String>,
    /// Curve key that requests are sealed for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub xkey: String,
}

/// The `nats` section of an operator JWT.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operator {
    /// Keys besides the operator's own that sign accounts.
    pub signing_keys: Vec<String>,
    /// The system account.
    pub system_account: String,
    /// `operator`.
    #[serde(rename = "type")]
    pub kind: String,
    /// 2.
    pub version: u32,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            subs: -1,
            data: -1,
            payload: -1,
            imports: -1,
            exports: -1,
            wildcards: true,
            conn: -1,
            leaf: 0,
            jetstream: JetStreamLimits::default(),
        }
    }
}

impl Account {
    /// An account without imports, exports or limits.
    pub fn new() -> Self {
        Self { kind: "account".to_owned(), version: 2, ..Self::default() }
    }
}

impl Operator {
    /// An operator.
    pub fn new(signing_keys: Vec<String>, system_account: String) -> Self {
        Self { signing_keys, system_account, kind: "operator".to_owned(), version: 2 }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}
