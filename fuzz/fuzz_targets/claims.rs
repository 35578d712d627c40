//! Claims of any JSON: no panic, and nobody becomes what the issuer may not say.

#![no_main]

use bulkhead_policy::{ClaimMap, Claims, Expectations, RoleName, Scope, TenantId};
use jiff::{SignedDuration, Timestamp};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeSet;
use std::sync::LazyLock;

static EXPECTED: LazyLock<Expectations> = LazyLock::new(|| Expectations {
    name: "corp".into(),
    issuer: "i".to_owned(),
    audiences: BTreeSet::from(["a".to_owned()]),
    claims: ClaimMap { tenant_prefix: Some("t:".to_owned()), ..ClaimMap::default() },
    tenants: Some(BTreeSet::from([TenantId::parse("acme").unwrap()])),
    roles: Some(BTreeSet::from([RoleName::device()])),
    default_role: RoleName::device(),
    service: false,
    names_origin: false,
    leeway: SignedDuration::from_secs(30),
});

fuzz_target!(|input: &[u8]| {
    let Ok(claims) = serde_json::from_slice::<Claims>(input) else { return };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    if let Ok(principal) = claims.principal(&EXPECTED, now) {
        assert_eq!(principal.scope, Scope::Tenant(TenantId::parse("acme").unwrap()));
        assert_eq!(principal.role, RoleName::device());
        assert!(principal.expires_at.as_second() > now.as_second() - 30);
    }
});
