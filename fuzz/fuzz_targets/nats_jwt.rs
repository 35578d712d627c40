//! NATS JWTs and sealed messages of any bytes: no panic, and nothing unsigned verifies.

#![no_main]

use bulkhead_auth_callout::jwt::{Account, AuthRequest, Unverified, User};
use bulkhead_auth_callout::xkey::CurveKey;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static CURVE: LazyLock<CurveKey> =
    LazyLock::new(|| CurveKey::from_seed(&CurveKey::generate_seed().unwrap()).unwrap());

fuzz_target!(|input: &[u8]| {
    assert!(CURVE.open(input, CURVE.public()).is_err(), "nobody has the key to seal this");
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = CURVE.open(input, text);
    if let Ok(request) = Unverified::<AuthRequest>::decode(text) {
        assert!(request.verify().is_err(), "signed by chance");
    }
    let _ = Unverified::<User>::decode(text).map(Unverified::verify);
    let _ = Unverified::<Account>::decode(text).map(Unverified::verify);
});
