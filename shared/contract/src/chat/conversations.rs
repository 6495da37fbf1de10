//! Requests that create, get and list conversations.

use super::{Message, MutedUntil};
use crate::log::Range;
use crate::{ConversationId, Page, Request, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A participant of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Participant {
    /// Id of the user.
    pub user_id: UserId,
    /// Display name.
    pub username: String,
}

/// A user to add to a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitee {
    /// Id of the user.
    pub user_id: UserId,
    /// Display name, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// A conversation from one participant's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Id of the conversation.
    pub conversation_id: ConversationId,
    /// Listing that the conversation is about.
    #[schema(required)]
    pub listing_id: Option<i64>,
    /// Title of the conversation.
    #[schema(required)]
    pub title: Option<String>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Participants, sorted by id.
    pub participants: Vec<Participant>,
    /// Newest message.
    #[schema(required)]
    pub last_message: Option<Message>,
    /// Number of messages that the participant has not read. For a backend: the first named participant's number.
    pub unread_count: i64,
    /// End of the participant's mute, if the participant has muted the conversation. Backends don't see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub muted_until: Option<MutedUntil>,
    /// True if the participant has archived the conversation. Backends don't see it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archived: bool,
    /// True if the participant has pinned the conversation. Backends don't see it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

/// Public, any backend → chat-service: gets the conversation of these users about this listing, or creates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(description = "The participants and the listing of a conversation.")]
pub struct CreateConversation {
    /// 2 to 100 users.
    #[schema(min_items = 2, max_items = 100)]
    pub participants: Vec<Invitee>,
    /// Listing that the conversation is about.
    #[serde(default)]
    pub listing_id: Option<i64>,
    /// Title of a new conversation, at most 200 characters. That of an existing one does not change.
    #[serde(default)]
    #[schema(max_length = 200)]
    pub title: Option<String>,
}

impl Request for CreateConversation {
    const SUBJECT: &'static str = "chat.conversations.create";
    const PUBLIC: bool = true;
    type Reply = Conversation;
}

/// gateway → chat-service: the same on behalf of the first participant. Refused if only backends may create
/// conversations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpenConversation(pub CreateConversation);

impl Request for OpenConversation {
    const SUBJECT: &'static str = "chat.conversations.open";
    type Reply = Opened;
}

/// Reply to [`OpenConversation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Existing or new conversation.
    pub conversation: Conversation,
    /// True if this request created it.
    pub created: bool,
}

/// gateway → chat-service: [`CreateConversation`] on behalf of a backend that uses HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnsureConversation(pub CreateConversation);

impl Request for EnsureConversation {
    const SUBJECT: &'static str = "chat.conversations.ensure";
    type Reply = Opened;
}

/// gateway → chat-service: gets one conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetConversation {
    /// Requesting user, who must be a participant. `None` for a backend, which sees it as the participant with the
    /// smallest id does.
    pub user_id: Option<UserId>,
    /// Conversation to get.
    pub conversation_id: ConversationId,
}

impl Request for GetConversation {
    const SUBJECT: &'static str = "chat.conversations.get";
    type Reply = Conversation;
}

/// gateway → chat-service: lists a user's conversations by latest activity, newest first (oldest first with
/// [`Range::After`]). The ids in the range are conversation ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListConversations {
    /// User whose conversations are listed.
    pub user_id: UserId,
    /// Range of conversations.
    pub range: Range,
    /// Maximum number of conversations.
    pub limit: u16,
    /// True for archived conversations only, false for the others. Earlier releases omit it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archived: bool,
    /// True for pinned conversations only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

impl Request for ListConversations {
    const SUBJECT: &'static str = "chat.conversations.list";
    type Reply = Page<Conversation>;
}
