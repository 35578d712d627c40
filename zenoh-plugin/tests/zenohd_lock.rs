//! The library that a stock zenohd loads is built of the same releases as that zenohd.
//!
//! A router and its plugin share types of more crates than the loader compares, so a crate that both have
//! has to be one release of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use std::collections::BTreeMap;

/// The packages of zenohd's own lock file, one per line: name and version.
const ZENOHD: &str = include_str!("../dylib/zenohd-1.10.2.txt");

/// The plugin's lock file.
const PLUGIN: &str = include_str!("../dylib/Cargo.lock");

#[test]
fn what_zenohd_and_its_plugin_both_have_is_of_one_release() {
    let plugin = locked(PLUGIN);
    let mut shared = 0;
    for line in ZENOHD.lines() {
        let (name, version) = line.split_once(' ').unwrap();
        let of_same_kind = plugin.get(name).into_iter().flatten();
        for own in of_same_kind.filter(|own| compatible(own) == compatible(version)) {
            assert_eq!(
                own, &version,
                "{name}: put zenohd's release into zenoh-plugin/dylib/Cargo.lock"
            );
            shared += 1;
        }
    }
    // Nearly all of zenohd is in its plugin, too: the lists are what they are taken for.
    assert!(shared > ZENOHD.lines().count() / 2, "{shared}");
    assert_eq!(plugin["zenoh"], ["1.10.2"]);
}

#[test]
fn releases_are_compatible_up_to_their_first_number_that_is_not_zero() {
    assert_eq!(compatible("1.2.3"), compatible("1.9.0"));
    assert_ne!(compatible("1.2.3"), compatible("2.2.3"));
    assert_eq!(compatible("0.2.3"), compatible("0.2.4+x"));
    assert_ne!(compatible("0.2.3"), compatible("0.3.3"));
    assert_ne!(compatible("0.0.3"), compatible("0.0.4"));
}

/// The packages of a lock file, by name.
fn locked(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("name = ") else { continue };
        let version = lines.next().and_then(|line| line.strip_prefix("version = ")).unwrap();
        all.entry(name.trim_matches('"')).or_default().push(version.trim_matches('"'));
    }
    all
}

/// What Cargo takes for one kind of a package, of which a program has one release.
fn compatible(version: &str) -> Vec<&str> {
    let numbers: Vec<_> = version.split(['.', '+', '-']).take(3).collect();
    let leading = numbers.iter().take_while(|number| **number == "0").count();
    numbers.into_iter().take(leading + 1).collect()
}
