//! The NATS protocol as the gateway's connection for events reads it: in whatever pieces bytes come, the same is
//! understood.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The first byte says how long the pieces are.
    let Some((length, bytes)) = input.split_first() else { return };
    let whole = gateway::fuzzing::nats(&[bytes]);
    for length in [usize::from(*length).max(1), 1] {
        let pieces: Vec<&[u8]> = bytes.chunks(length).collect();
        assert_eq!(gateway::fuzzing::nats(&pieces), whole);
    }
});
