//! Conversations: what chat-service is asked, answers and publishes.

use crate::log::{Head, Range};
use crate::streams::EVENTS_OUT_SUBJECTS;
use crate::{
    ConversationId, Deadline, Event, MessageId, Page, Refusal, Request, Seq, Timestamp, TraceParent, UserId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A message, as the contract's frames and pages show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// The conversation that it is in.
    pub conversation_id: ConversationId,
    /// Unique over all conversations; grows with `seq`.
    pub message_id: MessageId,
    /// Its place in the conversation.
    #[schema(value_type = i64, minimum = 1)]
    pub seq: Seq,
    /// Who sent it.
    pub sender_id: UserId,
    /// The sender's display name when it was sent.
    pub sender_username: String,
    /// The text, trimmed.
    pub content: String,
    /// When it was committed.
    pub created_at: Timestamp,
    /// Whether every other participant has read it.
    pub is_read: bool,
    /// What the sender called it. Only ever shown to the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub client_id: Option<String>,
}

/// How far a user has read a conversation. Moves forward only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Who has read.
    pub user_id: UserId,
    /// The last message read.
    pub message_id: MessageId,
    /// Its `seq`.
    pub seq: Seq,
    /// When the marker moved there.
    pub read_at: Timestamp,
    /// The conversation's last `seq` less the marker's. Only ever shown to `user_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_count: Option<i64>,
    /// Whether it moved because the user sent that message: then the message itself says so, and no frame does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_sending: bool,
}

/// chat-service → gateways: what happened in a conversation, after its commit.
///
/// The JSON is the frame of the contract with every field that anyone may see; the gateway takes out what a socket may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChatEvent {
    /// A message is stored.
    Message(Message),
    /// A marker moved, other than by sending.
    Read(Marker),
}

impl ChatEvent {
    /// The conversation that it happened in.
    pub fn conversation_id(&self) -> ConversationId {
        match self {
            Self::Message(message) => message.conversation_id,
            Self::Read(marker) => marker.conversation_id,
        }
    }

    /// The subject of a conversation's events.
    pub fn subject_of(conversation: ConversationId) -> String {
        format!("chat.event.{conversation}")
    }
}

impl Event for ChatEvent {
    const PATTERN: &'static str = "chat.event.*";

    fn subject(&self) -> String {
        Self::subject_of(self.conversation_id())
    }
}

/// chat-service → notify-service, over [`CHAT_STREAM`](crate::streams::CHAT_STREAM). May arrive twice, never not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogEntry {
    /// Messages that were stored, in one commit or several.
    Stored {
        /// In the order in which they were stored.
        messages: Vec<Stored>,
    },
    /// A marker moved, other than by sending.
    Read {
        /// Who has read.
        user_id: UserId,
        /// The conversation.
        conversation_id: ConversationId,
        /// The last message read.
        message_id: MessageId,
        /// The whole marker, for the user's own sockets, with the user's `unread_count`. Earlier releases leave it out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        marker: Option<Marker>,
    },
}

impl Event for LogEntry {
    const PATTERN: &'static str = "chat.log";

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// What notify-service needs to know of a stored message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// Its place in the conversation, by which unread messages are counted. Earlier releases leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// Who sent it; their own marker moved up to it.
    pub sender_id: UserId,
    /// Their display name.
    pub sender_username: String,
    /// Everyone else in the conversation.
    pub recipients: Vec<UserId>,
    /// The step that its notifications belong under, if it is traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

/// One message to store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    /// Where to.
    pub conversation_id: ConversationId,
    /// Who sends it.
    pub sender_id: UserId,
    /// The name in the sender's token, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_username: Option<String>,
    /// When that token was issued, in Unix seconds. Of two names, the newer one is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_named_at: Option<i64>,
    /// The text.
    pub message: String,
    /// The key of idempotency: unique for that sender and conversation. Where the client named none, the gateway
    /// names one of its own with [`Send::own_key`], so that it may repeat the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

impl Send {
    /// Starts a key that no client can have chosen, as a `client_id` holds printable characters only.
    const OWN: char = '\u{1}';

    /// A key for a send that the client did not name: never shown to anyone.
    pub fn own_key(unique: impl std::fmt::Display) -> String {
        format!("{}{unique}", Self::OWN)
    }

    /// What clients may see of a key.
    pub fn public_key(key: String) -> Option<String> {
        (!key.starts_with(Self::OWN)).then_some(key)
    }
}

/// gateway → chat-service: sends that gathered while the ones before were under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendBatch {
    /// At most [`crate::limits::BATCH_SENDS`], each with a `client_id`.
    pub sends: Vec<Send>,
    /// Of the sends that are traced: each one's index, growing, and the step that it belongs under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<(usize, TraceParent)>,
    /// The deadline of each send, in the order of the sends; empty from gateways that know of none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deadlines: Vec<Deadline>,
}

