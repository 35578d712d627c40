//! Names, filters and patterns from any text: no panic, and what is read means what was written.

#![no_main]

use bulkhead_policy::{Broker, Pattern, Template};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (left, right) = input;
    let _ = left.parse::<Template>();
    if let Ok(pattern) = left.parse::<Pattern>() {
        assert_eq!(pattern.to_string().parse::<Pattern>().as_ref(), Ok(&pattern));
        assert!(pattern.includes(&pattern) && pattern.intersects(&pattern));
        if let Ok(other) = right.parse::<Pattern>()
            && pattern.includes(&other)
        {
            assert!(pattern.intersects(&other), "{pattern} includes {other}");
        }
    }
    for broker in Broker::ALL {
        let Ok(filter) = broker.filter(left) else { continue };
        let written = broker.render(&filter).unwrap_or_else(|error| {
            panic!("{broker}: what was read cannot be written: {error}");
        });
        if let Ok(name) = broker.name(right)
            && filter.matches(&name)
        {
            let again = written.iter().filter_map(|text| broker.filter(text).ok());
            assert!(again.into_iter().any(|f| f.matches(&name)), "{broker}: {filter} {right}");
        }
    }
});
