//! Changes of stored messages: edits and deletions, and reading them.
//!
//! A conversation numbers its changes from 1 without a gap, and a changed message has the number of its last change.

use super::{Data, Message};
use crate::{ConversationId, Event, MessageId, Request, Seq, Timestamp, UserId, streams::CHANGED_SUBJECT};
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Array, ObjectBuilder, Ref, RefOr, Schema, Type},
};

/// Who deleted a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeletedBy {
    /// The user who had sent it.
    Sender,
    /// A backend.
    Moderation,
    /// The erasure of its sender.
    Erasure,
}

/// A change that a sender makes to an own message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Replaces the text.
    Edit(String),
    /// Deletes the message.
    Delete,
}

/// gateway → chat-service: a sender changes an own message. Repeating it is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeMessage {
    /// Conversation of the message.
    pub conversation_id: ConversationId,
    /// Message to change.
    pub message_id: MessageId,
    /// User, who must have sent the message.
    pub user_id: UserId,
    /// The change.
    pub action: Action,
}

impl Request for ChangeMessage {
    const SUBJECT: &'static str = "chat.messages.change";
    /// The message after the change, for its sender.
    type Reply = Message;
}

/// gateway → chat-service: requests one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetMessage {
    /// Conversation of the message.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// Requesting user, who must be a participant.
    pub user_id: UserId,
}

impl Request for GetMessage {
    const SUBJECT: &'static str = "chat.messages.get";
    type Reply = Message;
}

/// gateway → chat-service: requests messages by their last change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageChanges {
    /// Conversation to read.
    pub conversation_id: ConversationId,
    /// Requesting user, who must be a participant. `None` for a gateway on behalf of sockets that have already joined.
    pub user_id: Option<UserId>,
    /// Number of the change after which the page starts.
    pub after: i64,
    /// Maximum number of messages.
    pub limit: u16,
}

impl Request for PageChanges {
    const SUBJECT: &'static str = "chat.changes.page";
    type Reply = ChangePage;
}

/// Reply to [`PageChanges`]. The items are at least as new as the number of changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangePage {
    /// Messages in the order of their last change. `client_id` as in [`MessagePage`](super::MessagePage).
    pub items: Vec<Message>,
    /// True if there are messages with a later change.
    pub more: bool,
    /// Number of changes in the conversation.
    pub changes: i64,
}

/// Public, any backend → chat-service: replaces the text or the data of a message, whoever sent it and however old it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateMessage {
    /// Conversation of the message.
    pub conversation_id: ConversationId,
    /// Message to change.
    pub message_id: MessageId,
    /// The new text. If it is absent, the text stays, or is made from the new data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The new data, of a message with a kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// If set, the request is refused with `conflict` unless this is the number of the message's last change; 0 for a
    /// message that never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_change: Option<i64>,
}

impl Request for UpdateMessage {
    const SUBJECT: &'static str = "chat.messages.update";
    const PUBLIC: bool = true;
    type Reply = Message;
}

/// Public, any backend → chat-service: deletes a message, whoever sent it and however old it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveMessage {
    /// Conversation of the message.
    pub conversation_id: ConversationId,
    /// Message to delete.
    pub message_id: MessageId,
    /// The reason, for moderators; 1 to [`crate::limits::REASON_CHARS`] characters.
    pub reason: String,
}

impl Request for RemoveMessage {
    const SUBJECT: &'static str = "chat.messages.remove";
    const PUBLIC: bool = true;
    /// The message without its text.
    type Reply = Message;
}

/// chat-service → other backends, over [`EVENTS_OUT_STREAM`](crate::streams::EVENTS_OUT_STREAM), if the operator wants it:
/// a message was edited or deleted. Published at least once. It has the state of the message, but not its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageChanged {
    /// The same for each repeat.
    pub event_id: String,
    /// Time of the change.
    pub occurred_at: Timestamp,
    /// Conversation of the message.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// [`Message::seq`].
    pub seq: Seq,
    /// [`Message::sender_id`].
    pub sender_id: UserId,
    /// Number of the change. Events of one conversation are ordered by it.
    pub change: i64,
    /// [`Message::edited_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<Timestamp>,
    /// [`Message::deleted_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// [`Message::deleted_by`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_by: Option<DeletedBy>,
}

