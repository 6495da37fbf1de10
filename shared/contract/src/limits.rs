//! Limits of the protocol. The services' configuration holds the limits that an operator may change.

use std::time::Duration;

/// Maximum size of a client's frame; a larger one closes the socket with 1009.
pub const FRAME_BYTES: usize = 64 * 1024;
/// Maximum nesting of arrays and objects in JSON from clients and backends.
pub const JSON_DEPTH: usize = 32;
/// Maximum length of a message, in characters (Unicode scalar values) after trimming.
pub const MESSAGE_CHARS: usize = 4_000;
/// Maximum size of the data of a message, in bytes of JSON.
pub const DATA_BYTES: usize = 8 * 1024;
/// Maximum nesting of arrays and objects in the data of a message.
pub const DATA_DEPTH: usize = 8;
/// Maximum length of the name of a kind, in bytes.
pub const KIND_BYTES: usize = 64;
/// Maximum number of kinds.
pub const KINDS_MAX: usize = 100;
/// Maximum size of the file of a kind. All of them fit into one reply, below NATS' 1 MiB.
pub const KIND_FILE_BYTES: usize = 8 * 1024;
/// Maximum length of a `client_id`, in characters.
pub const CLIENT_ID_CHARS: usize = 64;
/// Maximum length of a conversation's title, in characters.
pub const TITLE_CHARS: usize = 200;
/// Maximum length of a report's reason, in characters.
pub const REASON_CHARS: usize = 1_000;
/// Maximum length of a username, in visible characters; a longer one is truncated.
pub const USERNAME_CHARS: usize = 150;
/// Minimum number of participants of a conversation.
pub const PARTICIPANTS_MIN: usize = 2;
/// Maximum number of participants of a conversation.
pub const PARTICIPANTS_MAX: usize = 100;
/// Maximum size of an event's body in bytes.
pub const EVENT_BYTES: usize = 64 * 1024;
/// Maximum size of an event's id in bytes.
pub const EVENT_ID_BYTES: usize = 256;
/// Maximum size of a CloudEvent's source in bytes. Together with the id it must fit into an index of Postgres.
pub const EVENT_SOURCE_BYTES: usize = 1024;
/// Maximum size of an event's type in bytes.
pub const EVENT_TYPE_BYTES: usize = 128;
/// Maximum length of a notification's title, in characters.
pub const NOTIFICATION_TITLE_CHARS: usize = 200;
/// Maximum length of a notification's message, in characters.
pub const NOTIFICATION_MESSAGE_CHARS: usize = 2_000;
/// Maximum number of users of one event.
pub const EVENT_USERS_MAX: usize = 1_000;
/// Maximum number of items of a reminder.
pub const REMINDER_ITEMS: usize = 20;
/// Maximum size of the data of a notification in a reminder, in bytes. With the longest texts, the event stays below
/// NATS' 1 MiB.
pub const REMINDER_DATA_BYTES: usize = 16 * 1024;
/// Maximum number of a user's settings, and so of the changes in one request.
pub const PREFERENCES_MAX: usize = 200;
/// Number of items of a page without an explicit limit.
pub const PAGE_DEFAULT: u16 = 50;
/// Maximum number of items of a page.
pub const PAGE_MAX: u16 = 200;
/// Maximum number of messages that a backend reads in one request, and the number without an explicit limit.
pub const LISTED_MESSAGES: u16 = 50;
/// Maximum size of the answer to such a request, in bytes of JSON.
pub const LISTED_BYTES: usize = 256 * 1024;
/// Maximum number of changes of one message; a deletion is always possible.
pub const CHANGES_MAX: i64 = 50;
/// Maximum number of messages in one request for their descriptions. With the longest texts, the reply stays below
/// NATS' 1 MiB.
pub const DESCRIBED_MESSAGES: usize = 32;
/// Maximum number of sends in one batch from a gateway to chat-service.
pub const BATCH_SENDS: usize = 256;
/// Maximum bytes of text and data in such a batch. The whole payload stays below NATS' 1 MiB.
pub const BATCH_BYTES: usize = 256 * 1024;
/// Maximum number of joins in one batch. The reply stays below NATS' 1 MiB even if every conversation has the maximum
/// number of participants.
pub const BATCH_JOINS: usize = 32;
/// Maximum number of logs in one request for heads.
pub const HEADS_MAX: usize = 500;
/// Maximum number of users whose languages a gateway reports in one request.
pub const LANGUAGES_MAX: usize = 500;
/// Maximum number of typing inputs in one message from a gateway to typing-service.
pub const TYPING_INPUTS: usize = 256;
/// Time after a user's last `is_typing: true` until typing ends.
pub const TYPING_TTL: Duration = Duration::from_secs(6);
/// Time after a client's send until the gateway reports it as `unavailable`.
pub const SEND_DEADLINE: Duration = Duration::from_secs(5);
