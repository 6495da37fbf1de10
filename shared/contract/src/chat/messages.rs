//! Requests about messages: sending, paging, reading.

use super::{Data, Marker, Message};
use crate::log::{Head, Range};
use crate::{ConversationId, Deadline, MessageId, Refusal, Request, Seq, Timestamp, TraceParent, UserId};
use serde::{Deserialize, Serialize};

/// A message to store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    /// Target conversation.
    pub conversation_id: ConversationId,
    /// Author.
    pub sender_id: UserId,
    /// Name in the sender's token, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_username: Option<String>,
    /// Issue time of that token, in Unix seconds. The newer of two names is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_named_at: Option<i64>,
    /// Text of the message.
    pub message: String,
    /// Idempotency key, unique for the sender and conversation. If the client sends none, the gateway generates one
    /// with [`Send::own_key`], so that it may repeat the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Kind of the message. The text of some kinds is made from the data; it may then be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Data of the message, with a kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// The message of the same conversation to which this one replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// Whether the marketplace itself sends the message. Only chat-service sets this.
    #[serde(skip)]
    pub system: bool,
}

impl Send {
    /// First character of generated keys. No client can choose such a key, because a `client_id` holds printable
    /// characters only.
    const OWN: char = '\u{1}';

    /// Generates a key for a send without `client_id`. It is never shown to anyone.
    pub fn own_key(unique: impl std::fmt::Display) -> String {
        format!("{}{unique}", Self::OWN)
    }

    /// The key as clients may see it: `None` for a generated one.
    pub fn public_key(key: String) -> Option<String> {
        (!key.starts_with(Self::OWN)).then_some(key)
    }
}

/// gateway → chat-service: sends collected while earlier batches were in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendBatch {
    /// At most [`crate::limits::BATCH_SENDS`] sends, each with a `client_id`.
    pub sends: Vec<Send>,
    /// Index and parent span of each traced send, sorted by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<(usize, TraceParent)>,
    /// Deadline of each send, in the order of the sends. Empty from gateways that don't set deadlines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deadlines: Vec<Deadline>,
    /// Whether the gateway takes receipts of the messages that are stored. It has their texts.
    #[serde(default)]
    pub receipts: bool,
}

impl SendBatch {
    /// Parent span of a send, if it is traced.
    pub fn trace_of(&self, send: usize) -> Option<TraceParent> {
        let found = self.traces.binary_search_by_key(&send, |(index, _)| *index).ok()?;
        Some(self.traces[found].1)
    }
}

/// Outcome of one send of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sent {
    /// The message was stored by this request.
    Stored(Message),
    /// The same, in reply to a batch with [`SendBatch::receipts`].
    Placed(Receipt),
    /// An earlier request had already stored the message, in this form.
    Repeated(Message),
    /// The message was not stored.
    Refused(Refusal),
}

/// The fields of a stored message that its sender does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// [`Message::message_id`].
    pub message_id: MessageId,
    /// [`Message::seq`].
    pub seq: Seq,
    /// [`Message::sender_username`].
    pub sender_username: String,
    /// [`Message::created_at`].
    pub created_at: Timestamp,
    /// [`Message::is_read`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_read: bool,
}

impl Receipt {
    /// The whole message, which was stored because of `send`.
    pub fn message(self, send: Send) -> Message {
        let Self { message_id, seq, sender_username, created_at, is_read } = self;
        let Send {
            conversation_id,
            sender_id,
            message: content,
            client_id,
            kind,
            data,
            reply_to,
            system,
            ..
        } = send;
        let client_id = client_id.and_then(Send::public_key);
        Message {
            conversation_id,
            message_id,
            seq,
            sender_id,
            sender_username,
            content,
            created_at,
            is_read,
            client_id,
            kind,
            data,
            reply_to,
            system,
            change: None,
            edited_at: None,
            deleted_at: None,
            deleted_by: None,
        }
    }
}

impl From<Message> for Receipt {
    fn from(message: Message) -> Self {
        let Message { message_id, seq, sender_username, created_at, is_read, .. } = message;
        Self { message_id, seq, sender_username, created_at, is_read }
    }
}