impl MessageChanged {
    /// The event of a change with this number, which left the message like this.
    pub fn new(change: i64, message: &Message) -> Self {
        let Message {
            conversation_id, message_id, seq, sender_id, edited_at, deleted_at, deleted_by, ..
        } = *message;
        Self {
            event_id: format!("chat.changed-{conversation_id}-{change}"),
            occurred_at: deleted_at.or(edited_at).unwrap_or(message.created_at),
            conversation_id,
            message_id,
            seq,
            sender_id,
            change,
            edited_at,
            deleted_at,
            deleted_by,
        }
    }
}

impl Event for MessageChanged {
    const PATTERN: &'static str = CHANGED_SUBJECT;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// Public, any backend → chat-service: requests messages of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListMessages {
    /// Conversation to read.
    pub conversation_id: ConversationId,
    /// Id of the message after which the page starts, oldest first; 0 starts at the first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// Id of the message before which the page ends. Without `after`, the page has the newest messages before it,
    /// newest first; without both, the newest of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<MessageId>,
    /// Maximum number of messages, 1 to [`crate::limits::LISTED_MESSAGES`], which is also the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u16>,
    /// Whether the messages come with their former texts. `true` is refused, because [`ListVersions`] has a permission
    /// of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<bool>,
}

impl Request for ListMessages {
    const SUBJECT: &'static str = "chat.messages.list";
    const PUBLIC: bool = true;
    /// Messages without `client_id`, at most [`crate::limits::LISTED_BYTES`]. `next` is the id for `after`, if the
    /// request has `after`, and otherwise the id for `before`.
    type Reply = crate::Page<Message>;
}

/// Public, moderators → chat-service: as [`ListMessages`], with the former texts of the messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListVersions {
    /// The messages. `versions` may be absent or `true`.
    #[serde(flatten)]
    pub list: ListMessages,
    /// Number of the change after which the former texts start: it continues a message that has `more_versions`. Only
    /// with a `limit` of 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions_after: Option<i64>,
}

impl Request for ListVersions {
    const SUBJECT: &'static str = "chat.messages.versions";
    const PUBLIC: bool = true;
    /// As that of [`ListMessages`].
    type Reply = crate::Page<ListedMessage>;
}

/// A message as moderators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedMessage {
    /// The message as it is now, without `client_id`.
    #[serde(flatten)]
    pub message: Message,
    /// Former texts that are still stored, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<Version>,
    /// True if the former texts of this one message do not fit into an answer. A request with its `message_id` + 1 as
    /// `before`, a `limit` of 1, and the last `change` as `versions_after` returns the next ones. Absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more_versions: bool,
}

impl<'de> Deserialize<'de> for ListedMessage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Versions {
            #[serde(default)]
            versions: Vec<Version>,
            #[serde(default)]
            more_versions: bool,
        }
        // Not flattened: that could not keep the text of `data`.
        let text = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        let read = || {
            let Versions { versions, more_versions } = serde_json::from_str(text.get())?;
            serde_json::Result::Ok(Self {
                message: serde_json::from_str(text.get())?,
                versions,
                more_versions,
            })
        };
        read().map_err(serde::de::Error::custom)
    }
}

/// The fields of a message and of [`ListedMessage`] in one schema.
impl PartialSchema for ListedMessage {
    fn schema() -> RefOr<Schema> {
        let mut schema = Message::schema();
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            let versions = Array::new(Ref::from_schema_name("Version"));
            object.properties.insert("versions".to_owned(), versions.into());
            let more = ObjectBuilder::new().schema_type(Type::Boolean).description(Some(
                "The former texts do not fit into one answer. The call with `message_id` + 1 as `before`, a `limit` of \
                 1, and the last `change` as `versions_after` returns the next ones. Absent otherwise.",
            ));
            object.properties.insert("more_versions".to_owned(), more.into());
            object.description = Some("A message as moderators see it, with its former texts.".to_owned());
        }
        schema
    }
}

impl ToSchema for ListedMessage {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Message::schemas(schemas);
        schemas.push((Version::name().into_owned(), Version::schema()));
        Version::schemas(schemas);
    }
}

/// A former text of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Number of the change that replaced it.
    pub change: i64,
    /// The text.
    pub content: String,
    /// The data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, nullable = false)]
    pub data: Option<Data>,
    /// The reason of the backend that deleted the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// Time until which it is stored.
    pub until: Timestamp,
}
