use serde::{Deserialize, Serialize};

/// The `nats` section of a user JWT.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// Subjects that may be published to.
    #[serde(rename = "pub")]
    pub publish: Permission,
    /// Subjects that may be subscribed to.
    #[serde(rename = "sub")]
    pub subscribe: Permission,
    /// Publishing to reply subjects of received messages.
    #[serde(rename = "resp", skip_serializing_if = "Option::is_none")]
    pub responses: Option<ResponsePermission>,
    /// Subscriptions; the server does not enforce it for callout users.
    pub subs: i64,
    /// Bytes in flight; −1 is no limit.
    pub data: i64,
    /// Bytes of a payload; the server does not enforce it for callout users.
    pub payload: i64,
    /// Whether the JWT alone is enough, without a signature of the nonce.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bearer_token: bool,
    /// The account, where a signing key signed for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer_account: String,
    /// Labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// `user`.
    #[serde(rename = "type")]
    pub kind: String,
    /// 2.
    pub version: u32,
}

/// Subjects that are allowed and denied. An empty list of allowed ones allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Permission {
    /// Allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Denied, although allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// How received requests may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponsePermission {
    /// Messages per request.
    pub max: i64,
    /// How long after the request, in nanoseconds.
    pub ttl: i64,
}

impl User {
    /// A user without limits of its own and with these permissions.
    pub fn new(publish: Permission, subscribe: Permission) -> Self {
        Self {
            publish,
            subscribe,
            subs: -1,
            data: -1,
            payload: -1,
            kind: "user".to_owned(),
            version: 2,
            ..Self::default()
        }
    }
}

impl Permission {
    /// Nothing at all.
    pub fn nothing() -> Self {
        Self { allow: Vec::new(), deny: vec![">".to_owned()] }
    }

    /// These subjects and no others: an empty list allows nothing, which in the server's form has to
    /// be said.
    pub fn only(allow: Vec<String>, deny: Vec<String>) -> Self {
        if allow.is_empty() { Self::nothing() } else { Self { allow, deny } }
    }
}
