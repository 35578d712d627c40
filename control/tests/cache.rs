//! Verified tokens are remembered; what has become of their bearers is asked anew every time.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

mod common;

use bulkhead_control::directory::{Directory, Store};
use bulkhead_control::{Admission, Control};
use bulkhead_policy::{Broker, DenyReason, Role, Status, Tenant, TenantId, TokenId, Verdict};
use common::signer::{Signer, claims, jwks, now};
use common::site::{Site, config, enter, issuer, metric};
use common::{soon, until_true};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What is done to a tenant.
type Change<'a> = &'a dyn Fn(&mut Tenant);

/// A process, and the directory's other end.
struct World {
    _site: Site,
    control: Arc<Control>,
    store: Store,
    key: Signer,
}

impl World {
    async fn start() -> Self {
        let site = Site::new();
        let key = Signer::ed25519("k1");
        site.write("keys.json", jwks(&[&key]));
        let corp = issuer("leeway = \"0s\"\nkeys.jwks_file = \"keys.json\"");
        let control = site.start(&config("", vec![corp])).await;
        let store = Store::open(&control.config().directory).await.unwrap();
        Self { _site: site, control: Arc::new(control), store, key }
    }

    fn directory(&self) -> &Directory {
        self.control.auth().directory()
    }

    async fn outcome(&self, token: &str) -> Verdict<()> {
        enter(self.control.auth(), token).await.map(|_| ())
    }

    /// A token that has been let in once, so that its verdict is cached.
    async fn admitted(&self) -> (String, Admission) {
        let token = self.key.sign(&claims(json!({})));
        let admission = enter(self.control.auth(), &token).await.unwrap();
        assert!(self.is_cached(&token, Timestamp::now()));
        (token, admission)
    }

    fn is_cached(&self, token: &str, at: Timestamp) -> bool {
        self.control.auth().verifier().cached(token, at).is_some()
    }

    /// Changes a tenant and waits until the directory knows.
    async fn change(&self, tenant: &str, change: impl Fn(&mut Tenant)) {
        let id = TenantId::parse(tenant).unwrap();
        let changed = self.store.update(&id, change).await.unwrap();
        until_true("the directory knows", || {
            self.directory().tenant(&id).is_ok_and(|known| *known == changed)
        })
        .await;
    }
}

#[tokio::test]
async fn a_second_look_at_a_token_costs_no_signature_check() {
    let world = World::start().await;
    let count = |outcome: &str| {
        let series = format!("bulkhead_token_cache_total{{outcome=\"{outcome}\"}}");
        metric(&world.control, &series)
    };
    let (token, _) = world.admitted().await;
    assert_eq!((count("miss"), count("hit")), (1.0, 0.0));
    assert_eq!(world.outcome(&token).await, Ok(()));
    assert_eq!((count("miss"), count("hit")), (1.0, 1.0));
}

#[tokio::test]
async fn a_denial_is_not_cached() {
    let world = World::start().await;
    let early = now() + 2;
    let token = world.key.sign(&claims(json!({"nbf": early})));
    let verifier = world.control.auth().verifier();
    let at = |second: i64| Timestamp::from_second(second).unwrap();
    let verdict = verifier.verify(&token, at(early - 1)).await.map(|_| ());
    assert_eq!(verdict, Err(DenyReason::TokenNotYetValid));
    assert!(verifier.verify(&token, at(early)).await.is_ok());
}

#[tokio::test]
async fn a_cached_verdict_ends_with_its_token() {
    let world = World::start().await;
    let exp = now() + 600;
    let token = world.key.sign(&claims(json!({"exp": exp})));
    assert_eq!(world.outcome(&token).await, Ok(()));
    let verifier = world.control.auth().verifier();
    let at = |second: i64| Timestamp::from_second(second).unwrap();
    assert!(world.is_cached(&token, at(exp - 1)));
    assert!(verifier.verify(&token, at(exp - 1)).await.is_ok());
    let verdict = verifier.verify(&token, at(exp)).await.map(|_| ());
    assert_eq!(verdict, Err(DenyReason::TokenExpired));
    assert!(!world.is_cached(&token, at(exp)));
}

