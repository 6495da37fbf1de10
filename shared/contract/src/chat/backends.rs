//! Events about the chat that notify-service publishes for other backends, and the request for what they contain.

use crate::{
    ConversationId, Event, MessageId, Request, Seq, Timestamp, UserId,
    streams::{READ_SUBJECT, SENT_SUBJECT},
};
use serde::{Deserialize, Serialize};

/// notify-service → chat-service: requests what an event about messages contains besides the log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribeMessages {
    /// At most [`crate::limits::DESCRIBED_MESSAGES`] messages, each with its conversation.
    pub messages: Vec<(ConversationId, MessageId)>,
    /// Whether the reply has the texts.
    pub text: bool,
}

impl Request for DescribeMessages {
    const SUBJECT: &'static str = "chat.messages.describe";
    /// The messages that exist, in any order.
    type Reply = Vec<DescribedMessage>;
}

/// Element of the reply to [`DescribeMessages`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedMessage {
    /// The message.
    pub message_id: MessageId,
    /// Listing that its conversation is about.
    pub listing_id: Option<i64>,
    /// Position in the conversation.
    pub seq: Seq,
    /// Time of the commit.
    pub created_at: Timestamp,
    /// Text as it is now, if it was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// notify-service → other backends, over [`EVENTS_OUT_STREAM`](crate::streams::EVENTS_OUT_STREAM), if the operator wants
/// it: a message was sent. Published at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageSent {
    /// The same for each repeat.
    pub event_id: String,
    /// Time of the commit.
    pub occurred_at: Timestamp,
    /// Conversation of the message.
    pub conversation_id: ConversationId,
    /// Listing that the conversation is about.
    pub listing_id: Option<i64>,
    /// The message.
    pub message_id: MessageId,
    /// Position in the conversation. Events of one conversation are ordered by it.
    pub seq: Seq,
    /// Author.
    pub sender_id: UserId,
    /// All other participants.
    pub recipients: Vec<UserId>,
    /// Time of the commit.
    pub created_at: Timestamp,
    /// Text when the event was published, if the operator wants it; empty if the message is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Event for MessageSent {
    const PATTERN: &'static str = SENT_SUBJECT;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// notify-service → other backends, over [`EVENTS_OUT_STREAM`](crate::streams::EVENTS_OUT_STREAM), if the operator wants
/// it: a user has read a conversation up to a message. Sending a message counts as reading, without this event. Published
/// at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerMoved {
    /// The same for each repeat.
    pub event_id: String,
    /// Time of the read.
    pub occurred_at: Timestamp,
    /// Conversation that was read.
    pub conversation_id: ConversationId,
    /// Reader.
    pub user_id: UserId,
    /// Last message read.
    pub message_id: MessageId,
    /// Position of that message. Events of one reader and conversation are ordered by it.
    pub seq: Seq,
}

impl Event for MarkerMoved {
    const PATTERN: &'static str = READ_SUBJECT;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}
