//! Tokens, the places that they come in, and published keys: none panics, and none that nobody signed is taken.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    gateway::fuzzing::keys(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(!gateway::fuzzing::takes_token(text));
    }
});