#[tokio::test]
async fn a_cached_verdict_ends_with_its_token_by_the_clock_on_the_wall() {
    let world = World::start().await;
    let token = world.key.sign(&claims(json!({"exp": now() + 3})));
    assert_eq!(world.outcome(&token).await, Ok(()));
    common::until("the token ends", async || {
        let verdict = world.outcome(&token).await;
        assert!(matches!(verdict, Ok(()) | Err(DenyReason::TokenExpired)));
        verdict.err()
    })
    .await;
    assert!(!world.is_cached(&token, Timestamp::now()));
}

#[tokio::test]
async fn a_suspension_reaches_cached_tokens_and_live_connections_and_ends_again() {
    let world = World::start().await;
    let (token, live) = world.admitted().await;
    let neighbour = world.key.sign(&claims(json!({"tenant": "globex"})));
    let stays = || {
        let auth = world.control.auth();
        auth.reassess(&live.principal, live.rights)
    };
    assert_eq!(stays(), Ok(()));
    world.change("acme", |t| t.status = Status::Suspended).await;
    assert_eq!(world.outcome(&token).await, Err(DenyReason::TenantSuspended));
    assert_eq!(stays(), Err(DenyReason::TenantSuspended));
    assert_eq!(world.outcome(&neighbour).await, Ok(()));
    world.change("acme", |t| t.status = Status::Active).await;
    assert_eq!(world.outcome(&token).await, Ok(()));
    assert_eq!(stays(), Ok(()));
}

