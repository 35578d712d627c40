use super::Problem;
use bulkhead_policy::{ClaimMap, Expectations, RoleName, RoleSet, TenantId};
use jiff::SignedDuration;
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// One party that signs tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The name that logs, metrics and the audit log use.
    pub name: RoleName,
    /// `iss`, byte for byte (RFC 7519 §4.1.1).
    pub issuer: String,
    /// Accepted audiences: one of a token's `aud` must equal one of them.
    pub audiences: BTreeSet<String>,
    /// Accepted signature algorithms.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// The tenants it may speak for: a list, or `"all"`. An issuer of services has none.
    #[serde(default)]
    pub tenants: TenantSet,
    /// The roles it may hand out.
    #[serde(default = "tenant_roles")]
    pub roles: BTreeSet<RoleName>,
    /// The role of a token that names none.
    #[serde(default = "RoleName::device")]
    pub default_role: RoleName,
    /// Whether it signs the tokens of platform services rather than of tenants.
    #[serde(default)]
    pub service: bool,
    /// Which claims hold what.
    #[serde(default)]
    pub claims: ClaimMap,
    /// Clock difference to forgive; at most five minutes.
    #[serde(default = "thirty_seconds")]
    pub leeway: SignedDuration,
}

/// Where an issuer's keys come from; exactly one of the four.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeySource {
    /// A JWKS (RFC 7517 §5) over HTTPS; plain HTTP only on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// A JWKS in a file, read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// One public key or certificate in PEM, read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem_file: Option<PathBuf>,
    /// A shared secret; only with `dev = true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// How often the URL is fetched unasked. Default 5 minutes.
    #[serde(default = "five_minutes")]
    pub refresh: SignedDuration,
    /// How long the last good keys serve while no new ones can be had. Default 24 hours.
    #[serde(default = "one_day")]
    pub max_age: SignedDuration,
    /// How long after one fetch a token with an unknown `kid` may cause another. Default 30 s.
    #[serde(default = "thirty_seconds")]
    pub cooldown: SignedDuration,
    /// PEM file of the authority that signed the URL's certificate, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// The tenants that an issuer may speak for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged, expecting = "a list of tenant ids, or \"all\"")]
pub enum TenantSet {
    /// Exactly these.
    Only(BTreeSet<TenantId>),
    /// Whatever it says.
    All(All),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// `"all"`.
    All,
}

impl Default for TenantSet {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

fn names(names: &[&str]) -> BTreeSet<RoleName> {
    names.iter().filter_map(|name| RoleName::parse(name).ok()).collect()
}

fn tenant_roles() -> BTreeSet<RoleName> {
    names(&["device", "member", "viewer"])
}

fn thirty_seconds() -> SignedDuration {
    SignedDuration::from_secs(30)
}

fn five_minutes() -> SignedDuration {
    SignedDuration::from_mins(5)
}

fn one_day() -> SignedDuration {
    SignedDuration::from_hours(24)
}

impl KeySource {
    /// A JWKS in a file, with everything else as by default.
    pub(crate) fn jwks_file(file: PathBuf) -> Self {
        Self {
            jwks_url: None,
            jwks_file: Some(file),
            pem_file: None,
            secret_file: None,
            refresh: five_minutes(),
            max_age: one_day(),
            cooldown: thirty_seconds(),
            ca_file: None,
        }
    }
}

impl IssuerConfig {
    /// What its tokens have to look like.
    pub fn expectations(&self) -> Expectations {
        Expectations {
            name: self.name.as_str().into(),
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            claims: self.claims.clone(),
            tenants: match &self.tenants {
                TenantSet::Only(tenants) => Some(tenants.clone()),
                TenantSet::All(All::All) => None,
            },
            roles: Some(self.roles.clone()),
            default_role: self.default_role.clone(),
            service: self.service,
            names_origin: false,
            leeway: self.leeway,
        }
    }

