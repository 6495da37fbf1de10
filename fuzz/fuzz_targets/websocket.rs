//! The WebSocket decoder: the result doesn't depend on how the bytes are split.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The first byte is the length of the pieces.
    let Some((length, bytes)) = input.split_first() else { return };
    let whole = gateway::fuzzing::decode(&[bytes]);
    for length in [usize::from(*length).max(1), 1] {
        let pieces: Vec<&[u8]> = bytes.chunks(length).collect();
        assert_eq!(gateway::fuzzing::decode(&pieces), whole);
    }
});
