//! From what a signed token says to who its bearer is.

use crate::{DenyReason, DeviceId, Principal, RoleName, Scope, TenantId, TokenId, Verdict};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Last second of the year 9999: a date beyond it is a mistake or an attack on arithmetic.
const MAX_NUMERIC_DATE: f64 = 253_402_300_799.0;

/// The claims of a token whose signature has been verified (RFC 7519 §4).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Claims(Map<String, Value>);

/// Where in the claims something is found: member names from the outside in.
///
/// In configuration a string is split at its dots (`realm.tenant`); an array is taken as it is, for
/// names that hold dots themselves (`["https://example.com/tenant"]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ClaimPath(Vec<String>);

/// Which claims hold what, for one issuer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimMap {
    /// The tenant id. Default `tenant`.
    pub tenant: ClaimPath,
    /// The device id. Default `device`; absent in a token is no error by itself.
    pub device: ClaimPath,
    /// The role. Default `role`; absent in a token means the issuer's default role.
    pub role: ClaimPath,
    /// Where the tenant claim is an array of groups: the one group that starts with this text holds
    /// the tenant id behind it. Two such groups are refused, because the token then does not say
    /// which.
    pub tenant_prefix: Option<String>,
    /// The same for the role claim.
    pub role_prefix: Option<String>,
}

/// What an issuer's tokens have to look like, and what it may say.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// The issuer's configured name, which becomes [`Principal::issuer`].
    pub name: Arc<str>,
    /// `iss`, byte for byte.
    pub issuer: String,
    /// Accepted values of `aud`; one of the token's audiences must equal one of these.
    pub audiences: BTreeSet<String>,
    /// Where tenant, device and role stand.
    pub claims: ClaimMap,
    /// The tenants this issuer may speak for; `None` for all.
    pub tenants: Option<BTreeSet<TenantId>>,
    /// The roles it may hand out; `None` for all.
    pub roles: Option<BTreeSet<RoleName>>,
    /// The role of a token that names none.
    pub default_role: RoleName,
    /// Whether its tokens are those of platform services. Such an issuer speaks for no tenant, and
    /// no other can produce a [`Scope::Service`].
    pub service: bool,
    /// Whether `origin` names the token that a token was issued for: the exchange's own do.
    pub names_origin: bool,
    /// Clock difference that `exp` and `nbf` forgive.
    pub leeway: SignedDuration,
}

impl Claims {
    /// `iss` (RFC 7519 §4.1.1).
    pub fn issuer(&self) -> Option<&str> {
        self.0.get("iss").and_then(Value::as_str)
    }

    /// Checks the claims and says whose they are. `now` is the caller's clock.
    ///
    /// # Errors
    /// The first [`DenyReason`] that applies.
    pub fn principal(&self, expected: &Expectations, now: Timestamp) -> Verdict<Principal> {
        if self.issuer() != Some(&expected.issuer) {
            return Err(DenyReason::IssuerUnknown);
        }
        self.check_audience(&expected.audiences)?;
        let expires_at = self.date("exp")?.ok_or(DenyReason::ClaimMissing)?;
        let deadline =
            expires_at.checked_add(expected.leeway).map_err(|_| DenyReason::ClaimInvalid)?;
        if now >= deadline {
            return Err(DenyReason::TokenExpired);
        }
        if let Some(not_before) = self.date("nbf")?
            && now.checked_add(expected.leeway).map_err(|_| DenyReason::Internal)? < not_before
        {
            return Err(DenyReason::TokenNotYetValid);
        }
        Ok(Principal {
            scope: self.scope(expected)?,
            device: self.device(&expected.claims)?,
            role: self.role(expected)?,
            issuer: Arc::clone(&expected.name),
            token_id: self.token_id("jti")?,
            origin: if expected.names_origin { self.token_id("origin")? } else { None },
            issued_at: self.date("iat")?,
            expires_at,
        })
    }

    fn check_audience(&self, accepted: &BTreeSet<String>) -> Verdict<()> {
        let accepts = |value: &Value| value.as_str().is_some_and(|text| accepted.contains(text));
        let found = match self.0.get("aud") {
            Some(Value::Array(values)) => values.iter().any(accepts),
            Some(value) => accepts(value),
            None => false,
        };
        if found { Ok(()) } else { Err(DenyReason::AudienceMismatch) }
    }

