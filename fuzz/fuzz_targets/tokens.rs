//! Tokens, their places in a request, and published keys: none causes a panic, and no unsigned token is accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    gateway::fuzzing::keys(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(!gateway::fuzzing::takes_token(text));
    }
});