impl SendBatch {
    /// The step that a send belongs under, if it is traced.
    pub fn trace_of(&self, send: usize) -> Option<TraceParent> {
        let found = self.traces.binary_search_by_key(&send, |(index, _)| *index).ok()?;
        Some(self.traces[found].1)
    }
}

/// What became of one send of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sent {
    /// It is stored, now.
    Stored(Message),
    /// It was stored before, as this.
    Repeated(Message),
    /// It isn't stored.
    Refused(Refusal),
}

impl Request for SendBatch {
    const SUBJECT: &'static str = "chat.messages.pack";
    /// In the order of the sends.
    type Reply = Vec<Sent>;
}

/// Public, any backend → chat-service: one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SendOne(pub Send);

impl Request for SendOne {
    const SUBJECT: &'static str = "chat.messages.send";
    const PUBLIC: bool = true;
    type Reply = Message;
}

/// A user who wants onto a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Which.
    pub conversation_id: ConversationId,
    /// Who, and must be a participant.
    pub user_id: UserId,
    /// The name in the user's token, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// When that token was issued, in Unix seconds. Of two names, the newer one is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_at: Option<i64>,
}

/// gateway → chat-service: users who want onto conversations at about the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinBatch {
    /// At most [`crate::limits::BATCH_JOINS`].
    pub entries: Vec<JoinRequest>,
}

impl Request for JoinBatch {
    const SUBJECT: &'static str = "chat.conversations.enter";
    /// In the order of the entries.
    type Reply = Vec<JoinReply>;
}

/// The answer to one who wants in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinReply {
    /// The user is a participant.
    Admitted(Admitted),
    /// The user isn't, or there is no such conversation.
    Refused(Refusal),
}

/// A conversation as who comes onto it finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Its last message.
    pub head: Head,
    /// How far each participant who has read anything has read.
    pub markers: Vec<Marker>,
    /// The user's display name.
    pub username: String,
    /// In a conversation of two: whether the user blocks the other.
    pub blocks: bool,
}

/// A page of a conversation, with what a socket needs to go on live from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageMessages {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Who asks, and must be a participant; `None`: a gateway on behalf of sockets that it has let in already.
    pub user_id: Option<UserId>,
    /// The name in the asker's token, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// When that token was issued, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_at: Option<i64>,
    /// Which messages.
    pub range: Range,
    /// At most this many; 0 only asks for the head.
    pub limit: u16,
}

impl Request for PageMessages {
    const SUBJECT: &'static str = "chat.messages.page";
    type Reply = MessagePage;
}

/// The answer to [`PageMessages`]. The items are at least as new as head and markers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessagePage {
    /// The messages; `client_id` only in the asker's own, and in all for a gateway.
    pub items: Vec<Message>,
    /// Whether there are more in that direction.
    pub more: bool,
    /// The last message of the conversation.
    pub head: Head,
    /// How far each participant who has read anything has read.
    pub markers: Vec<Marker>,
}

/// gateway → chat-service: where do these conversations end?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// At most [`crate::limits::HEADS_MAX`].
    pub conversations: Vec<ConversationId>,
}

impl Request for Heads {
    const SUBJECT: &'static str = "chat.heads";
    type Reply = Vec<ConversationHead>;
}

/// One answer of [`Heads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationHead {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The last `seq`.
    pub seq: Seq,
    /// The sum of all markers' `seq`: grows whenever one moves, so two equal sums mean equal markers.
    pub read_sum: i64,
}

/// gateway → chat-service: move a marker up to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRead {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Whose marker.
    pub user_id: UserId,
    /// Up to this message.
    pub message_id: MessageId,
}

impl Request for MarkRead {
    const SUBJECT: &'static str = "chat.messages.read";
    /// Where the marker is now.
    type Reply = Marker;
}

/// Someone in a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Participant {
    /// Who.
    pub user_id: UserId,
    /// Display name.
    pub username: String,
}

/// Someone to put into a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitee {
    /// Who.
    pub user_id: UserId,
    /// Display name, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// A conversation as one participant sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Its id.
    pub conversation_id: ConversationId,
    /// The listing that it is about.
    #[schema(required)]
    pub listing_id: Option<i64>,
    /// Its title.
    #[schema(required)]
    pub title: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who is in it, by id.
    pub participants: Vec<Participant>,
    /// The newest message.
    #[schema(required)]
    pub last_message: Option<Message>,
    /// How many messages the participant has not read; to a backend, the first participant's that it named.
    pub unread_count: i64,
}

