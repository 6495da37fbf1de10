//! Events about the chat that notify-service publishes for other backends, and the request for what they contain.

use crate::{
    ConversationId, Event, MessageId, Request, Seq, Timestamp, UserId,
    streams::{OPENED_SUBJECT, READ_SUBJECT, SENT_SUBJECT},
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

/// notify-service → other backends, over [`EVENTS_OUT_STREAM`](crate::streams::EVENTS_OUT_STREAM), if the operator
/// wants it: a message was sent. Published at least once.
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
    /// Kind of the message; absent in a plain message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
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

/// notify-service → other backends, over [`EVENTS_OUT_STREAM`](crate::streams::EVENTS_OUT_STREAM), if the operator
/// wants it: a user has read a conversation up to a message. Sending a message counts as reading, without this event.
/// Published at least once.
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

/// notify-service → other backends, over [`EVENTS_OUT_STREAM`](crate::streams::EVENTS_OUT_STREAM), if the operator
/// wants it: a conversation was created. Published at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationOpened {
    /// The same for each repeat.
    pub event_id: String,
    /// Time of the commit.
    pub occurred_at: Timestamp,
    /// The new conversation.
    pub conversation_id: ConversationId,
    /// Listing that the conversation is about.
    pub listing_id: Option<i64>,
    /// All participants, by id.
    pub participant_ids: Vec<UserId>,
}

impl ConversationOpened {
    /// The event of a conversation.
    pub fn new(
        conversation_id: ConversationId,
        listing_id: Option<i64>,
        participant_ids: Vec<UserId>,
        created_at: Timestamp,
    ) -> Self {
        let event_id = format!("{OPENED_SUBJECT}-{conversation_id}");
        Self { event_id, occurred_at: created_at, conversation_id, listing_id, participant_ids }
    }
}

impl Event for ConversationOpened {
    const PATTERN: &'static str = OPENED_SUBJECT;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}