    /// A NumericDate (RFC 7519 §2), rounded down to whole seconds.
    fn date(&self, name: &str) -> Verdict<Option<Timestamp>> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let seconds = value
            .as_f64()
            .filter(|s| (0.0..=MAX_NUMERIC_DATE).contains(s))
            .ok_or(DenyReason::ClaimInvalid)?;
        #[expect(clippy::cast_possible_truncation, reason = "in range by the filter above")]
        let seconds = seconds as i64;
        Timestamp::from_second(seconds).map(Some).map_err(|_| DenyReason::ClaimInvalid)
    }

    fn scope(&self, expected: &Expectations) -> Verdict<Scope> {
        let tenant = select(
            expected.claims.tenant.find(&self.0),
            expected.claims.tenant_prefix.as_deref(),
            DenyReason::TenantInvalid,
        )?;
        if expected.service {
            return match tenant {
                None => Ok(Scope::Service),
                Some(_) => Err(DenyReason::TenantNotAllowed),
            };
        }
        let tenant = TenantId::parse(tenant.ok_or(DenyReason::ClaimMissing)?)
            .map_err(|_| DenyReason::TenantInvalid)?;
        match &expected.tenants {
            Some(allowed) if !allowed.contains(&tenant) => Err(DenyReason::TenantNotAllowed),
            _ => Ok(Scope::Tenant(tenant)),
        }
    }

    fn device(&self, map: &ClaimMap) -> Verdict<Option<DeviceId>> {
        match map.device.find(&self.0) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_str()
                .and_then(|text| DeviceId::parse(text).ok())
                .map(Some)
                .ok_or(DenyReason::DeviceInvalid),
        }
    }

    fn role(&self, expected: &Expectations) -> Verdict<RoleName> {
        let map = &expected.claims;
        let named =
            select(map.role.find(&self.0), map.role_prefix.as_deref(), DenyReason::RoleUnknown)?;
        let role = match named {
            None => expected.default_role.clone(),
            Some(text) => RoleName::parse(text).map_err(|_| DenyReason::RoleUnknown)?,
        };
        match &expected.roles {
            Some(allowed) if !allowed.contains(&role) => Err(DenyReason::RoleNotAllowed),
            _ => Ok(role),
        }
    }

    fn token_id(&self, name: &str) -> Verdict<Option<TokenId>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .and_then(|text| TokenId::parse(text).ok())
                .map(Some)
                .ok_or(DenyReason::ClaimInvalid),
        }
    }
}

/// The one text a claim holds: the string itself, or with a prefix the one group that carries it.
fn select<'a>(
    value: Option<&'a Value>,
    prefix: Option<&str>,
    invalid: DenyReason,
) -> Verdict<Option<&'a str>> {
    let groups = match (value, prefix) {
        (None | Some(Value::Null), _) => return Ok(None),
        (Some(Value::String(text)), None) => return Ok(Some(text)),
        (Some(Value::Array(groups)), Some(_)) => groups.as_slice(),
        (Some(group @ Value::String(_)), Some(_)) => std::slice::from_ref(group),
        (Some(_), _) => return Err(invalid),
    };
    let prefix = prefix.unwrap_or_default();
    let mut found = groups.iter().filter_map(|g| g.as_str()?.strip_prefix(prefix));
    match (found.next(), found.next()) {
        (text, None) => Ok(text),
        (_, Some(_)) => Err(invalid),
    }
}

impl ClaimPath {
    /// A path of one member name, dots included.
    pub fn member(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, name| value.get(name))
    }
}

impl Default for ClaimMap {
    fn default() -> Self {
        Self {
            tenant: ClaimPath::member("tenant"),
            device: ClaimPath::member("device"),
            role: ClaimPath::member("role"),
            tenant_prefix: None,
            role_prefix: None,
        }
    }
}

impl<'de> Deserialize<'de> for ClaimPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a claim is a dotted path or an array of member names")]
        enum Form {
            Dotted(String),
            Members(Vec<String>),
        }
        let members = match Form::deserialize(deserializer)? {
            Form::Dotted(text) => text.split('.').map(str::to_owned).collect(),
            Form::Members(members) => members,
        };
        if members.is_empty() || members.iter().any(String::is_empty) {
            return Err(de::Error::custom("a claim path has no empty member name"));
        }
        Ok(Self(members))
    }
}
