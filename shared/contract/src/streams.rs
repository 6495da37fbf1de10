//! The JetStream streams, and their subjects.

/// The JetStream stream that carries [`LogEntry`](crate::chat::LogEntry) from chat-service to notify-service.
pub const CHAT_STREAM: &str = "CHAT";
/// The JetStream stream of what other backends publish.
pub const EVENTS_STREAM: &str = "EVENTS";
/// Its subjects: `events.<type>`.
pub const EVENTS_SUBJECTS: &str = "events.>";
/// What stands before the type in them.
pub const EVENTS_PREFIX: &str = "events.";
/// The JetStream stream of events that could not be used.
pub const DEADLETTERS_STREAM: &str = "DEADLETTERS";
/// Its subjects: `deadletters.<type>`.
pub const DEADLETTERS_SUBJECTS: &str = "deadletters.>";
/// What stands before the type in them.
pub const DEADLETTERS_PREFIX: &str = "deadletters.";
/// The JetStream stream of what we publish for other backends.
pub const EVENTS_OUT_STREAM: &str = "EVENTS_OUT";
/// Its subjects.
pub const EVENTS_OUT_SUBJECTS: &str = "chat.reported";
