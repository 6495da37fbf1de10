//! Data of messages and files of kinds: none causes a panic, and what is accepted can be stored and is accepted again.
#![no_main]

use chat_service::kinds::{Kinds, Origin, Source};
use contract::{
    ConversationId, UserId,
    chat::Send,
    frames::ChatFrame,
    limits,
};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static KINDS: LazyLock<Kinds> = LazyLock::new(|| {
    Kinds::load(&Source { folder: None, lang: "fr".to_owned() }).expect("the built-in kinds")
});

fuzz_target!(|text: &str| {
    let _ = Kinds::check_file(text);
    let Ok(ChatFrame::Message { message, client_id, kind, data, reply_to }) = ChatFrame::parse(text) else { return };
    let send = Send {
        conversation_id: ConversationId::new(1).expect("positive"),
        sender_id: UserId::new(1).expect("positive"),
        sender_username: None,
        sender_named_at: None,
        message,
        client_id,
        kind,
        data,
        reply_to,
        system: false,
    };
    for by in [Origin::Users, Origin::Backends] {
        let Ok(sent) = KINDS.check(send.clone(), by) else { continue };
        assert!(!sent.message.is_empty() && !sent.message.contains('\0'));
        assert!(sent.message.chars().count() <= limits::MESSAGE_CHARS);
        assert!(sent.data.as_ref().is_none_or(|data| data.get().len() <= limits::DATA_BYTES));
        assert_eq!(KINDS.check(sent.clone(), by), Ok(sent));
    }
});
