//! Erasure and export of a user's data.

use crate::{
    ConversationId, Event, MessageId, Request, Timestamp, UserId,
    chat::{Message, MutedUntil},
    notify::Notification,
    preferences::{QuietHours, Settings},
    streams::ERASED_SUBJECT,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Public, any backend → chat-service: erases a user's data. [`UserErased`] is published once that is done.
///
/// Repeating the request is harmless. After the end of an erasure, it erases anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseUser {
    /// User whose data is erased.
    pub user_id: UserId,
    /// The reason, for operators; 1 to [`crate::limits::REASON_CHARS`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Request for EraseUser {
    const SUBJECT: &'static str = "users.erase";
    const PUBLIC: bool = true;
    type Reply = Erasure;
}

/// Reply to [`EraseUser`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Erasure {
    /// Id of the erasure, the same for each request about the user.
    pub erasure_id: i64,
}

/// chat-service → other backends, over [`EVENTS_OUT_STREAM`](crate::streams::EVENTS_OUT_STREAM): all data of a user is
/// erased. Published at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserErased {
    /// The same for each repeat.
    pub event_id: String,
    /// Time of the request.
    pub occurred_at: Timestamp,
    /// Id of the erasure.
    pub erasure_id: i64,
    /// User whose data was erased.
    pub user_id: UserId,
}

impl Event for UserErased {
    const PATTERN: &'static str = ERASED_SUBJECT;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// chat-service → notify-service: replaces the name of a sender in a part of the notifications of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameSender {
    /// The sender.
    pub sender_id: UserId,
    /// A conversation of the sender.
    pub conversation_id: ConversationId,
    /// Messages of the sender in it, by which notifications of earlier releases are found.
    pub message_ids: Vec<MessageId>,
    /// The new name.
    pub sender_username: String,
}

impl Request for RenameSender {
    const SUBJECT: &'static str = "notify.erasure.rename";
    type Reply = ErasureProgress;
}

/// chat-service → notify-service: deletes a part of a user's inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteInbox {
    /// Owner of the inbox.
    pub user_id: UserId,
}

impl Request for DeleteInbox {
    const SUBJECT: &'static str = "notify.erasure.delete";
    type Reply = ErasureProgress;
}

/// Reply to [`RenameSender`] and [`DeleteInbox`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureProgress {
    /// True if something may be left: the request is to be repeated.
    pub more: bool,
}

/// Public, any backend → chat-service: requests a page of everything that is stored about a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportUser {
    /// The user.
    pub user_id: UserId,
    /// [`Export::next`] of the page before; absent for the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl Request for ExportUser {
    const SUBJECT: &'static str = "users.export";
    const PUBLIC: bool = true;
    type Reply = Export;
}

/// Reply to [`ExportUser`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Export {
    /// What is stored about the user, and nobody else's text.
    pub items: Vec<Record>,
    /// Cursor of the next page. Null on the last page.
    pub next: Option<String>,
}

/// An item of an [`Export`]: an object with one field, the kind of the item.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The user's display name.
    User {
        /// The user.
        user_id: UserId,
        /// The name.
        username: String,
    },
    /// A conversation of the user. The user's messages in it follow.
    Conversation {
        /// The conversation.
        conversation_id: ConversationId,
        /// Listing that the conversation is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        listing_id: Option<i64>,
        /// Title of the conversation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// Time of creation.
        created_at: Timestamp,
        /// Last message that the user has read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        read_message_id: Option<MessageId>,
        /// Time at which the user read it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        read_at: Option<Timestamp>,
        /// End of the user's mute, if the user has muted it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        muted_until: Option<MutedUntil>,
        /// Whether the user has archived it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        archived: bool,
        /// Whether the user has pinned it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pinned: bool,
    },
    /// A message that the user sent.
    Message(Box<Message>),
    /// A user whom the user blocks.
    Block {
        /// The blocked user.
        user_id: UserId,
        /// Time of the block.
        created_at: Timestamp,
    },
    /// A report that the user made.
    Report {
        /// The report.
        report_id: i64,
        /// Reported user.
        user_id: UserId,
        /// Reported message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<MessageId>,
        /// The user's text.
        reason: String,
        /// Time of the report.
        created_at: Timestamp,
    },
    /// What is stored about the user's presence.
    Presence {
        /// The user's choice whether others see it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shown: Option<bool>,
        /// When the user was last present, rounded down to 5 minutes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_seen: Option<Timestamp>,
    },
    /// A notification in the user's inbox.
    Notification(Box<Notification>),
    /// What the user has set about reminders.
    Preferences {
        /// Settings by type and channel.
        types: Settings,
        /// Quiet hours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quiet: Option<QuietHours>,
    },
}
