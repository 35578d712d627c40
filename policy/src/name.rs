//! The identifiers that end up inside subjects, topics and key expressions.

use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;
use std::sync::Arc;

/// Longest tenant or device id, in bytes.
const MAX_ID_BYTES: usize = 63;

/// Longest `jti` that is kept, in bytes.
const MAX_TOKEN_ID_BYTES: usize = 256;

/// Segments of the Device Connect name space that stand where a tenant or a device id stands; an id
/// of that name could speak for the registry.
const RESERVED: &[&str] = &[
    "broadcast",
    "bulkhead",
    "device",
    "devices",
    "discovery",
    "locks",
    "portal",
    "registry",
    "service",
    "state",
    "system",
];

/// With what the names of the built-in roles begin: a tenant that is called so, in roles whose names begin
/// with the tenant, would have everybody's.
const ROOT: &str = "device-connect";

/// Why a text is not the identifier it was meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Empty, too long, or with a character that a broker gives a meaning to.
    #[error(
        "an id is 1 to 63 ASCII letters, digits, '-' or '_', and starts with a letter or digit"
    )]
    Malformed,
    /// A word that the subjects themselves use.
    #[error("this name is reserved for the name space itself; choose another")]
    Reserved,
    /// A token id that is empty, longer than 256 bytes or holds control characters.
    #[error("a token id is 1 to 256 bytes without control characters")]
    TokenId,
}

fn check(text: &str) -> Result<(), NameError> {
    let bytes = text.as_bytes();
    let well_formed = bytes.len() <= MAX_ID_BYTES
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if well_formed { Ok(()) } else { Err(NameError::Malformed) }
}

fn is_reserved(text: &str) -> bool {
    RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text))
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        ///
        /// Comparison is byte-exact. Cloning is cheap.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes over an identifier.
            ///
            /// # Errors
            /// [`NameError`] if the text is not one.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl From<&$name> for Arc<str> {
            fn from(name: &$name) -> Self {
                Arc::clone(&name.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

identifier! {
    /// Who a client belongs to: `^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`, and no reserved word.
    TenantId, |text| {
        check(text)?;
        if is_reserved(text) || text.eq_ignore_ascii_case(ROOT) { Err(NameError::Reserved) } else { Ok(()) }
    }
}

identifier! {
    /// One device of a tenant, in the form of a [`TenantId`].
    DeviceId, |text| {
        check(text)?;
        if is_reserved(text) { Err(NameError::Reserved) } else { Ok(()) }
    }
}

identifier! {
    /// The name of a [`Role`](crate::Role), in the form of a [`TenantId`] but free to be any word.
    RoleName, check
}

identifier! {
    /// A token's `jti` (RFC 7519 §4.1.7): 1 to 256 bytes without control characters.
    TokenId, |text| {
        let fits = (1..=MAX_TOKEN_ID_BYTES).contains(&text.len());
        if fits && !text.chars().any(char::is_control) { Ok(()) } else { Err(NameError::TokenId) }
    }
}

impl TenantId {
    /// Whether this is the tenant that Device Connect falls back to when none is named. A directory
    /// admits it only where that is configured.
    pub fn is_default(&self) -> bool {
        self.0.eq_ignore_ascii_case("default")
    }
}

impl RoleName {
    /// The built-in role of devices, and the default one.
    pub fn device() -> Self {
        Self("device".into())
    }

    /// The built-in role that administers a tenant.
    pub fn operator() -> Self {
        Self("operator".into())
    }
}

#[cfg(test)]
mod tests {
    use super::{DeviceId, NameError, TenantId, TokenId};

    #[test]
    fn accepts_plain_ids() {
        for id in ["a", "acme", "acme-2", "A_9", "0", &"x".repeat(63)] {
            assert!(TenantId::parse(id).is_ok(), "{id}");
            assert!(DeviceId::parse(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn refuses_everything_a_broker_could_read_differently() {
        let long = "x".repeat(64);
        let huge = "x".repeat(65_536);
        let hostile = [
            "",
            "-a",
            "_a",
            "*",
            ">",
            "+",
            "#",
            "**",
            "$*",
            "a.b",
            "a/b",
            "@a",
            "a b",
            "a\0",
            "a\n",
            "a\r",
            "é",
            "аcme",
            "acme\u{301}",
            "a%2fb",
            "..",
            ".",
            "a*",
            "a>",
            "{tenant}",
            &long,
            &huge,
        ];
        for id in hostile {
            assert_eq!(TenantId::parse(id), Err(NameError::Malformed), "{id:?}");
            assert_eq!(DeviceId::parse(id), Err(NameError::Malformed), "{id:?}");
        }
    }

    #[test]
    fn refuses_the_words_of_the_name_space_in_any_case() {
        for id in ["device", "Registry", "BROADCAST", "discovery", "state"] {
            assert_eq!(TenantId::parse(id), Err(NameError::Reserved), "{id}");
            assert_eq!(DeviceId::parse(id), Err(NameError::Reserved), "{id}");
        }
        assert_eq!(TenantId::parse("Device-Connect"), Err(NameError::Reserved));
        assert!(DeviceId::parse("device-connect").is_ok(), "a device's id never stands first");
    }

    #[test]
    fn comparison_is_byte_exact() {
        assert_ne!(TenantId::parse("acme"), TenantId::parse("Acme"));
    }

    #[test]
    fn token_ids_are_bounded_and_printable() {
        assert!(TokenId::parse("f81d4fae-7dec-11d0-a765-00a0c91e6bf6").is_ok());
        assert!(TokenId::parse("").is_err());
        assert!(TokenId::parse(&"j".repeat(257)).is_err());
        assert!(TokenId::parse("a\nb").is_err());
    }
}
