//! What a token may say, and what becomes of one that says something else.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_policy::{
    ClaimMap, Claims, DenyReason, DeviceId, Expectations, Principal, RoleName, Scope, Status,
    Tenant, TenantId, TokenId, Verdict,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn issuer() -> Expectations {
    let role = |name: &str| RoleName::parse(name).unwrap();
    Expectations {
        name: "corp".into(),
        issuer: "https://idp.example".into(),
        audiences: BTreeSet::from(["bulkhead".to_owned(), "nats".to_owned()]),
        claims: ClaimMap::default(),
        tenants: Some(BTreeSet::from([TenantId::parse("acme").unwrap()])),
        roles: Some(BTreeSet::from([role("device"), role("viewer")])),
        default_role: role("device"),
        service: false,
        names_origin: false,
        leeway: SignedDuration::from_secs(30),
    }
}

/// A good token's claims with some replaced; `null` removes one.
fn claims(changes: Value) -> Claims {
    let mut all = json!({
        "iss": "https://idp.example", "aud": "bulkhead", "exp": NOW + 600, "iat": NOW - 60,
        "tenant": "acme", "device": "cam-1", "jti": "t-1",
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        } else {
            all[name] = value.clone();
        }
    }
    serde_json::from_value(all).unwrap()
}

fn outcome(changes: Value) -> Verdict<()> {
    claims(changes).principal(&issuer(), now()).map(|_| ())
}

#[test]
fn a_good_token_becomes_its_principal() {
    let principal = claims(json!({})).principal(&issuer(), now()).unwrap();
    assert_eq!(principal.to_string(), "acme/cam-1");
    assert_eq!(principal.role.as_str(), "device");
    assert_eq!(&*principal.issuer, "corp");
    assert_eq!(principal.token_id, Some(TokenId::parse("t-1").unwrap()));
    assert_eq!(principal.expires_at.as_second(), NOW + 600);
}

#[test]
fn required_claims_are_required() {
    assert_eq!(outcome(json!({"exp": null})), Err(DenyReason::ClaimMissing));
    assert_eq!(outcome(json!({"iss": null})), Err(DenyReason::IssuerUnknown));
    assert_eq!(outcome(json!({"aud": null})), Err(DenyReason::AudienceMismatch));
    assert_eq!(outcome(json!({"tenant": null})), Err(DenyReason::ClaimMissing));
}

#[test]
fn dates_are_numbers_in_range() {
    for bad in [json!("1800000600"), json!(-1), json!(1e300), json!(u64::MAX), json!([]), json!({})]
    {
        assert_eq!(outcome(json!({"exp": bad})), Err(DenyReason::ClaimInvalid), "exp {bad}");
        assert_eq!(outcome(json!({"nbf": bad})), Err(DenyReason::ClaimInvalid), "nbf {bad}");
        assert_eq!(outcome(json!({"iat": bad})), Err(DenyReason::ClaimInvalid), "iat {bad}");
    }
    assert_eq!(outcome(json!({"exp": NOW as f64 + 0.5})), Ok(()), "RFC 7519 §2 allows fractions");
}

#[test]
fn leeway_ends_where_it_says() {
    assert_eq!(outcome(json!({"exp": NOW - 29})), Ok(()));
    assert_eq!(outcome(json!({"exp": NOW - 30})), Err(DenyReason::TokenExpired));
    assert_eq!(outcome(json!({"exp": 0})), Err(DenyReason::TokenExpired));
    assert_eq!(outcome(json!({"nbf": NOW + 30})), Ok(()));
    assert_eq!(outcome(json!({"nbf": NOW + 31})), Err(DenyReason::TokenNotYetValid));
}

#[test]
fn audiences_are_compared_whole() {
    assert_eq!(outcome(json!({"aud": ["other", "nats"]})), Ok(()));
    for bad in [json!("bulkhead2"), json!("my bulkhead"), json!(["bulk"]), json!([]), json!(7)] {
        assert_eq!(outcome(json!({"aud": bad})), Err(DenyReason::AudienceMismatch), "{bad}");
    }
}

#[test]
fn the_issuer_is_compared_whole() {
    for bad in ["https://idp.example/", "https://idp.example.evil", "HTTPS://IDP.EXAMPLE"] {
        assert_eq!(outcome(json!({"iss": bad})), Err(DenyReason::IssuerUnknown));
    }
}

#[test]
fn an_issuer_speaks_only_for_its_tenants() {
    assert_eq!(outcome(json!({"tenant": "globex"})), Err(DenyReason::TenantNotAllowed));
    assert_eq!(outcome(json!({"tenant": "acme2"})), Err(DenyReason::TenantNotAllowed));
    assert_eq!(outcome(json!({"tenant": "Acme"})), Err(DenyReason::TenantNotAllowed));
}

#[test]
fn hostile_ids_are_refused() {
    let long = "x".repeat(65_536);
    let hostile = [
        "*",
        ">",
        "+",
        "#",
        "**",
        "$*",
        ".",
        "/",
        "@",
        " ",
        "\0",
        "\n",
        "acme.x",
        "acme/x",
        "аcme",
        "acme\u{200b}",
        "",
        &long,
    ];
    for id in hostile {
        assert_eq!(outcome(json!({"tenant": id})), Err(DenyReason::TenantInvalid), "{id:?}");
        assert_eq!(outcome(json!({"device": id})), Err(DenyReason::DeviceInvalid), "{id:?}");
    }
    for value in [json!(1), json!(["acme"]), json!({"id": "acme"}), json!(true)] {
        assert_eq!(outcome(json!({"tenant": value})), Err(DenyReason::TenantInvalid));
        assert_eq!(outcome(json!({"device": value})), Err(DenyReason::DeviceInvalid));
    }
    assert_eq!(outcome(json!({"device": "registry"})), Err(DenyReason::DeviceInvalid));
}

