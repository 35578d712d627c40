//! `bulkhead tenant`, `device` and `token revoke`: the same with a directory in a file and in etcd,
//! while no service runs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_devkit::{Etcd, Tools};
use common::{Home, Ran, start};
use serde_json::{Value, json};
use std::process::Child;

/// A folder whose directory is in a file, and one whose directory is in an etcd of its own.
fn directories() -> Vec<(Home, Option<Etcd>)> {
    let (home, etcd) = in_etcd();
    vec![(Home::new(), None), (home, Some(etcd))]
}

fn in_etcd() -> (Home, Etcd) {
    let home = Home::empty();
    let binary = Tools::open().unwrap().etcd().unwrap();
    let etcd = Etcd::start(&binary, &home.path("etcd")).unwrap();
    let endpoint = etcd.endpoint();
    home.write("issuer.jwks.json", "");
    home.configure(&format!("directory = {{ etcd = {{ endpoints = [\"{endpoint}\"] }} }}"));
    (home, etcd)
}

/// The JSON of a command that succeeds. That tenants say when they were created is looked at here.
fn json_of(home: &Home, typed: &str) -> Value {
    let mut told = home.run(typed.split_whitespace().chain(["--json"])).ok().json();
    let all = match &mut told {
        Value::Array(all) => all.iter_mut().collect(),
        one => vec![one],
    };
    for tenant in all.into_iter().filter_map(Value::as_object_mut) {
        let created = tenant.remove("created");
        assert_eq!(created.is_some(), tenant.contains_key("status"), "{tenant:?}");
        // Looked at in a test of its own.
        tenant.remove("usage");
    }
    told
}

/// A tenant as the command shows it.
fn show(home: &Home, tenant: &str) -> Value {
    json_of(home, &format!("tenant show {tenant}"))
}

