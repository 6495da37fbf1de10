//! Clients' frames in every dialect: none causes a panic, and accepted messages can be stored.
#![no_main]

use contract::{
    frames::{ChatFrame, InboxFrame, TypingFrame},
    limits,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(ChatFrame::Message { message, client_id, kind, data, .. }) = ChatFrame::parse(text) {
        assert!(!message.is_empty() || kind.is_some());
        assert!(message.trim() == message && !message.contains('\0'));
        assert!(data.is_none_or(|data| data.get().len() <= limits::DATA_BYTES));
        assert!(message.chars().count() <= limits::MESSAGE_CHARS);
        assert!(client_id.is_none_or(|id| (1..=limits::CLIENT_ID_CHARS).contains(&id.chars().count())));
    }
    let _ = (InboxFrame::parse(text), TypingFrame::parse(text));
    gateway::fuzzing::multiplexed(text);
});