#[test]
fn an_issuer_gives_only_its_roles() {
    assert_eq!(outcome(json!({"role": "viewer"})), Ok(()));
    assert_eq!(outcome(json!({"role": "service"})), Err(DenyReason::RoleNotAllowed));
    assert_eq!(outcome(json!({"role": "nonsense"})), Err(DenyReason::RoleNotAllowed));
    assert_eq!(outcome(json!({"role": ["viewer"]})), Err(DenyReason::RoleUnknown));
    assert_eq!(outcome(json!({"role": "a b"})), Err(DenyReason::RoleUnknown));
}

#[test]
fn a_service_belongs_to_no_tenant_and_a_tenant_is_no_service() {
    let mut services = issuer();
    services.service = true;
    services.default_role = RoleName::parse("viewer").unwrap();
    let named = claims(json!({})).principal(&services, now());
    assert_eq!(named, Err(DenyReason::TenantNotAllowed));
    let service = claims(json!({"tenant": null})).principal(&services, now()).unwrap();
    assert_eq!(service.scope, Scope::Service);
}

#[test]
fn nested_and_grouped_claims() {
    let mut expected = issuer();
    expected.claims = serde_json::from_value(json!({
        "tenant": "realm.groups", "tenant_prefix": "tenant:",
        "role": ["https://corp.example/roles"], "role_prefix": "bulkhead-",
    }))
    .unwrap();
    let check = |groups: Value, roles: Value| {
        let said = json!({"realm": {"groups": groups}, "https://corp.example/roles": roles});
        claims(said).principal(&expected, now()).map(|p| p.to_string())
    };
    assert_eq!(
        check(json!(["x", "tenant:acme"]), json!(["bulkhead-viewer", "other"])),
        Ok("acme/cam-1".into())
    );
    assert_eq!(
        check(json!(["tenant:acme", "tenant:globex"]), json!([])),
        Err(DenyReason::TenantInvalid),
        "a token that names two tenants says nothing"
    );
    assert_eq!(check(json!(["acme"]), json!([])), Err(DenyReason::ClaimMissing));
    assert_eq!(
        check(json!(["tenant:acme"]), json!(["bulkhead-viewer", "bulkhead-device"])),
        Err(DenyReason::RoleUnknown)
    );
}

#[test]
fn the_directory_has_the_last_word() {
    let principal = claims(json!({})).principal(&issuer(), now()).unwrap();
    let tenant = Tenant::default;
    assert_eq!(tenant().admit(&principal), Ok(()));

    let mut suspended = tenant();
    suspended.status = Status::Suspended;
    assert_eq!(suspended.admit(&principal), Err(DenyReason::TenantSuspended));

    let mut device = tenant();
    device.revoked_devices.insert(DeviceId::parse("cam-1").unwrap(), now());
    assert_eq!(device.admit(&principal), Err(DenyReason::DeviceRevoked));

    let mut token = tenant();
    token.revoked_tokens.insert(TokenId::parse("t-1").unwrap(), now());
    assert_eq!(token.admit(&principal), Err(DenyReason::TokenRevoked));

    let made_of_it = Principal {
        token_id: Some(TokenId::parse("credential").unwrap()),
        origin: Some(TokenId::parse("t-1").unwrap()),
        ..principal.clone()
    };
    assert_eq!(token.admit(&made_of_it), Err(DenyReason::TokenRevoked));

    let mut later = tenant();
    later.tokens_valid_from = Some(now());
    assert_eq!(later.admit(&principal), Err(DenyReason::TokenSuperseded));
    let undated = claims(json!({"iat": null})).principal(&issuer(), now()).unwrap();
    assert_eq!(later.admit(&undated), Err(DenyReason::TokenSuperseded));
}

#[test]
fn an_origin_is_named_by_the_exchange_alone() {
    let origin = |names_origin, value: Value| {
        let expected = Expectations { names_origin, ..issuer() };
        claims(json!({ "origin": value })).principal(&expected, now()).map(|p| p.origin)
    };
    assert_eq!(origin(false, json!("t-0")), Ok(None));
    assert_eq!(origin(true, json!("t-0")), Ok(Some("t-0".parse().unwrap())));
    assert_eq!(origin(true, json!(null)), Ok(None));
    for odd in [json!(""), json!(1), json!("a\nb"), json!(["t-0"])] {
        assert_eq!(origin(true, odd), Err(DenyReason::ClaimInvalid));
    }
}

#[test]
fn without_a_list_every_role_may_be_handed_out() {
    let expected = Expectations { roles: None, ..issuer() };
    let role = |name: &str| claims(json!({ "role": name })).principal(&expected, now());
    assert_eq!(role("operator").unwrap().role.as_str(), "operator");
    assert_eq!(role("a.b"), Err(DenyReason::RoleUnknown));
}
