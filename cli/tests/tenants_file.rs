//! A directory in a file that people write too: what they wrote stays.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::Home;

const WRITTEN: &str = r#"# The tenants of the second hall.

[tenants.acme] # since 2024
status = "active" # pays
# Agreed with Jane.
quotas.connections = 5 # per site

# The other one.
[tenants.globex]
revoked_devices.cam-9 = "2026-02-01T00:00:00Z" # stolen

[tenants.globex.quotas]
subscriptions = 10 # for now

# The end.
"#;

#[test]
fn comments_and_order_stay_through_every_change() {
    let home = Home::new();
    home.write("tenants.toml", WRITTEN);
    for typed in [
        "tenant suspend acme",
        "tenant quota acme --connections 6 --payload-bytes 1000",
        "tenant quota globex --subscriptions 20",
        "device revoke --tenant globex cam-1",
        "token revoke --tenant acme some.id",
        "tenant create initech --connections 1",
        "tenant resume acme",
        "tenant delete initech --yes",
    ] {
        home.run(typed.split_whitespace()).ok();
        let text = home.read("tenants.toml");
        for comment in WRITTEN.lines().filter_map(|line| line.split_once('#')) {
            assert!(text.contains(comment.1), "#{} is gone after {typed}:\n{text}", comment.1);
        }
        assert!(text.find("acme").unwrap() < text.find("globex").unwrap(), "{text}");
    }
    let text = home.read("tenants.toml");
    for line in [
        "[tenants.acme] # since 2024",
        "status = \"active\" # pays",
        "revoked_devices.cam-9 = \"2026-02-01T00:00:00Z\" # stolen",
        "subscriptions = 20 # for now",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is missing from:\n{text}");
    }
    home.run(["check"]).ok().says(&["2 tenants"]);
}

#[test]
fn comments_of_an_inline_table_stay_too() {
    let home = Home::new();
    home.write(
        "tenants.toml",
        "[tenants.acme]\n# Agreed with Jane.\nquotas = { connections = 5 } # per site\n",
    );
    home.run(["tenant", "quota", "acme", "--connections", "6"]).ok();
    let text = home.read("tenants.toml");
    assert!(text.contains("# Agreed with Jane.\nquotas"), "{text}");
    assert!(text.contains("# per site"), "{text}");
}

#[test]
fn asking_changes_nothing() {
    let home = Home::new();
    home.write("tenants.toml", WRITTEN);
    for typed in ["tenant list", "tenant show acme", "tenant quota acme", "check"] {
        home.run(typed.split_whitespace()).ok();
    }
    home.run(["tenant", "create", "acme"]).failed(1);
    home.run(["tenant", "suspend", "nobody"]).failed(1);
    home.run(["device", "restore", "--tenant", "acme", "cam-1"]).failed(1);
    assert_eq!(home.read("tenants.toml"), WRITTEN);
}

#[test]
fn a_file_that_cannot_be_read_is_not_touched() {
    let home = Home::new();
    for text in ["[tenants.acme]\nstatus = \"gone\"\n", "[tenants.acme", "\u{0}"] {
        home.write("tenants.toml", text);
        for typed in ["tenant create globex", "tenant suspend acme", "tenant list"] {
            home.run(typed.split_whitespace()).failed(1).says(&["tenants.toml: line "]);
        }
        assert_eq!(home.read("tenants.toml"), text);
    }
}

#[test]
fn the_file_is_readable_by_its_owner_alone_and_leaves_nothing_beside_it() {
    let home = Home::of(&["acme"]);
    home.run(["tenant", "suspend", "acme"]).ok();
    assert_eq!(home.mode("tenants.toml"), 0o600);
    let names = home.names_in(".");
    assert!(names.iter().all(|name| !name.starts_with(".tmp")), "{names:?}");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let home = Home::new();
    home.configure("directory = { file = \"nowhere/tenants.toml\" }");
    let ran = home.run(["tenant", "create", "acme"]).failed(1);
    ran.says(&["nowhere/tenants.toml", "check the path and its permissions"]);
}