/// Public, any backend → chat-service: the conversation of these people about this listing, made where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateConversation {
    /// [`crate::limits::PARTICIPANTS_MIN`] to [`crate::limits::PARTICIPANTS_MAX`] people.
    pub participants: Vec<Invitee>,
    /// What it is about.
    #[serde(default)]
    pub listing_id: Option<i64>,
    /// At most [`crate::limits::TITLE_CHARS`] characters.
    #[serde(default)]
    pub title: Option<String>,
}

impl Request for CreateConversation {
    const SUBJECT: &'static str = "chat.conversations.create";
    const PUBLIC: bool = true;
    type Reply = Conversation;
}

/// gateway → chat-service: the same on behalf of the first participant; refused where only backends may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpenConversation(pub CreateConversation);

impl Request for OpenConversation {
    const SUBJECT: &'static str = "chat.conversations.open";
    type Reply = Opened;
}

/// The answer to [`OpenConversation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The conversation.
    pub conversation: Conversation,
    /// Whether it is new.
    pub created: bool,
}

/// gateway → chat-service: one conversation of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetConversation {
    /// Who asks.
    pub user_id: UserId,
    /// Which.
    pub conversation_id: ConversationId,
}

impl Request for GetConversation {
    const SUBJECT: &'static str = "chat.conversations.get";
    type Reply = Conversation;
}

/// gateway → chat-service: a user's conversations, newest activity first (oldest first with [`Range::After`]).
/// The ids of the range are conversations'.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListConversations {
    /// Whose.
    pub user_id: UserId,
    /// Which part.
    pub range: Range,
    /// How many at most.
    pub limit: u16,
}

impl Request for ListConversations {
    const SUBJECT: &'static str = "chat.conversations.list";
    type Reply = Page<Conversation>;
}

/// gateway → chat-service: a user wants to hear nothing from another, or does so again. Done twice, it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBlock {
    /// Who decides.
    pub user_id: UserId,
    /// About whom.
    pub blocked_id: UserId,
    /// Which.
    pub blocked: bool,
}

impl Request for SetBlock {
    const SUBJECT: &'static str = "chat.blocks.set";
    type Reply = ();
}

/// gateway → chat-service: whom does a user block? The ids of the range are users'.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListBlocks {
    /// Who asks.
    pub user_id: UserId,
    /// Which part.
    pub range: Range,
    /// How many at most.
    pub limit: u16,
}

impl Request for ListBlocks {
    const SUBJECT: &'static str = "chat.blocks.list";
    type Reply = Page<Participant>;
}

/// gateway → chat-service: a user reports a message, or another user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeReport {
    /// Who reports.
    pub reporter_id: UserId,
    /// The message, one that the reporter can see; or
    #[serde(default)]
    pub message_id: Option<MessageId>,
    /// the user.
    #[serde(default)]
    pub user_id: Option<UserId>,
    /// Why: 1 to [`crate::limits::REASON_CHARS`] characters.
    pub reason: String,
}

impl Request for MakeReport {
    const SUBJECT: &'static str = "chat.reports.make";
    type Reply = Reported;
}

/// The answer to [`MakeReport`]; and what is published on `chat.reported` for the backend that moderates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reported {
    /// The report.
    pub report_id: i64,
    /// Who reports.
    pub reporter_id: UserId,
    /// Who is reported: the sender of the message, or the user.
    pub user_id: UserId,
    /// The message as it stood.
    #[schema(required)]
    pub message: Option<Message>,
    /// Why.
    pub reason: String,
    /// When.
    pub created_at: Timestamp,
}

impl Event for Reported {
    const PATTERN: &'static str = EVENTS_OUT_SUBJECTS;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// gateway → chat-service: what has a user not read?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountUnread {
    /// Who asks.
    pub user_id: UserId,
}

impl Request for CountUnread {
    const SUBJECT: &'static str = "chat.unread";
    type Reply = Unread;
}

/// The answer to [`CountUnread`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Conversations with something unread.
    pub conversations: i64,
    /// Unread messages in all of them.
    pub messages: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_frame_of_the_contract() {
        let json = r#"{"type":"message","conversation_id":123,"message_id":987,"seq":17,"sender_id":456,"sender_username":"john_doe","content":"Bonjour!","created_at":"2025-12-09T10:30:00.123456Z","is_read":false,"client_id":"3f6c"}"#;
        let event: ChatEvent = serde_json::from_str(json).unwrap();
        assert_eq!(event.subject(), "chat.event.123");
        assert_eq!(serde_json::to_string(&event).unwrap(), json);
    }

    #[test]
    fn a_key_of_our_own_is_never_public() {
        assert_eq!(Send::public_key(Send::own_key(7)), None);
        assert_eq!(Send::public_key("7".into()), Some("7".into()));
    }
}
