//! The pattern algebra against brute force, and its rendering against the brokers' own matching.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_policy::{Broker, KeyExpr, Name, Pattern};
use proptest::prelude::*;
use std::sync::LazyLock;

/// Two letters are what patterns are made of, the third is the one that no literal names: it stands
/// for the rest of an unbounded alphabet.
const ALPHABET: [&str; 3] = ["a", "b", "z"];
const DEEPEST: usize = 5;

/// Every name of up to `DEEPEST` segments.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut all = Vec::new();
    let mut last: Vec<String> = vec![String::new()];
    for _ in 0..DEEPEST {
        last = last
            .iter()
            .flat_map(|head| ALPHABET.map(|s| format!("{head}/{s}").trim_start_matches('/').into()))
            .collect();
        all.extend(last.iter().cloned());
    }
    all
});

fn names() -> impl Iterator<Item = Name<'static>> {
    NAMES.iter().map(|name| Broker::Mqtt.name(name).unwrap())
}

/// Patterns short enough for `NAMES` to tell any two of them apart.
fn pattern() -> impl Strategy<Value = Pattern> {
    let segment = prop_oneof![Just("a"), Just("b"), Just("*")];
    (prop::collection::vec(segment, 0..4), any::<bool>())
        .prop_filter("a pattern has a segment", |(head, rest)| !head.is_empty() || *rest)
        .prop_map(|(mut head, rest)| {
            head.extend(rest.then_some("**"));
            head.join("/").parse().unwrap()
        })
}

/// Key expressions with everything that a pattern cannot say.
fn key_expr() -> impl Strategy<Value = String> {
    const CHUNKS: [&str; 9] = ["a", "b", "ab", "*", "**", "a$*", "$*b", "a$*b", "b$*a"];
    let chunk = prop::sample::select(CHUNKS.as_slice());
    prop::collection::vec(chunk, 1..5).prop_map(|chunks| canonical(&chunks.join("/")))
}

