//! Names that could be read as something else are refused, wherever they are typed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::Home;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const HOSTILE: &[&str] = &[
    "",
    ".",
    "..",
    "*",
    "**",
    ">",
    "+",
    "#",
    "a.b",
    "a/b",
    "../etc",
    "a b",
    "a\n",
    "a\r\n",
    "a\tb",
    "é",
    "аcme",
    "{tenant}",
    "$SYS",
    "_a",
    "a*",
    "a>",
    "a'b",
    "a\"b",
    "a\\b",
    "%2f",
    "\u{202e}a",
];

const RESERVED: &[&str] = &[
    "device",
    "registry",
    "state",
    "locks",
    "portal",
    "broadcast",
    "discovery",
    "Registry",
    "STATE",
];

const FORM: &str = "an id is 1 to 63 ASCII letters, digits, '-' or '_', and starts with a letter";

#[test]
fn hostile_names_are_refused_with_what_a_name_is() {
    let home = Home::of(&["acme"]);
    let long = "x".repeat(64);
    for name in HOSTILE.iter().copied().chain([long.as_str()]) {
        for (typed, argument) in [
            (vec!["tenant", "create", name], "<TENANT>"),
            (vec!["tenant", "suspend", name], "<TENANT>"),
            (vec!["device", "revoke", "--tenant", "acme", name], "<DEVICE>"),
            (vec!["device", "revoke", "cam-1", "--tenant", name], "--tenant"),
            (vec!["token", "mint", "--key", "issuer.pem", "--tenant", name], "--tenant"),
            (vec!["creds", "issue", "--tenant", "acme", "--device", name], "--device"),
        ] {
            home.run(&typed).failed(2).says(&[FORM, argument]);
        }
    }
    home.run(["tenant", "list", "--json"]).ok().says(&["\"acme\""]);
    assert_eq!(home.run(["tenant", "list"]).ok().stdout.lines().count(), 2);
}

#[test]
fn names_with_a_dash_in_front_are_refused_too() {
    let home = Home::of(&[]);
    home.run(["tenant", "create", "-a"]).failed(2);
    home.run(["tenant", "create", "--", "-a"]).failed(2).says(&[FORM]);
}

#[test]
fn a_name_that_is_no_text_is_refused() {
    let home = Home::of(&[]);
    let name = OsString::from_vec(vec![b'a', 0xff]);
    home.run([OsString::from("tenant"), "create".into(), name]).failed(2).says(&["UTF-8"]);
}

#[test]
fn words_of_the_name_space_are_refused_as_names() {
    let home = Home::of(&["acme"]);
    for name in RESERVED {
        let reserved = ["reserved for the name space", "choose another"];
        home.run(["tenant", "create", name]).failed(2).says(&reserved);
        home.run(["device", "revoke", "--tenant", "acme", name]).failed(2).says(&reserved);
    }
}

#[test]
fn names_of_the_allowed_form_are_accepted() {
    let home = Home::of(&[]);
    let long = "x".repeat(63);
    for name in ["a", "0", "acme-2", "A_9", "devices2", &long] {
        home.run(["tenant", "create", name]).ok();
        home.run(["device", "revoke", "--tenant", name, "cam-1"]).ok();
        home.run(["tenant", "show", name]).ok().says(&[name, "cam-1"]);
    }
}

#[test]
fn the_fallback_tenant_has_to_be_meant() {
    let home = Home::of(&[]);
    for name in ["default", "Default"] {
        let ran = home.run(["tenant", "create", name]).failed(1);
        ran.says(&["clients fall back to", "directory.allow_default_tenant = true"]);
    }
    home.configure("directory = { file = \"tenants.toml\", allow_default_tenant = true }");
    home.run(["tenant", "create", "default"]).ok();
}
