//! `bulkhead nats rotate`: new keys beside the old ones.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::{Home, Ran, secrets, start};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// What can be rotated, and where its keys stand in the keyring.
const KINDS: &[(&str, &str)] =
    &[("issuer", "/auth/signers"), ("tenants", "/tenant_signers"), ("xkey", "/curves")];

fn keyring(home: &Home) -> Value {
    serde_json::from_str(&home.read("nats/keyring.json")).unwrap()
}

fn values(keyring: &Value, place: &str) -> Vec<Value> {
    let keys = keyring.pointer(place).unwrap().as_array().unwrap();
    keys.iter().map(|key| key["value"].clone()).collect()
}

#[test]
fn a_new_key_comes_before_the_old_ones_and_nothing_else_changes() {
    let home = Home::with_nats(&["acme"]);
    for (what, place) in KINDS {
        let before = keyring(&home);
        let ran = home.run(["--json", "nats", "rotate", what]).ok();
        let after = keyring(&home);
        let (old, new) = (values(&before, place), values(&after, place));
        assert_eq!((old.len(), new.len()), (1, 2), "{what}");
        assert_eq!(old[0], new[1], "{what}");
        assert!(!old.contains(&new[0]), "{what}");
        // It is used from the time that was said on, so that everybody knows it by then.
        let newest = &after.pointer(place).unwrap()[0];
        assert_eq!(newest["from"], ran.json()["in_use_from"], "{what}");
        let earlier = before.pointer(place).unwrap()[0]["from"].as_str().unwrap();
        assert!(newest["from"].as_str().unwrap() > earlier, "{what}");

        let without = |mut keyring: Value| {
            *keyring.pointer_mut(place).unwrap() = Value::Null;
            keyring
        };
        assert_eq!(without(before), without(after), "{what}");
        assert_eq!(secrets::in_text(&ran.stdout), None);
        assert_eq!(home.mode("nats/keyring.json"), 0o600);
        home.run(["check"]).ok();
        home.run(["creds", "issue", "--tenant", "acme", "--device", "cam-1"]).ok();
    }
    home.run(["nats", "rotate", "xkey"]).ok().says(&["in use in "]);
}

/// Lets time pass for the keys of one kind.
fn age(home: &Home, place: &str, seconds: i64) {
    let mut keyring = keyring(home);
    for key in keyring.pointer_mut(place).unwrap().as_array_mut().unwrap() {
        let from: Timestamp = key["from"].as_str().unwrap().parse().unwrap();
        let earlier = from.checked_sub(SignedDuration::from_secs(seconds)).unwrap();
        key["from"] = earlier.to_string().into();
    }
    home.write("nats/keyring.json", &keyring.to_string());
}

#[test]
fn an_old_key_stays_for_two_more_rotations() {
    for (what, place) in KINDS {
        let home = Home::with_nats(&[]);
        let first = values(&keyring(&home), place)[0].clone();
        for left in [true, true, false] {
            home.run(["nats", "rotate", what]).ok();
            let kept = values(&keyring(&home), place);
            assert_eq!(kept.contains(&first), left, "{what}: {} keys", kept.len());
            age(&home, place, 60);
        }
        assert_eq!(values(&keyring(&home), place).len(), 3, "{what}");
    }
}

#[test]
fn the_key_that_is_in_use_is_not_pushed_out_by_those_that_are_not_yet() {
    for (what, place) in KINDS {
        let home = Home::with_nats(&[]);
        let rotate = || home.run(["nats", "rotate", what]);
        for _ in 0..2 {
            rotate().ok();
        }
        let before = home.read("nats/keyring.json");
        let refused = rotate().failed(1);
        refused.says(&["are not in use yet", "drop the one that is", "rotate again in"]);
        assert_eq!(home.read("nats/keyring.json"), before, "{what}");
        let keys = keyring(&home).pointer(place).unwrap().as_array().unwrap().clone();
        let from = |key: &Value| key["from"].as_str().unwrap().parse::<Timestamp>().unwrap();
        let in_use = keys.iter().filter(|key| from(key) <= Timestamp::now());
        assert_eq!(in_use.count(), 1, "{what}");

        // In use, but only just: what the one before signed may still be under way.
        age(&home, place, 12);
        rotate().failed(1);
        age(&home, place, 12);
        rotate().ok();
        home.run(["check"]).ok();
    }
}

/// The servers' configuration holds a JWT of the first key, and they have to know that key for ever.
#[test]
fn the_key_that_servers_need_is_remembered_when_it_is_pushed_out() {
    let home = Home::with_nats(&[]);
    let made = keyring(&home)["sentinel_issuer"].clone();
    assert!(made.as_str().unwrap().starts_with('A'), "{made}");
    // As a release before this one has made it.
    let mut older = keyring(&home);
    older.as_object_mut().unwrap().remove("sentinel_issuer");
    home.write("nats/keyring.json", &older.to_string());
    home.run(["check"]).ok();
    for _ in 0..5 {
        home.run(["nats", "rotate", "issuer"]).ok();
        assert_eq!(keyring(&home)["sentinel_issuer"], made);
        age(&home, "/auth/signers", 60);
    }
    home.run(["check"]).ok();
}

#[test]
fn without_operator_mode_there_is_nothing_to_rotate() {
    let home = Home::of(&[]);
    home.run(["nats", "rotate", "issuer"]).failed(1).says(&["[nats]", "operator"]);
}

#[test]
fn a_keyring_that_cannot_be_read_is_not_replaced() {
    let home = Home::with_nats(&[]);
    let good = home.read("nats/keyring.json");
    let seed = good.split('"').find(|word| word.starts_with("SO")).unwrap();
    for broken in ["{}".to_owned(), good.replace(seed, "SOAAAA")] {
        home.write("nats/keyring.json", &broken);
        home.run(["nats", "rotate", "issuer"]).failed(1);
        assert_eq!(home.read("nats/keyring.json"), broken);
    }
    std::fs::remove_file(home.path("nats/keyring.json")).unwrap();
    let ran = home.run(["nats", "rotate", "issuer"]).failed(1);
    ran.says(&["nats/keyring.json", "bulkhead init nats"]);
    assert!(!home.exists("nats/keyring.json"));
}

#[test]
fn of_two_rotations_at_the_same_time_both_arrive() {
    let home = Home::with_nats(&[]);
    let rotate = |_| start(&mut home.command(["nats", "rotate", "xkey"]));
    for child in [0, 1].map(rotate) {
        Ran::of("nats rotate xkey".to_owned(), child.wait_with_output().unwrap()).ok();
    }
    assert_eq!(values(&keyring(&home), "/curves").len(), 3);
}
