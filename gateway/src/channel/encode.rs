//! Encodes the frames for clients. Each frame is encoded once and shared by all sockets.

use crate::{
    channel::entry::{Change, Counts, Entry, Note},
    websocket::Frame,
};
use contract::{
    Refusal, Timestamp, UserId,
    chat::{ChatEvent, Marker, Message},
    frames::ServerFrame,
    log::Head,
    notify::{InboxEvent, InboxPlace, InboxRead, InboxSeen, Notification, ReadPlace},
    typing::TypingEvent,
};
use serde::Serialize;

/// An event of a log channel.
pub enum Event {
    /// A new entry, with the time of its commit if that is known.
    Entry(Entry, Option<Timestamp>),
    /// A change of an earlier entry.
    Change(Change),
    /// News of earlier entries.
    Note(Note),
}

/// Parses an event of a conversation, published by chat-service.
///
/// # Errors
/// If the payload is not such an event.
pub fn chat_event(payload: &[u8]) -> serde_json::Result<Event> {
    let text = text(payload)?;
    Ok(match ChatEvent::parse(text)? {
        ChatEvent::Read(marker) => Event::Note(Note::Marker(marker)),
        // The payload is exactly the frame for the sender.
        ChatEvent::Message(message) => {
            let committed = Some(message.created_at);
            Event::Entry(entry(message, Some(Frame::text(text))), committed)
        }
        ChatEvent::Changed { change: number, message, .. } => {
            Event::Change(changed(number, message, Some(Frame::text(text))))
        }
    })
}

fn text(payload: &[u8]) -> serde_json::Result<&str> {
    std::str::from_utf8(payload).map_err(|_| serde::de::Error::custom("not UTF-8"))
}

/// Encodes a message of a page.
pub fn message(message: Message) -> Entry {
    entry(message, None)
}

fn entry(mut message: Message, full: Option<Frame>) -> Entry {
    let at = Head { seq: message.seq, id: message.message_id.get() };
    let owner = message.sender_id;
    let moves_marker = !message.system;
    let full = full.unwrap_or_else(|| encode(&ChatEvent::Message(message.clone())));
    let (public, private) = match message.client_id.take() {
        None => (full, None),
        Some(id) => {
            let public =
                without_client_id(&full, &id).unwrap_or_else(|| encode(&ChatEvent::Message(message)));
            (public, Some(full))
        }
    };
    Entry { at, owner, moves_marker, public, private, counts: None }
}

