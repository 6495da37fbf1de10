//! Conversations: the requests that chat-service answers, and the events that it publishes.

mod backends;
mod changes;
mod conversations;
mod joins;
mod kinds;
mod messages;
mod mine;
mod moderation;

pub use backends::{ConversationOpened, DescribeMessages, DescribedMessage, MarkerMoved, MessageSent};
pub use changes::{
    Action, ChangeMessage, ChangePage, DeletedBy, GetMessage, ListMessages, ListVersions, ListedMessage,
    MessageChanged, PageChanges, RemoveMessage, UpdateMessage, Version,
};
pub use conversations::{
    Conversation, CreateConversation, EnsureConversation, GetConversation, Invitee, ListConversations,
    OpenConversation, Opened, Participant,
};
pub use joins::{Admitted, FindBlocks, FindPeople, JoinBatch, JoinReply, JoinRequest, PAIRS_MAX, Person};
pub use kinds::{Data, Kind, Kinds, ListKinds, is_kind_name};
pub use messages::{
    ConversationHead, CountUnread, Heads, MarkRead, MessagePage, PageMessages, Receipt, Send, SendBatch,
    SendOne, Sent, StoreOne, StoredOne, Unread,
};
pub use mine::{Mine, MineChanges, MutedUntil, SetMine};
pub use moderation::{ListBlocks, MakeReport, ReportMade, Reported, SetBlock};

use crate::{ConversationId, Event, MessageId, Seq, Timestamp, TraceParent, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A message, as in the protocol's frames and pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// Conversation of the message.
    pub conversation_id: ConversationId,
    /// Id, unique across all conversations; grows with `seq`.
    pub message_id: MessageId,
    /// Position in the conversation.
    #[schema(value_type = i64, minimum = 1)]
    pub seq: Seq,
    /// Author of the message.
    pub sender_id: UserId,
    /// Display name of the sender at the time of sending.
    pub sender_username: String,
    /// Text, trimmed.
    pub content: String,
    /// Time of the commit.
    pub created_at: Timestamp,
    /// True if every other participant has read the message.
    pub is_read: bool,
    /// The sender's own id for the message. Only ever shown to the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub client_id: Option<String>,
    /// Kind of the message; absent in a plain message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub kind: Option<String>,
    /// Data of the message, which fits the schema of its kind. A deleted message has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, nullable = false)]
    pub data: Option<Data>,
    /// The message of the same conversation to which this one replies. It may be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reply_to: Option<MessageId>,
    /// True if the marketplace itself sent the message. Its sender is no participant. Absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// Number of the message's last change, among all changes of the conversation; absent if it never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1)]
    pub change: Option<i64>,
    /// Time of the last edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub edited_at: Option<Timestamp>,
    /// Time of the deletion. The content of a deleted message is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub deleted_at: Option<Timestamp>,
    /// Who deleted the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub deleted_by: Option<DeletedBy>,
}

/// Read marker: how far a user has read a conversation. Moves forward only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Conversation that was read.
    pub conversation_id: ConversationId,
    /// Reader.
    pub user_id: UserId,
    /// Last message read.
    pub message_id: MessageId,
    /// `seq` of that message.
    pub seq: Seq,
    /// Time of the marker's last move.
    pub read_at: Timestamp,
    /// The conversation's last `seq` minus the marker's. Only ever shown to `user_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_count: Option<i64>,
    /// True if the marker moved because the user sent that message. The message itself implies the move, so no `read`
    /// frame is sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_sending: bool,
}

/// chat-service → gateways: an event in a conversation, published after its commit.
///
/// The JSON is the protocol's frame with every field that anyone may see. The gateway removes the fields that a socket
/// may not see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChatEvent {
    /// A message was stored.
    Message(Message),
    /// A marker moved for a reason other than sending.
    Read(Marker),
    /// A message was edited or deleted.
    Changed {
        /// Conversation of the message.
        conversation_id: ConversationId,
        /// Number of the change.
        change: i64,
        /// The whole message as it is now.
        message: Message,
    },
}

impl ChatEvent {
    /// Parses an event.
    ///
    /// # Errors
    /// If the text is not an event.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Type {
            Message,
            Read,
            Changed,
        }
        #[derive(Deserialize)]
        struct Tag {
            r#type: Type,
        }
        #[derive(Deserialize)]
        struct Changed {
            conversation_id: ConversationId,
            change: i64,
            message: Message,
        }
        // Most events are messages. As serialized, the tag comes first; it is skipped as an unknown field, and the text
        // is read once.
        if text.starts_with(r#"{"type":"message","#) {
            return serde_json::from_str(text).map(Self::Message);
        }
        // Not by an attribute of serde: it would copy every field, and could not keep the text of `data`.
        let Tag { r#type } = serde_json::from_str(text)?;
        Ok(match r#type {
            Type::Message => Self::Message(serde_json::from_str(text)?),
            Type::Read => Self::Read(serde_json::from_str(text)?),
            Type::Changed => {
                let Changed { conversation_id, change, message } = serde_json::from_str(text)?;
                Self::Changed { conversation_id, change, message }
            }
        })
    }

    /// Conversation of the event.
    pub fn conversation_id(&self) -> ConversationId {
        match self {
            Self::Message(message) => message.conversation_id,
            Self::Read(marker) => marker.conversation_id,
            Self::Changed { conversation_id, .. } => *conversation_id,
        }
    }

    /// Subject of a conversation's events.
    pub fn subject_of(conversation: ConversationId) -> String {
        format!("chat.event.{conversation}")
    }
}