#[test]
fn a_tenant_is_created_listed_shown_and_deleted() {
    for (home, _etcd) in directories() {
        let run = |typed: &str| home.run(typed.split_whitespace());
        run("tenant list").ok().says(&["TENANT", "STATUS"]);
        assert_eq!(json_of(&home, "tenant list"), json!([]));

        run("tenant create acme").ok().says(&["tenant acme was created"]);
        let globex = json_of(&home, "tenant create globex --connections 5");
        let expected = json!({"id": "globex", "status": "active", "quotas": {"connections": 5}});
        assert_eq!(globex, expected);
        assert_eq!(show(&home, "globex"), expected);
        assert_eq!(show(&home, "acme"), json!({"id": "acme", "status": "active"}));
        assert_eq!(
            json_of(&home, "tenant list"),
            json!([{"id": "acme", "status": "active"}, expected])
        );
        let table = run("tenant list").ok().stdout;
        let rows: Vec<Vec<_>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1..], [["acme", "active", "0", "0"], ["globex", "active", "0", "0"]]);

        run("tenant create acme").failed(1).says(&["'acme' exists already"]);
        run("tenant create ACME").failed(1).says(&["'acme' exists already"]);
        let deleted = json_of(&home, "tenant delete globex --yes");
        assert_eq!(deleted, json!({"deleted": "globex"}));
        assert_eq!(json_of(&home, "tenant list").as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_tenant_that_is_not_there_is_said_with_what_to_do() {
    for (home, _etcd) in directories() {
        home.run(["tenant", "create", "acme"]).ok();
        for typed in [
            "tenant show acmee",
            "tenant suspend acmee",
            "tenant resume acmee",
            "tenant delete acmee --yes",
            "tenant delete acmee",
            "tenant quota acmee",
            "tenant quota acmee --connections 1",
            "device revoke --tenant acmee cam-1",
            "device restore --tenant acmee cam-1",
            "token revoke --tenant acmee id",
            // Byte for byte: this is another one.
            "tenant show Acme",
        ] {
            let ran = home.run(typed.split_whitespace()).failed(1);
            ran.says(&["there is no tenant '", "bulkhead tenant list"]);
        }
        assert_eq!(show(&home, "acme"), json!({"id": "acme", "status": "active"}));
    }
}

#[test]
fn suspension_goes_and_comes_back() {
    for (home, _etcd) in directories() {
        let run = |typed: &str| home.run(typed.split_whitespace());
        run("tenant create acme").ok();
        // Twice is as good as once.
        for _ in 0..2 {
            run("tenant suspend acme").ok().says(&["acme is suspended"]);
            assert_eq!(show(&home, "acme")["status"], "suspended");
        }
        run("tenant list").ok().says(&["suspended"]);
        for _ in 0..2 {
            run("tenant resume acme").ok().says(&["acme is active"]);
            assert_eq!(show(&home, "acme")["status"], "active");
        }
    }
}

#[test]
fn limits_are_set_one_by_one_and_taken_back() {
    for (home, _etcd) in directories() {
        let run = |typed: &str| home.run(typed.split_whitespace());
        let quota = |changes: &str| {
            json_of(&home, &format!("tenant quota acme {changes}"))["quotas"].clone()
        };
        run("tenant create acme").ok();
        assert_eq!(quota(""), json!({}));

        let plain = [
            "connections",
            "subscriptions",
            "messages_per_second",
            "bytes_per_second",
            "payload_bytes",
            "retained_messages",
            "retained_bytes",
            "queued_bytes",
            "authentications_per_minute",
            "messages_per_day",
            "bytes_per_day",
            "authentications_per_day",
        ];
        for (n, name) in plain.iter().enumerate() {
            let option = name.replace('_', "-");
            assert_eq!(quota(&format!("--{option} {n}"))[name], json!(n));
        }
        let jetstream = quota("--jetstream-streams 2 --jetstream-storage-bytes 1000");
        let expected =
            json!({"streams": 2, "consumers": 20, "storage_bytes": 1000, "memory_bytes": 0});
        assert_eq!(jetstream["jetstream"], expected);
        // What is not named stays.
        let more = quota("--jetstream-streams 3 --jetstream-consumers 7");
        let expected =
            json!({"streams": 3, "consumers": 7, "storage_bytes": 1000, "memory_bytes": 0});
        assert_eq!(more["jetstream"], expected);
        assert_eq!(show(&home, "acme")["quotas"], more);
        let table = run("tenant quota acme").ok().stdout;
        let row =
            |name: &str| table.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let row = |name: &str| row(name).map(|row| row.split_whitespace().collect::<Vec<_>>());
        assert_eq!(row("jetstream.streams "), Some(vec!["3", "tenant"]));
        assert_eq!(row("queued_bytes "), Some(vec!["7", "tenant"]));
        let largest = quota("--bytes-per-second 9223372036854775807");
        assert_eq!(largest["bytes_per_second"], json!(i64::MAX));

        for name in plain {
            let left = quota(&format!("--{} none", name.replace('_', "-")));
            assert_eq!(left.get(name), None, "{left}");
        }
        assert_eq!(quota("--jetstream-streams none"), json!({}));
        assert_eq!(show(&home, "acme"), json!({"id": "acme", "status": "active"}));
    }
}

#[test]
fn limits_are_set_and_taken_back_by_name() {
    for (home, _etcd) in directories() {
        let run = |typed: &str| home.run(typed.split_whitespace());
        let quota = |changes: &str| json_of(&home, &format!("tenant quota acme {changes}"));
        run("tenant create acme --connections 1").ok();
        let set = "messages_per_day=1000 bytes_per_day=5 connections=none jetstream.streams=2 \
                   jetstream.storage_bytes=7";
        let jetstream =
            json!({"streams": 2, "consumers": 20, "storage_bytes": 7, "memory_bytes": 0});
        let own = json!({"messages_per_day": 1000, "bytes_per_day": 5, "jetstream": jetstream});
        assert_eq!(quota(set)["quotas"], own);
        assert_eq!(show(&home, "acme")["quotas"], own);
        // One part of JetStream's leaves the others as they are.
        let more = quota("jetstream.memory_bytes=9")["quotas"]["jetstream"].clone();
        assert_eq!((&more["memory_bytes"], &more["streams"]), (&json!(9), &json!(2)));
        let left = quota("connections=4 --unset bytes_per_day jetstream");
        assert_eq!(left["quotas"], json!({"connections": 4, "messages_per_day": 1000}));
        // Two at once about one limit mean neither.
        for typed in ["connections=5 --connections 6", "connections=5 --unset connections"] {
            run(&format!("tenant quota acme {typed}")).failed(1).says(&["given twice"]);
        }
        for (typed, says) in [
            ("conections=5", &["'conections' is none of connections, ", "messages_per_day"][..]),
            ("--unset conections", &["is none of connections, ", "jetstream.streams"]),
            ("connections", &["name=value"]),
            ("connections=many", &["neither a number nor `none`"]),
            ("connections=-1", &["neither a number nor `none`"]),
        ] {
            run(&format!("tenant quota acme {typed}")).failed(2).says(says);
        }
        for (typed, says) in [
            ("jetstream=5", "jetstream.streams"),
            ("--unset jetstream.streams", "--unset jetstream"),
            ("jetstream.consumers=5", "add jetstream.streams"),
        ] {
            run(&format!("tenant quota acme {typed}")).failed(1).says(&[says]);
        }
        assert_eq!(show(&home, "acme")["quotas"], left["quotas"]);
    }
}

#[test]
fn limits_of_everybody_are_shown_as_such() {
    let home = Home::of(&["acme"]);
    let config = home.read("bulkhead.toml");
    home.write(
        "bulkhead.toml",
        &format!("{config}\n[quotas]\nconnections = 7\nmessages_per_day = 100\n"),
    );
    home.run(["tenant", "quota", "acme", "connections=3"]).ok();
    let quota = json_of(&home, "tenant quota acme");
    assert_eq!(quota["quotas"], json!({"connections": 3}));
    assert_eq!(quota["defaults"], json!({"connections": 7, "messages_per_day": 100}));
    assert_eq!(quota["effective"], json!({"connections": 3, "messages_per_day": 100}));
    let rows = |typed: &str| -> Vec<String> {
        let text = home.run(typed.split_whitespace()).ok().stdout;
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect()
    };
    let quota = rows("tenant quota acme");
    for row in ["connections 3 tenant", "messages_per_day 100 default", "bytes_per_day none -"] {
        assert!(quota.iter().any(|line| line == row), "{row}: {quota:?}");
    }
    // No process has counted anything, which is not the same as nothing.
    let show = rows("tenant show acme");
    let expected = [
        "connections unknown 3 - tenant",
        "messages_per_day unknown 100 - default",
        "payload_bytes - none - -",
    ];
    for row in expected {
        assert!(show.iter().any(|line| line == row), "{row}: {show:?}");
    }
    let usage = home.run(["tenant", "show", "acme", "--json"]).ok().json()["usage"].clone();
    assert_eq!(usage["processes"], json!(0));
    let connections = json!({"used": null, "limit": 3, "from": "tenant", "percent": null});
    assert_eq!(usage["resources"]["connections"], connections);
}

#[test]
fn limits_without_effect_are_refused() {
    let home = Home::of(&["acme"]);
    for (options, says) in [
        ("--jetstream-streams 2", "--jetstream-storage-bytes"),
        ("--jetstream-streams none --jetstream-consumers 3", "leave the other ones out"),
    ] {
        for command in ["tenant quota acme", "tenant create globex"] {
            let typed = format!("{command} {options}");
            home.run(typed.split_whitespace()).failed(1).says(&[says]);
        }
    }
    assert_eq!(json_of(&home, "tenant list"), json!([{"id": "acme", "status": "active"}]));
}

#[test]
fn devices_are_revoked_and_restored() {
    for (home, _etcd) in directories() {
        let run = |typed: &str| home.run(typed.split_whitespace());
        run("tenant create acme").ok();
        run("device revoke --tenant acme cam-1").ok().says(&["acme/cam-1 is revoked"]);
        let since = show(&home, "acme")["revoked_devices"]["cam-1"].clone();
        assert!(since.is_string(), "the time of its revocation: {since}");
        // Since when stays what it was.
        run("device revoke --tenant acme cam-1").ok();
        run("device revoke --tenant acme cam-2").ok();
        let devices = show(&home, "acme")["revoked_devices"].clone();
        assert_eq!((&devices["cam-1"], devices.as_object().unwrap().len()), (&since, 2));
        run("tenant show acme").ok().says(&["revoked device cam-1", "ago"]);

        run("device restore --tenant acme cam-2").ok().says(&["acme/cam-2 is restored"]);
        let again = run("device restore --tenant acme cam-2").failed(1);
        again.says(&["is not revoked", "bulkhead tenant show acme"]);
        run("device restore --tenant acme cam-1").ok();
        assert_eq!(show(&home, "acme"), json!({"id": "acme", "status": "active"}));
    }
}

#[test]
fn tokens_are_revoked_by_id_and_by_time() {
    for (home, _etcd) in directories() {
        let run = |typed: &str| home.run(typed.split_whitespace());
        run("tenant create acme").ok();
        let revoke = "token revoke --tenant acme";
        run(&format!("{revoke} a.b/c --until 2100-01-01T00:00:00Z")).ok().says(&["a.b/c"]);
        run(&format!("{revoke} other")).ok();
        let tokens = show(&home, "acme")["revoked_tokens"].clone();
        assert_eq!(tokens["a.b/c"], "2100-01-01T00:00:00Z");
        assert!(tokens["other"].as_str().unwrap() < "2100", "{tokens}");
        // Revoking again does not make it end earlier.
        run(&format!("{revoke} a.b/c")).ok();
        assert_eq!(show(&home, "acme")["revoked_tokens"]["a.b/c"], "2100-01-01T00:00:00Z");

        let past = run(&format!("{revoke} third --until 2020-01-01T00:00:00Z")).failed(1);
        past.says(&["--until", "has passed"]);
        let from = |time: &str| {
            let typed = format!("{revoke} --issued-before {time}");
            json_of(&home, &typed)["issued_before"].clone()
        };
        let now = from("now");
        assert!(now.as_str().unwrap() > "2026", "{now}");
        // An earlier time would let tokens in again that are revoked.
        assert_eq!(from("2020-01-01T00:00:00Z"), now);
        assert_eq!(show(&home, "acme")["tokens_valid_from"], now);
        run("tenant show acme").ok().says(&["issued since", "revoked token other"]);
    }
}

/// Somebody who gives the whole token would revoke nothing, and would find it in a log.
#[test]
fn a_token_is_not_taken_for_its_id() {
    let home = Home::of(&["acme"]);
    let token = home.token("acme", &[]);
    let ran = home.run(["token", "revoke", "--tenant", "acme", &token]).failed(1);
    ran.says(&["not its id", "jti", "bulkhead token inspect"]);
    let long = "x".repeat(257);
    for id in ["", "a\nb", &long] {
        let ran = home.run(["token", "revoke", "--tenant", "acme", id]).failed(1);
        ran.says(&["a token id is", "jti"]);
    }
    assert_eq!(show(&home, "acme"), json!({"id": "acme", "status": "active"}));
}

#[test]
fn nothing_is_deleted_unasked() {
    let home = Home::of(&["acme"]);
    for answer in ["", "no\n", "yes\n"] {
        // Nobody sits there who could be asked, whatever comes from the pipe.
        let ran = home.run_with(answer, ["tenant", "delete", "acme"]).failed(1);
        ran.says(&["nothing was deleted", "--yes"]);
    }
    assert_eq!(show(&home, "acme")["id"], "acme");
}

/// Starts one command for each tenant at the same time.
fn create_at_once(home: &Home, tenants: &[String]) {
    let create = |tenant: &String| start(&mut home.command(["tenant", "create", tenant]));
    let running: Vec<Child> = tenants.iter().map(create).collect();
    for child in running {
        Ran::of("tenant create".to_owned(), child.wait_with_output().unwrap()).ok();
    }
}

#[test]
fn changes_at_the_same_time_all_arrive() {
    for (home, _etcd) in directories() {
        let tenants: Vec<_> = (0..8).map(|n| format!("tenant-{n}")).collect();
        create_at_once(&home, &tenants);
        let listed = json_of(&home, "tenant list");
        let ids: Vec<_> =
            listed.as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap()).collect();
        assert_eq!(ids, tenants);

        // The same for changes of one tenant.
        let revoke = |n: i32| {
            let device = format!("cam-{n}");
            start(&mut home.command(["device", "revoke", "--tenant", "tenant-0", &device]))
        };
        let running: Vec<Child> = (0..8).map(revoke).collect();
        for child in running {
            Ran::of("device revoke".to_owned(), child.wait_with_output().unwrap()).ok();
        }
        let devices = show(&home, "tenant-0")["revoked_devices"].clone();
        assert_eq!(devices.as_object().unwrap().len(), 8, "{devices}");
    }
}

