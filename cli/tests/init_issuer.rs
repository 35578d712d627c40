//! `bulkhead init issuer`: a key that signs tokens, and its key set.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::Home;

#[test]
fn a_key_and_its_key_set_are_made_once() {
    let home = Home::empty();
    let made = home.run(["init", "issuer"]).ok();
    made.says(&["wrote issuer/issuer.key", "keys.jwks_file = \"issuer/issuer.jwks.json\""]);
    assert_eq!(home.names_in("issuer"), ["issuer.jwks.json", "issuer.key"]);
    assert_eq!((home.mode("issuer"), home.mode("issuer/issuer.key")), (0o700, 0o600));
    let read =
        || ["issuer.key", "issuer.jwks.json"].map(|name| home.read(&format!("issuer/{name}")));
    let before = read();
    home.run(["init", "issuer"]).ok().says(&["issuer/issuer.key was there, and is kept"]);
    assert_eq!(home.run(["--json", "init", "issuer"]).ok().json()["made"], false);
    assert_eq!(read(), before);

    // More keys beside its own verify too.
    let more = before[1].replace("]}", ",{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AA\"}]}");
    home.write("issuer/issuer.jwks.json", &more);
    home.run(["init", "issuer"]).ok();
    assert_eq!(home.read("issuer/issuer.jwks.json"), more);
}

#[test]
fn what_it_signs_is_accepted() {
    let home = Home::of(&["acme"]);
    let args =
        ["init", "issuer", "--dir", "keys", "--name", "first", "--jwks", "public/first.json"];
    home.run(args).ok();
    assert_eq!(
        (home.names_in("keys"), home.names_in("public")),
        (vec!["first.key".to_owned()], vec!["first.json".to_owned()])
    );
    let config = home.read("bulkhead.toml").replace("issuer.jwks.json", "public/first.json");
    home.write("bulkhead.toml", &config);
    let mint = ["token", "mint", "--tenant", "acme", "--role", "member", "--key", "keys/first.key"];
    let token = home.run(mint).ok().stdout;
    home.run(["token", "inspect", token.trim()]).ok().says(&["verdict accepted"]);
    home.run(["token", "inspect", &home.token("acme", &["--role", "member"])]).found();
}

#[test]
fn half_of_a_pair_is_completed_where_that_is_safe() {
    let home = Home::empty();
    home.run(["init", "issuer"]).ok();
    let (key, jwks) = (home.read("issuer/issuer.key"), home.read("issuer/issuer.jwks.json"));
    std::fs::remove_file(home.path("issuer/issuer.jwks.json")).unwrap();
    home.run(["init", "issuer"]).ok();
    assert_eq!(
        (home.read("issuer/issuer.key"), home.read("issuer/issuer.jwks.json")),
        (key, jwks.clone())
    );

    std::fs::remove_file(home.path("issuer/issuer.key")).unwrap();
    home.run(["init", "issuer"]).failed(1).says(&["issuer/issuer.key is missing", "backup"]);
    assert_eq!(home.names_in("issuer"), ["issuer.jwks.json"]);

    home.run(["init", "issuer", "--dir", "other"]).ok();
    home.write("other/issuer.jwks.json", &jwks);
    let ran = home.run(["init", "issuer", "--dir", "other"]).failed(1);
    ran.says(&["other/issuer.jwks.json", "does not hold the public half of other/issuer.key"]);
    home.write("other/issuer.key", "nothing of the kind");
    home.run(["init", "issuer", "--dir", "other"]).failed(1).says(&["other/issuer.key"]);
    assert_eq!(home.read("other/issuer.key"), "nothing of the kind");
}
