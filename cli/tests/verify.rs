//! `bulkhead verify`, as far as no broker is needed. What it says of real ones is in
//! `tests/tests/verify`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use common::Home;

#[test]
fn the_example_is_a_file_to_start_from() {
    let home = Home::empty();
    let example = home.run(["verify", "--example"]).ok();
    example.says(&["[nats.a]", "credentials_file", "password_file", "token_file", "anonymous"]);
    assert!(home.names_in(".").is_empty());
}

#[test]
fn a_file_that_says_it_wrong_ends_with_2_and_a_remedy() {
    let home = Home::empty();
    home.run(["verify", "nowhere.toml"]).failed(2).says(&["nowhere.toml", "--example"]);
    for (text, mentions) in [
        ("", ["nats, mqtt, zenoh", "add a section"]),
        ("[nats]\nservers = []\n", ["deployment.toml:2:1", "urls"]),
        ("[nats]\nurls = [\"nats://h\"]\na = {}\nb = {}\n", ["nats.a", "anonymous = true"]),
        (
            "[zenoh]\nurls = [\"tcp/h:1\"]\na = { token_file = \"t\" }\nb = { anonymous = true }\n",
            ["zenoh.a.token_file", "check the path"],
        ),
    ] {
        home.write("deployment.toml", text);
        home.run(["verify", "deployment.toml"]).failed(2).says(&mentions);
    }
}

#[test]
fn a_broker_that_is_not_there_is_no_leak_and_no_pass() {
    let home = Home::empty();
    for (section, url) in [
        ("nats", "nats://127.0.0.1:1"),
        ("mqtt", "mqtt://127.0.0.1:1"),
        ("zenoh", "tcp/127.0.0.1:1"),
    ] {
        home.write("a.token", "secret-of-a");
        home.write("b.token", "secret-of-b");
        let text = format!(
            "[{section}]\nurls = [\"{url}\"]\na.token_file = \"a.token\"\nb.token_file = \"b.token\"\n"
        );
        home.write("deployment.toml", &text);
        let ran = home.run(["verify", "deployment.toml"]).found();
        let ran = ran.says(&["UNKNOWN", "a cannot connect", "It cannot be told"]);
        assert!(!ran.stdout.contains("secret-of"), "{ran}");
        let report = home.run(["verify", "--json", "deployment.toml"]).found().json();
        assert_eq!(report["result"], "unknown");
        assert_eq!(report["rows"][0]["backend"], section);
    }
}