impl Request for SendBatch {
    const SUBJECT: &'static str = "chat.messages.pack";
    /// One outcome for each send, in the same order.
    type Reply = Vec<Sent>;
}

/// Public, any backend → chat-service: one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendOne {
    /// [`Send::conversation_id`].
    pub conversation_id: ConversationId,
    /// [`Send::sender_id`]. Absent in a system message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_id: Option<UserId>,
    /// True if the marketplace itself sends the message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// [`Send::sender_username`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_username: Option<String>,
    /// [`Send::sender_named_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_named_at: Option<i64>,
    /// [`Send::message`]. May be absent with a kind whose text is made from its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// [`Send::client_id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// [`Send::kind`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// [`Send::data`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// [`Send::reply_to`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
}

impl Request for SendOne {
    const SUBJECT: &'static str = "chat.messages.send";
    const PUBLIC: bool = true;
    type Reply = Message;
}

/// gateway → chat-service: [`SendOne`] on behalf of a backend that uses HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreOne(pub SendOne);

impl Request for StoreOne {
    const SUBJECT: &'static str = "chat.messages.store";
    type Reply = StoredOne;
}

/// Reply to [`StoreOne`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOne {
    /// The message.
    pub message: Message,
    /// False if an earlier request had already stored it.
    pub is_new: bool,
}

/// Requests a page of a conversation, together with the state that a socket needs to continue live from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageMessages {
    /// Conversation to read.
    pub conversation_id: ConversationId,
    /// Requesting user, who must be a participant. `None` for a gateway on behalf of sockets that have already joined.
    pub user_id: Option<UserId>,
    /// Name in the user's token, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Issue time of that token, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_at: Option<i64>,
    /// Range of messages.
    pub range: Range,
    /// Maximum number of messages; 0 requests only the head.
    pub limit: u16,
}

impl Request for PageMessages {
    const SUBJECT: &'static str = "chat.messages.page";
    type Reply = MessagePage;
}

/// Reply to [`PageMessages`]. The items are at least as new as head and markers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessagePage {
    /// Messages. `client_id` is set only in the user's own messages, and in all messages for a gateway.
    pub items: Vec<Message>,
    /// True if there are more messages in that direction.
    pub more: bool,
    /// Last message of the conversation.
    pub head: Head,
    /// Marker of each participant who has read anything.
    pub markers: Vec<Marker>,
    /// Number of changes in the conversation. Earlier releases omit it.
    #[serde(default)]
    pub changes: i64,
    /// `seq` of the first message that is still stored. Earlier releases omit it.
    #[serde(default = "first_seq")]
    pub first_seq: Seq,
}

/// The first `seq` of a conversation whose messages are all stored.
const fn first_seq() -> Seq {
    1
}

/// gateway → chat-service: requests the heads of conversations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// At most [`crate::limits::HEADS_MAX`] conversations.
    pub conversations: Vec<ConversationId>,
}

impl Request for Heads {
    const SUBJECT: &'static str = "chat.heads";
    type Reply = Vec<ConversationHead>;
}

/// Element of the reply to [`Heads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationHead {
    /// Conversation of the head.
    pub conversation_id: ConversationId,
    /// Last `seq`.
    pub seq: Seq,
    /// Sum of all markers' `seq`. It grows whenever a marker moves, so equal sums mean equal markers.
    pub read_sum: i64,
    /// Number of changes. Earlier releases omit it.
    #[serde(default)]
    pub changes: Option<i64>,
}

/// gateway → chat-service: moves a marker to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRead {
    /// Conversation that was read.
    pub conversation_id: ConversationId,
    /// Owner of the marker.
    pub user_id: UserId,
    /// Last message read.
    pub message_id: MessageId,
}

impl Request for MarkRead {
    const SUBJECT: &'static str = "chat.messages.read";
    /// The marker after the request.
    type Reply = Marker;
}

/// gateway → chat-service: counts a user's unread messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountUnread {
    /// User whose messages are counted.
    pub user_id: UserId,
}

impl Request for CountUnread {
    const SUBJECT: &'static str = "chat.unread";
    type Reply = Unread;
}

/// Reply to [`CountUnread`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Number of conversations with unread messages.
    pub conversations: i64,
    /// Number of unread messages in all conversations.
    pub messages: i64,
}
