//! Reminders of what users have not read, for the backends that send mails and pushes.

use crate::{
    ConversationId, Event, NotificationId, Timestamp, UserId,
    streams::{REMINDER_SUBJECT, SETTLED_SUBJECT},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// notify-service → backends: a user has not read something, and wants a reminder of it now.
///
/// Published at least once, with the same `event_id` each time. It contains no text of a chat message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reminder {
    /// `reminder-<step>-<user>-<newest notification>`.
    pub event_id: String,
    /// Time of the decision.
    pub occurred_at: Timestamp,
    /// Name of the step, such as `mail`.
    pub step: String,
    /// The user to remind.
    pub user_id: UserId,
    /// The user's language, as far as the catalogue has it.
    pub lang: String,
    /// Whether the user is present and shows it.
    pub present: bool,
    /// When the user was last present, if known and not hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// At most [`crate::limits::REMINDER_ITEMS`] unread things, newest first.
    pub items: Vec<ReminderItem>,
    /// Number of further ones.
    pub more: i64,
    /// Counts of everything that is unread.
    pub unread: UnreadCounts,
}

/// A conversation or notification in a [`Reminder`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReminderItem {
    /// Type of the notification.
    #[serde(rename = "type")]
    pub kind: String,
    /// The unread notification.
    pub notification_id: NotificationId,
    /// Its title, in the user's language.
    pub title: String,
    /// Its text, in the user's language.
    pub message: String,
    /// Its data; absent if they are larger than [`crate::limits::REMINDER_DATA_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Since when it is unread: the time of the first unread message of a conversation.
    pub since: Timestamp,
}

/// What a user has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadCounts {
    /// Number of unread notifications.
    pub notifications: i64,
}

impl Event for Reminder {
    const PATTERN: &'static str = REMINDER_SUBJECT;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// notify-service → backends: a user has read everything in reminders, so a push need not be shown any longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// `settled-` and the rest of the first reminder's `event_id`.
    pub event_id: String,
    /// Time of the read.
    pub occurred_at: Timestamp,
    /// `event_id` of each reminder.
    pub reminders: Vec<String>,
    /// The user.
    pub user_id: UserId,
    /// The conversation, if what was read is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<ConversationId>,
}

impl Event for Settled {
    const PATTERN: &'static str = SETTLED_SUBJECT;

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}
