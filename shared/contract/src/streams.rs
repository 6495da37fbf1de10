//! Names and subjects of the JetStream streams.

/// Stream that carries [`LogEntry`](crate::chat::LogEntry) from chat-service to notify-service.
pub const CHAT_STREAM: &str = "CHAT";
/// Stream of the events that other backends publish.
pub const EVENTS_STREAM: &str = "EVENTS";
/// Subjects of [`EVENTS_STREAM`]: `events.<type>`.
pub const EVENTS_SUBJECTS: &str = "events.>";
/// Prefix of the type in [`EVENTS_SUBJECTS`].
pub const EVENTS_PREFIX: &str = "events.";
/// Stream of the events that could not be used.
pub const DEADLETTERS_STREAM: &str = "DEADLETTERS";
/// Subjects of [`DEADLETTERS_STREAM`]: `deadletters.<type>`.
pub const DEADLETTERS_SUBJECTS: &str = "deadletters.>";
/// Prefix of the type in [`DEADLETTERS_SUBJECTS`].
pub const DEADLETTERS_PREFIX: &str = "deadletters.";
/// Stream of the events that we publish for other backends.
pub const EVENTS_OUT_STREAM: &str = "EVENTS_OUT";
/// Subjects of [`EVENTS_OUT_STREAM`].
pub const EVENTS_OUT_SUBJECTS: [&str; 10] = [
    REPORTED_SUBJECT,
    CHANGED_SUBJECT,
    ERASED_SUBJECT,
    SENT_SUBJECT,
    READ_SUBJECT,
    PRESENCE_SUBJECT,
    REMINDER_SUBJECT,
    SETTLED_SUBJECT,
    OPENED_SUBJECT,
    WEBHOOK_SUBJECTS,
];
/// Subject of reports.
pub const REPORTED_SUBJECT: &str = "chat.reported";
/// Subject of changes of messages.
pub const CHANGED_SUBJECT: &str = "chat.changed";
/// Subject of finished erasures of users.
pub const ERASED_SUBJECT: &str = "users.erased";
/// Subject of sent messages.
pub const SENT_SUBJECT: &str = "chat.sent";
/// Subject of read markers.
pub const READ_SUBJECT: &str = "chat.read";
/// Subject of reminders of what is unread.
pub const REMINDER_SUBJECT: &str = "notify.reminder";
/// Subject of reminders whose things have been read.
pub const SETTLED_SUBJECT: &str = "notify.settled";
/// Subject of new conversations.
pub const OPENED_SUBJECT: &str = "chat.opened";
/// Subjects of events for one webhook only, which are replayed dead letters: `webhook.<name>`.
pub const WEBHOOK_SUBJECTS: &str = "webhook.*";
/// Prefix of the name in [`WEBHOOK_SUBJECTS`].
pub const WEBHOOK_PREFIX: &str = "webhook.";
/// Subject of changes of presence.
pub const PRESENCE_SUBJECT: &str = "presence.changed";