    pub(super) fn check(&self, roles: &RoleSet, dev: bool) -> Result<(), Problem> {
        if self.name.as_str() == crate::http::exchange::ISSUER {
            return Err(Problem::new(
                "name",
                "is what issued credentials are recorded under",
                "choose another name",
            ));
        }
        if self.issuer == crate::http::exchange::ISSUER {
            return Err(Problem::new(
                "issuer",
                "is what the exchange signs as",
                "give the issuer another `iss`, such as its URL",
            ));
        }
        if self.issuer.is_empty() {
            return Err(Problem::new("issuer", "is empty", "write the tokens' `iss`"));
        }
        if self.audiences.is_empty() {
            return Err(Problem::new(
                "audiences",
                "is empty, so no token could ever be for this system",
                "list the `aud` that your tokens carry, such as [\"bulkhead\"]",
            ));
        }
        if self.algorithms.is_empty() {
            return Err(Problem::new(
                "algorithms",
                "is empty",
                "list what the issuer signs with, such as [\"EdDSA\"], [\"ES256\"] or [\"RS256\"]",
            ));
        }
        let shared = |a: &Algorithm| a.family() == AlgorithmFamily::Hmac;
        if self.algorithms.iter().any(shared) != self.keys.secret_file.is_some()
            || self.algorithms.iter().any(shared) != self.algorithms.iter().all(shared)
        {
            return Err(Problem::new(
                "algorithms",
                "mixes a shared secret with public keys",
                "use HS256, HS384 or HS512 with keys.secret_file only, and nothing else with it",
            ));
        }
        self.keys.check(dev).map_err(|p| p.under("keys"))?;
        for role in self.roles.iter().chain([&self.default_role]) {
            if !roles.contains_key(role) {
                return Err(Problem::new(
                    "roles",
                    &format!("role '{role}' does not exist"),
                    &format!("add [roles.{role}], or use one of {}", list(roles.keys())),
                ));
            }
        }
        if !self.roles.contains(&self.default_role) {
            return Err(Problem::new(
                "default_role",
                "is not among the issuer's roles",
                "add it to `roles`, or choose another",
            ));
        }
        if !self.service && self.roles.iter().any(|role| role.as_str() == "service") {
            return Err(Problem::new(
                "roles",
                "an issuer of tenants cannot hand out the role 'service'",
                "give platform services an issuer of their own with `service = true`",
            ));
        }
        if self.leeway.is_negative() || self.leeway > SignedDuration::from_mins(5) {
            return Err(Problem::new(
                "leeway",
                "is out of range",
                "choose between \"0s\" and \"5m\"",
            ));
        }
        match (&self.tenants, self.service) {
            (TenantSet::Only(tenants), false) if tenants.is_empty() => Err(Problem::new(
                "tenants",
                "is empty, so the issuer may speak for nobody",
                "list the tenants, or write \"all\" if this issuer is trusted with every tenant",
            )),
            (TenantSet::Only(tenants), true) if tenants.is_empty() => Ok(()),
            (_, true) => Err(Problem::new(
                "tenants",
                "an issuer of services speaks for no tenant",
                "leave it out, or drop `service = true`",
            )),
            _ => Ok(()),
        }
    }
}

fn list<'a>(names: impl Iterator<Item = &'a RoleName>) -> String {
    names.map(RoleName::as_str).collect::<Vec<_>>().join(", ")
}

impl KeySource {
    /// The source's file, where it has one.
    pub(super) fn path(&mut self) -> Option<&mut PathBuf> {
        self.jwks_file.as_mut().or(self.pem_file.as_mut()).or(self.secret_file.as_mut())
    }

    pub(super) fn ca_file(&mut self) -> Option<&mut PathBuf> {
        self.ca_file.as_mut()
    }

    /// [`KeySource::refresh`] as the clock wants it.
    pub fn refresh(&self) -> Duration {
        self.refresh.unsigned_abs()
    }

    fn check(&self, dev: bool) -> Result<(), Problem> {
        let given = [
            self.jwks_url.is_some(),
            self.jwks_file.is_some(),
            self.pem_file.is_some(),
            self.secret_file.is_some(),
        ];
        if given.iter().filter(|g| **g).count() != 1 {
            return Err(Problem::new(
                "",
                "needs exactly one source",
                "set one of jwks_url, jwks_file, pem_file and (with dev = true) secret_file",
            ));
        }
        if self.secret_file.is_some() && !dev {
            return Err(Problem::new(
                "secret_file",
                "whoever can verify with a shared secret can also sign",
                "use public keys, or set dev = true on a developer's own machine",
            ));
        }
        if let Some(url) = &self.jwks_url {
            check_url(url)?;
        }
        for (name, value, least) in [
            ("refresh", self.refresh, 1),
            ("max_age", self.max_age, 1),
            ("cooldown", self.cooldown, 1),
        ] {
            if value < SignedDuration::from_secs(least) {
                return Err(Problem::new(name, "is too short", "choose at least \"1s\""));
            }
        }
        if self.max_age < self.refresh {
            return Err(Problem::new(
                "max_age",
                "is shorter than refresh, so keys would be dropped before they are renewed",
                "make it several times as long as refresh",
            ));
        }
        Ok(())
    }
}

/// The address may hold a password or an API key, which is for nobody to read.
impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.jwks_url.as_ref().and_then(|url| reqwest::Url::parse(url).ok());
        let files = [&self.jwks_file, &self.pem_file, &self.secret_file, &self.ca_file];
        f.debug_struct("KeySource")
            .field("jwks_url", &url.as_ref().map(crate::issuer::public_part))
            .field("files", &files.into_iter().flatten().collect::<Vec<_>>())
            .field("refresh", &self.refresh)
            .field("max_age", &self.max_age)
            .field("cooldown", &self.cooldown)
            .finish()
    }
}

fn check_url(url: &str) -> Result<(), Problem> {
    let parsed = reqwest::Url::parse(url).map_err(|error| {
        Problem::new("jwks_url", &error.to_string(), "write it as https://host/path")
    })?;
    let loopback = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match parsed.scheme() {
        "https" => Ok(()),
        "http" if loopback => Ok(()),
        _ => Err(Problem::new(
            "jwks_url",
            "whoever is on the way could exchange the keys",
            "use https (plain http only on loopback)",
        )),
    }
}