#[tokio::test]
async fn revocations_reach_cached_tokens_and_live_connections() {
    let world = World::start().await;
    let (token, live) = world.admitted().await;
    let other = world.key.sign(&claims(json!({"device": "cam-2"})));
    let id: TokenId = live.principal.token_id.clone().unwrap();
    let device = live.principal.device.clone().unwrap();
    let issued = live.principal.issued_at.unwrap();
    let second = SignedDuration::from_secs(1);
    let changes: [(&str, DenyReason, bool, Change<'_>); 3] = [
        ("the device", DenyReason::DeviceRevoked, true, &|t| {
            t.revoked_devices.insert(device.clone(), Timestamp::now());
        }),
        ("the token", DenyReason::TokenRevoked, true, &|t| {
            t.revoked_tokens.insert(id.clone(), Timestamp::now());
        }),
        ("all tokens until now", DenyReason::TokenSuperseded, false, &|t| {
            t.tokens_valid_from = Some(issued.checked_add(second).unwrap())
        }),
    ];
    for (what, reason, others_stay, change) in changes {
        world.change("acme", change).await;
        assert_eq!(world.outcome(&token).await, Err(reason), "{what}");
        let auth = world.control.auth();
        let stays = auth.reassess(&live.principal, live.rights);
        assert_eq!(stays, Err(reason), "{what}");
        assert_eq!(world.outcome(&other).await.is_ok(), others_stay, "{what}");
        world.change("acme", |t| *t = Tenant::default()).await;
        assert_eq!(world.outcome(&token).await, Ok(()), "taken back: {what}");
    }
    // A token that does not say when it was issued is not newer than anything.
    let undated = world.key.sign(&claims(json!({"iat": null})));
    assert_eq!(world.outcome(&undated).await, Ok(()));
    world
        .change("acme", |t| {
            t.tokens_valid_from = Some(Timestamp::UNIX_EPOCH);
        })
        .await;
    assert_eq!(world.outcome(&undated).await, Err(DenyReason::TokenSuperseded));
    assert_eq!(world.outcome(&token).await, Ok(()));
}

#[tokio::test]
async fn a_deleted_tenant_is_out_at_once() {
    let world = World::start().await;
    let (token, live) = world.admitted().await;
    let acme = TenantId::parse("acme").unwrap();
    world.store.delete(&acme).await.unwrap();
    until_true("the directory knows", || world.directory().tenant(&acme).is_err()).await;
    assert_eq!(world.outcome(&token).await, Err(DenyReason::TenantUnknown));
    let stays = world.control.auth().reassess(&live.principal, live.rights);
    assert_eq!(stays, Err(DenyReason::TenantUnknown));
}

#[tokio::test]
async fn a_tenants_own_role_changes_the_rights_of_its_live_connections() {
    let world = World::start().await;
    let (token, live) = world.admitted().await;
    let stays = || {
        let auth = world.control.auth();
        auth.reassess(&live.principal, live.rights)
    };
    let narrow = Role {
        publish: vec!["device-connect/{tenant}/{device}/event/**".parse().unwrap()],
        ..Role::default()
    };
    world
        .change("globex", |t| {
            t.roles.insert("device".parse().unwrap(), narrow.clone());
        })
        .await;
    assert_eq!(stays(), Ok(()), "a neighbour's role is no concern");
    world
        .change("acme", |t| {
            t.roles.insert("device".parse().unwrap(), narrow.clone());
        })
        .await;
    assert_eq!(stays(), Err(DenyReason::RightsChanged));
    let admission = enter(world.control.auth(), &token).await.unwrap();
    assert_ne!(admission.rights, live.rights);
    assert!(admission.grants.subscribe_allowed().is_empty());
    assert_eq!(admission.grants.publish_allowed().len(), 1);
}

#[tokio::test]
async fn a_tenant_that_is_suspended_and_resumed_in_haste_ends_as_it_was_left() {
    let world = World::start().await;
    let (token, _) = world.admitted().await;
    let acme = TenantId::parse("acme").unwrap();
    for round in 0..100 {
        let status = if round % 2 == 0 { Status::Suspended } else { Status::Active };
        let set = |t: &mut Tenant| t.status = status;
        world.store.update(&acme, set).await.unwrap();
        let verdict = world.outcome(&token).await;
        assert!(matches!(verdict, Ok(()) | Err(DenyReason::TenantSuspended)), "{verdict:?}");
    }
    world.change("acme", |t| t.status = Status::Suspended).await;
    assert_eq!(world.outcome(&token).await, Err(DenyReason::TenantSuspended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_slips_in_after_a_suspension_in_a_storm_of_reconnects() {
    const RECONNECTS: usize = 10_000;
    let world = World::start().await;
    let tokens: Vec<_> = (0..50)
        .map(|i| {
            let device = format!("cam-{i}");
            world.key.sign(&claims(json!({ "device": device })))
        })
        .collect();
    let (known, before, after) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let storm: Vec<_> = tokens
        .into_iter()
        .map(|token| {
            let control = Arc::clone(&world.control);
            let (known, before) = (Arc::clone(&known), Arc::clone(&before));
            let after = Arc::clone(&after);
            tokio::spawn(async move {
                let mut refused = 0;
                while refused < RECONNECTS / 50 {
                    // Read first: what is admitted then has seen the suspension.
                    let suspended = known.load(Ordering::SeqCst);
                    match enter(control.auth(), &token).await {
                        Ok(_) if suspended => after.fetch_add(1, Ordering::SeqCst),
                        Ok(_) => before.fetch_add(1, Ordering::SeqCst),
                        Err(reason) => {
                            assert_eq!(reason, DenyReason::TenantSuspended);
                            refused += 1;
                            refused
                        }
                    };
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    until_true("the storm blows", || before.load(Ordering::SeqCst) > 100).await;
    world.change("acme", |t| t.status = Status::Suspended).await;
    known.store(true, Ordering::SeqCst);
    for client in storm {
        soon("a client gives up", client).await.unwrap();
    }
    assert_eq!(after.load(Ordering::SeqCst), 0);
    let neighbour = world.key.sign(&claims(json!({"tenant": "globex"})));
    assert_eq!(world.outcome(&neighbour).await, Ok(()));
}

#[tokio::test]
async fn every_broker_is_given_grants_of_its_own() {
    let world = World::start().await;
    let token = world.key.sign(&claims(json!({})));
    let principal = world.control.auth().identify(&token, None).await.unwrap();
    for broker in Broker::ALL {
        let admission = world.control.auth().admit(broker, Arc::clone(&principal)).unwrap();
        assert_eq!(admission.grants.responses().is_some(), broker == Broker::Nats, "{broker:?}");
    }
}