/// What the definition says, written the slow way.
fn belongs(pattern: &str, name: &str) -> bool {
    let (steps, parts): (Vec<_>, Vec<_>) =
        (pattern.split('/').collect(), name.split('/').collect());
    let fixed = steps.iter().take_while(|s| **s != "**").count();
    let long_enough = if fixed < steps.len() { parts.len() >= fixed } else { parts.len() == fixed };
    long_enough && steps[..fixed].iter().zip(&parts).all(|(s, p)| *s == "*" || s == p)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn matches_is_its_definition(p in pattern()) {
        for (name, text) in names().zip(NAMES.iter()) {
            prop_assert_eq!(p.matches(&name), belongs(&p.to_string(), text), "{} on {}", p, text);
        }
    }

    #[test]
    fn includes_is_inclusion_of_sets(p in pattern(), q in pattern()) {
        let sets = names().all(|name| !q.matches(&name) || p.matches(&name));
        prop_assert_eq!(p.includes(&q), sets, "{} ⊇ {}", p, q);
    }

    #[test]
    fn intersects_is_overlap_of_sets(p in pattern(), q in pattern()) {
        let sets = names().any(|name| p.matches(&name) && q.matches(&name));
        prop_assert_eq!(p.intersects(&q), sets, "{} ∩ {}", p, q);
        prop_assert_eq!(p.intersects(&q), q.intersects(&p));
    }

    #[test]
    fn inclusion_is_reflexive_and_transitive(p in pattern(), q in pattern(), r in pattern()) {
        prop_assert!(p.includes(&p));
        prop_assert!(!(p.includes(&q) && q.includes(&r)) || p.includes(&r));
        prop_assert!(!p.includes(&q) || p.intersects(&q));
    }

    #[test]
    fn a_rendered_pattern_reads_back_as_the_same_set(p in pattern()) {
        for broker in Broker::ALL {
            let filters: Vec<Pattern> = broker
                .render(&p)
                .unwrap()
                .iter()
                .map(|filter| broker.filter(filter).unwrap())
                .collect();
            for name in names() {
                let any = filters.iter().any(|f| f.matches(&name));
                prop_assert_eq!(any, p.matches(&name), "{} on {}", p, broker);
            }
        }
    }

    #[test]
    fn zenoh_agrees_on_membership_inclusion_and_overlap(p in pattern(), q in pattern()) {
        use zenoh_keyexpr::keyexpr;
        let render = |p: &Pattern| Broker::Zenoh.render(p).unwrap().remove(0);
        let (pz, qz) = (render(&p), render(&q));
        let (pz, qz) = (canonical(&pz), canonical(&qz));
        let (pz, qz) = (keyexpr::new(&*pz).unwrap(), keyexpr::new(&*qz).unwrap());
        prop_assert_eq!(pz.includes(qz), p.includes(&q), "{} ⊇ {}", pz, qz);
        prop_assert_eq!(pz.intersects(qz), p.intersects(&q), "{} ∩ {}", pz, qz);
        for (name, text) in names().zip(NAMES.iter()) {
            prop_assert_eq!(pz.includes(keyexpr::new(text.as_str()).unwrap()), p.matches(&name));
        }
    }

    #[test]
    fn zenoh_agrees_on_key_expressions(p in pattern(), text in key_expr()) {
        use zenoh_keyexpr::keyexpr;
        let rendered = canonical(&Broker::Zenoh.render(&p).unwrap().remove(0));
        let (theirs, asked) = (keyexpr::new(&*rendered).unwrap(), keyexpr::new(&*text).unwrap());
        let ours = KeyExpr::parse(&text).unwrap();
        prop_assert_eq!(ours.is_wild(), text.contains('*'));
        prop_assert_eq!(p.includes_keys(&ours), theirs.includes(asked), "{} ⊇ {}", p, text);
        prop_assert_eq!(p.meets_keys(&ours), theirs.intersects(asked), "{} ∩ {}", p, text);
    }

    #[test]
    fn key_expressions_that_meet_for_zenoh_meet_here(one in key_expr(), other in key_expr()) {
        use zenoh_keyexpr::keyexpr;
        let theirs = keyexpr::new(&*one).unwrap().intersects(keyexpr::new(&*other).unwrap());
        let ours = KeyExpr::parse(&one).unwrap().meets(&KeyExpr::parse(&other).unwrap());
        prop_assert!(ours || !theirs, "{} ∩ {}", one, other);
        let partial = one.contains('$') && other.contains('$');
        prop_assert!(partial || ours == theirs, "{} ∩ {}", one, other);
    }

    #[test]
    fn what_is_taken_for_a_key_expression_is_one(text in "\\PC{0,20}|[ab*$/@#?.]{0,12}") {
        if KeyExpr::parse(&text).is_ok() {
            prop_assert!(zenoh_keyexpr::keyexpr::new(&text).is_ok(), "{:?}", text);
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}|[a-c*>+#/.{}$@]{0,40}") {
        let _ = text.parse::<Pattern>();
        for broker in Broker::ALL {
            let _ = broker.name(&text);
            let _ = broker.filter(&text);
        }
        let _ = KeyExpr::parse(&text);
    }
}

/// Zenoh compares canonical key expressions only.
fn canonical(text: &str) -> String {
    let mut text = text.to_owned();
    use zenoh_keyexpr::canon::Canonize;
    text.canonize();
    text
}

#[test]
fn a_literal_slot_takes_no_wildcard() {
    let replies: Pattern = "_reply/{literal}".parse().unwrap();
    assert!(replies.includes(&Broker::Mqtt.filter("_reply/6f1c").unwrap()));
    for snoop in ["_reply/+", "_reply/#", "_reply", "_reply/6f1c/#", "+/6f1c", "#"] {
        assert!(!replies.includes(&Broker::Mqtt.filter(snoop).unwrap()), "{snoop}");
    }
    assert!(replies.matches(&Broker::Mqtt.name("_reply/6f1c").unwrap()));
}
