//! A pattern, written as MQTT topic filters, matches on MQTT brokers what the pattern itself matches.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at a surprise"
)]

mod common;

use bulkhead_devkit::{MosquittoServer, Tools};
use bulkhead_mqtt_broker::codec::{QoS, matches};
use bulkhead_policy::{Broker, Pattern};
use common::{Client, Heard};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The third is named by no pattern: it stands for everything else.
const ALPHABET: [&str; 3] = ["a", "b", "z"];

/// Every name of up to three levels.
fn names() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut last = vec![String::new()];
    for _ in 0..3 {
        last = last
            .iter()
            .flat_map(|head| ALPHABET.map(|s| format!("{head}/{s}").trim_matches('/').to_owned()))
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

fn admitted(pattern: &Pattern, names: &[String]) -> BTreeSet<String> {
    let admits = |name: &&String| pattern.matches(&Broker::Mqtt.name(name).unwrap());
    names.iter().filter(admits).cloned().collect()
}

proptest! {
    #[test]
    fn matchers_agree(
        steps in prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..4),
        rest in any::<bool>(),
    ) {
        let text = if rest { format!("{}/**", steps.join("/")) } else { steps.join("/") };
        let pattern: Pattern = text.parse().unwrap();
        let filters = Broker::Mqtt.render(&pattern).unwrap();
        for name in names() {
            let expected = pattern.matches(&Broker::Mqtt.name(&name).unwrap());
            prop_assert_eq!(filters.iter().any(|f| matches(f, &name)), expected);
            let of_rumqttd = |f: &String| rumqttd::protocol::matches(&name, f);
            prop_assert_eq!(filters.iter().any(of_rumqttd), expected, "{} on {}", text, name);
        }
    }
}

#[test]
fn mosquitto_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Tools::open().unwrap().mosquitto().unwrap().broker;
    let config = "allow_anonymous true\nmax_queued_messages 0\n";
    let mosquitto = MosquittoServer::start(&broker, folder.path(), config).unwrap();
    let names = names();
    for text in
        ["a", "*", "a/*", "*/b", "a/**", "*/**", "a/*/b", "*/*", "a/b/**", "*/a/**", "*/*/*"]
    {
        let pattern: Pattern = text.parse().unwrap();
        let (mut client, _) = Client::connect(mosquitto.address(), "matcher", true).unwrap();
        for filter in Broker::Mqtt.render(&pattern).unwrap() {
            client.subscribe(&filter, QoS::AtMostOnce).unwrap();
        }
        for name in &names {
            client.publish(name, b"x", QoS::AtMostOnce, 0, false, false).unwrap();
        }
        client.publish("$after", b"", QoS::AtLeastOnce, 1, false, false).unwrap();
        let mut heard = BTreeSet::new();
        loop {
            match client.next().unwrap() {
                Heard::Publish { topic, .. } => drop(heard.insert(topic)),
                Heard::PubAck(1, _) => client.ping().unwrap(),
                Heard::PingResp => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard, admitted(&pattern, &names), "{text}");
    }
}
