//! Where the configuration is, and what the environment changes in it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::{Home, Ran};
use std::os::unix::ffi::OsStringExt;

#[test]
fn the_configuration_is_where_an_option_or_a_variable_says() {
    let home = Home::empty();
    std::fs::create_dir(home.path("etc")).unwrap();
    let elsewhere = Home::of(&["acme"]);
    for name in ["issuer.jwks.json", "tenants.toml"] {
        std::fs::copy(elsewhere.path(name), home.path(&format!("etc/{name}"))).unwrap();
    }
    std::fs::copy(elsewhere.path("bulkhead.toml"), home.path("etc/b.toml")).unwrap();
    home.run(["tenant", "list"]).failed(1).says(&["bulkhead.toml", "--config"]);

    // Paths in it start from its own folder, not from where the command is typed.
    home.run(["--config", "etc/b.toml", "tenant", "list"]).ok().says(&["acme"]);
    home.run(["tenant", "list", "--config", "etc/b.toml"]).ok().says(&["acme"]);
    let mut command = home.command(["tenant", "list"]);
    command.env("BULKHEAD_CONFIG", home.path("etc/b.toml"));
    Ran::from(command).ok().says(&["acme"]);

    // What is typed wins.
    let mut command = home.command(["--config", "etc/b.toml", "tenant", "list"]);
    command.env("BULKHEAD_CONFIG", "nowhere.toml");
    Ran::from(command).ok().says(&["acme"]);
    let mut command = home.command(["tenant", "list"]);
    command.env("BULKHEAD_CONFIG", "nowhere.toml");
    Ran::from(command).failed(1).says(&["nowhere.toml", "bulkhead init"]);
}

#[test]
fn the_environment_sets_what_the_file_does_not() {
    let home = Home::of(&["acme"]);
    let with = |name: &str, value: &str, args: &[&str]| {
        let mut command = home.command(args);
        command.env(name, value);
        Ran::from(command)
    };
    home.write("others.toml", "[tenants.globex]\n");
    let list = ["tenant", "list"];
    with("BULKHEAD__DIRECTORY__FILE", "others.toml", &list).ok().says(&["globex"]);
    let both = ["tenant", "create", "default"];
    with("BULKHEAD__DIRECTORY__ALLOW_DEFAULT_TENANT", "true", &both).ok();
    with("BULKHEAD__QUOTAS", "{ connections = 7 }", &["check"]).ok();

    for (name, value, says) in [
        ("BULKHEAD__ADMIN__LSTEN", "x", &["lsten", "`listen`"][..]),
        ("BULKHEAD__ADMIN__LISTEN", "everywhere", &["socket address"]),
        ("BULKHEAD__ADMIN__LISTEN", "0.0.0.0:1", &["admin.listen", "reachable", "loopback"]),
        ("BULKHEAD__LIMITS__FAILURES_PER_MINUTE", "many", &["many", "u32"]),
        ("BULKHEAD__DEV__MORE", "1", &["no table", "set it in the file"]),
        ("BULKHEAD__", "1", &["names no setting", "BULKHEAD__SECTION__KEY"]),
    ] {
        let ran = with(name, value, &["check"]).found();
        let ran = ran.says(&["FAIL  configuration: "]).says(says);
        if !says.contains(&"admin.listen") {
            assert!(ran.stdout.contains(name), "{ran}");
        }
        assert_eq!(with(name, value, &list).failed(1).stdout, "");
    }
    // What only begins alike is somebody else's.
    with("BULKHEAD_QUOTAS", "x", &["check"]).ok();
    with("XBULKHEAD__ADMIN__LSTEN", "x", &["check"]).ok();
}

/// Others' variables are nobody's business here, whatever stands in them.
#[test]
fn an_environment_that_is_no_text_stops_nothing() {
    let home = Home::of(&["acme"]);
    let mut command = home.command(["check"]);
    command.env("SOMEBODY_ELSES", std::ffi::OsString::from_vec(vec![0xff]));
    Ran::from(command).ok();
    let mut command = home.command(["check"]);
    command.env("BULKHEAD__AUDIT__PATH", std::ffi::OsString::from_vec(vec![b'a', 0xff]));
    Ran::from(command).found().says(&["BULKHEAD__AUDIT__PATH"]);
}

#[test]
fn every_command_that_needs_a_configuration_says_so() {
    let home = Home::empty();
    home.write("t.pem", "");
    for typed in [
        "tenant list",
        "tenant create acme",
        "tenant show acme",
        "tenant delete acme --yes",
        "device revoke --tenant acme cam-1",
        "token mint --tenant acme --key t.pem",
        "token revoke --tenant acme id",
        "creds issue --tenant acme --device cam-1",
        "nats rotate issuer",
        "audit verify",
        "serve",
    ] {
        let ran = home.run(typed.split_whitespace()).failed(1);
        ran.says(&["bulkhead: bulkhead.toml", "--config", "bulkhead init"]);
    }
    assert_eq!(home.names_in("."), ["t.pem"]);
}
