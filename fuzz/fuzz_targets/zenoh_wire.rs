//! What a Zenoh client or router sends, of any bytes: no panic, nothing kept beyond the bound, and in what
//! Zenoh's codec writes of it, the gate finds the same keys and ends.

#![no_main]

use bulkhead_zenoh::fuzzing::{batches, messages};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    if kind % 2 == 0 {
        messages(bytes);
    } else {
        batches(bytes);
    }
});
