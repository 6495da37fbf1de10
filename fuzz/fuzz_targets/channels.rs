//! Names of channels and ids in subjects: each accepted text names one thing in one way.
#![no_main]

use contract::{ConversationId, UserId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(name) = gateway::fuzzing::channel(text) {
        // Leading zeros are accepted, and removed in the normalized name.
        assert_eq!(gateway::fuzzing::channel(&name).as_ref(), Some(&name));
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'/'), "{name}");
    }
    if let Ok(id) = text.parse::<ConversationId>() {
        assert!(id.get() > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    let _ = text.parse::<UserId>();
});