impl<'de> Deserialize<'de> for ChatEvent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        Self::parse(text.get()).map_err(serde::de::Error::custom)
    }
}

impl Event for ChatEvent {
    const PATTERN: &'static str = "chat.event.*";

    fn subject(&self) -> String {
        Self::subject_of(self.conversation_id())
    }
}

/// chat-service → notify-service, over [`CHAT_STREAM`](crate::streams::CHAT_STREAM). Delivered at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogEntry {
    /// Messages were stored, in one or more commits.
    Stored {
        /// The messages, in the order of storing.
        messages: Vec<Stored>,
    },
    /// A marker moved for a reason other than sending.
    Read {
        /// Reader.
        user_id: UserId,
        /// Conversation that was read.
        conversation_id: ConversationId,
        /// Last message read.
        message_id: MessageId,
        /// The whole marker with the user's `unread_count`, for the user's own sockets. Earlier releases omit it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        marker: Option<Marker>,
    },
    /// A message was edited or deleted.
    Changed {
        /// Conversation of the message.
        conversation_id: ConversationId,
        /// The message.
        message_id: MessageId,
        /// Whether it is deleted.
        deleted: bool,
        /// Markers that moved past it, each with its user's `unread_count`.
        markers: Vec<Marker>,
    },
    /// A conversation was created, if the operator wants events of it. Earlier releases don't know this entry.
    Opened {
        /// The event.
        event: ConversationOpened,
    },
    /// A participant muted a conversation, or ended a mute. Earlier releases don't know this entry.
    Muted {
        /// The participant.
        user_id: UserId,
        /// The conversation.
        conversation_id: ConversationId,
        /// End of the mute; absent if the conversation is not muted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        muted_until: Option<MutedUntil>,
        /// Greater in later changes by the same participant. The state may be newer than the change.
        change: i64,
    },
}

impl Event for LogEntry {
    const PATTERN: &'static str = "chat.log";

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// The part of a stored message that notify-service needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Conversation of the message.
    pub conversation_id: ConversationId,
    /// Id of the message.
    pub message_id: MessageId,
    /// Position in the conversation, used to count unread messages. Earlier releases omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// Author, whose own marker moved to this message.
    pub sender_id: UserId,
    /// Display name of the sender.
    pub sender_username: String,
    /// All other participants.
    pub recipients: Vec<UserId>,
    /// Recipients who have muted the conversation; absent if nobody has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub muted: Vec<UserId>,
    /// Kind of the message; absent in a plain message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// True if the message causes no notification.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
    /// True if the marketplace itself sent the message, so that it moves no marker.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// Parent span of the notifications, if the message is traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_serializes_to_the_frame_of_the_protocol() {
        let json = r#"{"type":"message","conversation_id":123,"message_id":987,"seq":17,"sender_id":456,"sender_username":"john_doe","content":"Bonjour!","created_at":"2025-12-09T10:30:00.123456Z","is_read":false,"client_id":"3f6c"}"#;
        let event: ChatEvent = serde_json::from_str(json).unwrap();
        assert_eq!(event.subject(), "chat.event.123");
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
    }

    #[test]
    fn the_text_of_data_stays_as_it_is() {
        let json = r#"{"type":"message","conversation_id":123,"message_id":987,"seq":17,"sender_id":456,"sender_username":"john_doe","content":"45 €","created_at":"2025-12-09T10:30:00.123456Z","is_read":false,"kind":"offer","data":{"b": 1.50, "a":{}},"reply_to":985,"system":true}"#;
        let event: ChatEvent = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
        let last = json.replacen(r#""type":"message","#, "", 1);
        let last = format!(r#"{},"type":"message"}}"#, last.strip_suffix('}').unwrap());
        assert_eq!(ChatEvent::parse(&last).unwrap(), event, "wherever the tag is");
        assert!(ChatEvent::parse(r#"{"type":"message","seq":1}"#).is_err());
        assert!(ChatEvent::parse(r#"{"type":"unknown"}"#).is_err());
        assert!(ChatEvent::parse(r#"{"type":"read"}"#).is_err());
    }

    #[test]
    fn a_key_made_by_the_gateway_is_never_public() {
        assert_eq!(Send::public_key(Send::own_key(7)), None);
        assert_eq!(Send::public_key("7".into()), Some("7".into()));
    }
}
