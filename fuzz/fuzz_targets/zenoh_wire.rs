//! What a Zenoh client or router sends, of any bytes: no panic, nothing kept beyond the bound, and in what
//! Zenoh's codec writes of it, the gate finds the same keys and ends; whatever ids a client declares, the
//! gate takes them for the keys that a router does.

#![no_main]

use bulkhead_zenoh::fuzzing::{batches, messages, names};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 3 {
        0 => _ = messages(bytes),
        1 => batches(bytes),
        _ => _ = names(bytes),
    }
});