#[test]
fn one_of_two_who_create_the_same_tenant_is_told() {
    for (home, _etcd) in directories() {
        let create = |_| start(&mut home.command(["tenant", "create", "acme"]));
        let running: Vec<Child> = (0..4).map(create).collect();
        let ended = |child: Child| {
            Ran::of("tenant create acme".to_owned(), child.wait_with_output().unwrap())
        };
        let (created, refused): (Vec<_>, Vec<_>) =
            running.into_iter().map(ended).partition(|ran| ran.code == Some(0));
        assert_eq!(created.len(), 1, "{refused:?}");
        for ran in refused {
            ran.failed(1).says(&["'acme' exists already"]);
        }
    }
}

#[test]
fn an_etcd_that_is_away_is_said_and_found_again() {
    let (home, mut etcd) = in_etcd();
    home.run(["tenant", "create", "acme"]).ok();
    etcd.kill().unwrap();
    let ran = home.run(["tenant", "list"]).failed(1);
    ran.says(&["etcd: ", "check directory.etcd and that it is running"]);
    home.run(["tenant", "suspend", "acme"]).failed(1).says(&["etcd: "]);
    home.write("issuer.jwks.json", &Home::new().read("issuer.jwks.json"));
    home.run(["check"]).found().says(&["FAIL  directory: etcd: ", "directory.etcd"]);
    etcd.restart().unwrap();
    assert_eq!(show(&home, "acme"), json!({"id": "acme", "status": "active"}));
    home.run(["check"]).ok().says(&["1 tenant"]);
}

