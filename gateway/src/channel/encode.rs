//! Encodes the frames for clients. Each frame is encoded once and shared by all sockets.

use crate::{
    channel::entry::{Change, Entry, Note},
    websocket::Frame,
};
use contract::{
    Refusal, Timestamp, UserId,
    chat::{ChatEvent, Marker, Message},
    frames::ServerFrame,
    log::Head,
    notify::{InboxEvent, InboxPlace, InboxRead, Notification, ReadPlace},
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
    let (private, moves_marker) = (message.client_id.is_some(), !message.system);
    let full = full.unwrap_or_else(|| encode(&ChatEvent::Message(message.clone())));
    if !private {
        return Entry { at, owner, moves_marker, public: full, private: None, unread: None };
    }
    message.client_id = None;
    Entry {
        at,
        owner,
        moves_marker,
        public: encode(&ChatEvent::Message(message)),
        private: Some(full),
        unread: None,
    }
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
    Change { number, entry: Entry { at, owner, moves_marker: false, public, private, unread: None } }
}

/// Parses an event of a user's inbox. A read gets `place`, its position from the event's header.
///
/// # Errors
/// If the payload is not such an event.
pub fn inbox_event(user: UserId, place: Option<ReadPlace>, payload: &[u8]) -> serde_json::Result<Event> {
    Ok(match InboxPlace::parse(payload)? {
        InboxPlace::Read(read) => Event::Note(Note::Inbox(read, place)),
        InboxPlace::Marker(marker, moves) => Event::Note(Note::OwnMarker(marker, moves)),
        InboxPlace::Notification { seq, id, unread_count } => {
            let at = Head { seq, id: id.get() };
            let public = Frame::text(text(payload)?);
            let entry = Entry {
                at,
                owner: user,
                moves_marker: true,
                public,
                private: None,
                unread: Some(unread_count),
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
        unread: Some(notification.unread_count),
    }
}

/// The frame for a read in an inbox.
pub fn inbox_read(read: &InboxRead) -> Frame {
    encode(&InboxEvent::Read(*read))
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