/// The same message without its `client_id`, if that is the last field, as in a plain message.
fn without_client_id(full: &Frame, client_id: &str) -> Option<Frame> {
    let client_id = serde_json::to_string(client_id).ok()?;
    let fields = full.payload().strip_suffix(b"}")?.strip_suffix(client_id.as_bytes())?;
    let fields = fields.strip_suffix(br#","client_id":"#)?;
    Some(Frame::text_of(|bytes| {
        bytes.extend_from_slice(fields);
        bytes.push(b'}');
    }))
}

/// Encodes a changed message of a page.
pub fn change(message: Message) -> Change {
    changed(message.change.unwrap_or_default(), message, None)
}

fn changed(number: i64, mut message: Message, full: Option<Frame>) -> Change {
    let conversation_id = message.conversation_id;
    let event = |message: &Message| {
        encode(&ChatEvent::Changed { conversation_id, change: number, message: message.clone() })
    };
    let at = Head { seq: message.seq, id: message.message_id.get() };
    let owner = message.sender_id;
    let full = full.unwrap_or_else(|| event(&message));
    let (public, private) = match message.client_id.take() {
        None => (full, None),
        Some(_) => (event(&message), Some(full)),
    };
    Change { number, entry: Entry { at, owner, moves_marker: false, public, private, counts: None } }
}

/// Parses an event of a user's inbox. A read gets `place`, its position from the event's header.
///
/// # Errors
/// If the payload is not such an event.
pub fn inbox_event(user: UserId, place: Option<ReadPlace>, payload: &[u8]) -> serde_json::Result<Event> {
    Ok(match InboxPlace::parse(payload)? {
        InboxPlace::Read(read) => Event::Note(Note::Inbox(read, place)),
        InboxPlace::Marker(marker, moves) => Event::Note(Note::OwnMarker(marker, moves)),
        InboxPlace::Mine(mine) => Event::Note(Note::Mine(mine)),
        InboxPlace::Seen(seen) => Event::Note(Note::Seen(seen, place)),
        InboxPlace::Notification { seq, id, unread_count: unread, unseen_count: unseen } => {
            let at = Head { seq, id: id.get() };
            let public = Frame::text(text(payload)?);
            let entry = Entry {
                at,
                owner: user,
                moves_marker: true,
                public,
                private: None,
                counts: Some(Counts { unread, unseen }),
            };
            Event::Entry(entry, None)
        }
    })
}

/// Encodes a notification of a page.
pub fn notification(user: UserId, notification: &Notification) -> Entry {
    Entry {
        at: Head { seq: notification.seq, id: notification.notification_id.get() },
        owner: user,
        moves_marker: true,
        public: encode(notification),
        private: None,
        counts: Some(Counts { unread: notification.unread_count, unseen: notification.unseen_count }),
    }
}

/// The frame for a read in an inbox.
pub fn inbox_read(read: &InboxRead) -> Frame {
    encode(&InboxEvent::Read(*read))
}

/// The frame for what a user has seen.
pub fn inbox_seen(seen: &InboxSeen) -> Frame {
    encode(seen)
}

/// The frame for a marker that moved.
pub fn read(marker: &Marker) -> Frame {
    encode(&ChatEvent::Read(*marker))
}

/// The frame for a user who starts or stops typing.
pub fn typing(event: &TypingEvent) -> Frame {
    encode(&TypingEvent { gateway: None, at_ms: None, ..event.clone() })
}

/// The frame for a refusal.
pub fn error(refusal: &Refusal, client_id: Option<&str>) -> Frame {
    encode(&ServerFrame::Error { refusal, client_id })
}

/// Encodes a type of the contract as a frame.
pub fn encode(frame: &impl Serialize) -> Frame {
    Frame::text_of(|bytes| {
        serde_json::to_writer(bytes, frame)
            .expect("the contract's types can be encoded: all map keys are strings");
    })
}

/// Wraps a channel's frame in an envelope for multiplexed sockets.
pub fn wrap(channel: &str, frame: &Frame) -> Frame {
    Frame::text_of(|bytes| {
        for part in
            [br#"{"op":"event","channel":""#, channel.as_bytes(), br#"","data":"#, frame.payload(), b"}"]
        {
            bytes.extend_from_slice(part);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{ConversationId, MessageId, chat::Data};
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn message(content: String, client_id: Option<String>, extra: u8) -> Message {
        let data = r#"{"client_id":"c","note":"\"}"}"#;
        Message {
            conversation_id: ConversationId::new(123).unwrap(),
            message_id: MessageId::new(987).unwrap(),
            seq: 12,
            sender_id: UserId::new(456).unwrap(),
            sender_username: "john_doe".to_owned(),
            content,
            created_at: Timestamp::now(),
            is_read: false,
            client_id,
            kind: (extra & 1 > 0).then(|| "offer".to_owned()),
            data: (extra & 1 > 0).then(|| Data::new(RawValue::from_string(data.to_owned()).unwrap())),
            reply_to: (extra & 2 > 0).then(|| MessageId::new(985).unwrap()),
            system: extra & 4 > 0,
            change: None,
            edited_at: None,
            deleted_at: None,
            deleted_by: None,
        }
    }

    proptest! {
        #[test]
        fn others_receive_the_message_without_its_client_id(
            content: String,
            client_id: Option<String>,
            extra in 0_u8..8,
        ) {
            let message = message(content, client_id, extra);
            let payload = serde_json::to_vec(&ChatEvent::Message(message.clone())).unwrap();
            let Event::Entry(entry, _) = chat_event(&payload).unwrap() else { panic!("an entry") };
            let public = encode(&ChatEvent::Message(Message { client_id: None, ..message.clone() }));
            prop_assert_eq!(entry.public.payload(), public.payload());
            let private = message.client_id.is_some().then_some(&payload[..]);
            prop_assert_eq!(entry.private.as_ref().map(Frame::payload), private);
        }
    }
}