/// People and case-insensitive systems would take them for one.
#[test]
fn of_two_names_that_differ_only_in_case_one_is_created() {
    for (home, _etcd) in directories() {
        for n in 0..4 {
            let create = |name: String| start(&mut home.command(["tenant", "create", &name]));
            let running = [create(format!("acme{n}")), create(format!("ACME{n}"))];
            let codes = running.map(|child| {
                Ran::of("tenant create".to_owned(), child.wait_with_output().unwrap()).code
            });
            assert!(codes == [Some(0), Some(1)] || codes == [Some(1), Some(0)], "{codes:?}");
        }
    }
}

#[test]
fn a_tenants_own_role_that_goes_too_far_is_shown_with_why() {
    let home = Home::of(&["acme"]);
    let config = home.read("bulkhead.toml");
    home.write(
        "bulkhead.toml",
        &format!("{config}\n[mqtt]\nlisteners = [\"tcp://127.0.0.1:0\"]\n"),
    );
    let own = |pattern: &str| {
        let role = format!("[tenants.acme.roles.odd]\nsubscribe = [\"{pattern}\"]\n");
        home.write("tenants.toml", &role);
        home.run(["tenant", "show", "acme"])
    };
    let shown = own("device-connect/*/*/{tenant}").ok();
    shown.says(&["role    odd", "refused", "'device-connect/*/*/{tenant}'", "[roles]"]);
    let shown = home.run(["tenant", "show", "acme", "--json"]).ok().json();
    let why = shown["refused_roles"]["odd"].as_str().unwrap();
    assert!(why.contains("may subscribe to all of"), "{why}");
    let shown = own("device-connect/{tenant}/*/x").ok();
    assert!(!shown.stdout.contains("refused"), "{shown}");
}
