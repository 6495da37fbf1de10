//! Bounds of the contract. What an operator may change is in the services' configuration instead.

use std::time::Duration;

/// Bytes of a client's frame; more closes the socket with 1009.
pub const FRAME_BYTES: usize = 64 * 1024;
/// Nested arrays and objects in anything that a client or a backend sends.
pub const JSON_DEPTH: usize = 32;
/// Characters (Unicode scalar values) of a message, after trimming.
pub const MESSAGE_CHARS: usize = 4_000;
/// Characters of a `client_id`.
pub const CLIENT_ID_CHARS: usize = 64;
/// Characters of a conversation's title.
pub const TITLE_CHARS: usize = 200;
/// Characters of the reason of a report.
pub const REASON_CHARS: usize = 1_000;
/// Characters of a username; a longer one is cut.
pub const USERNAME_CHARS: usize = 150;
/// People in a conversation, at least.
pub const PARTICIPANTS_MIN: usize = 2;
/// People in a conversation, at most.
pub const PARTICIPANTS_MAX: usize = 100;
/// Users that one event may name.
pub const EVENT_USERS_MAX: usize = 1_000;
/// Items of a page, unless asked otherwise.
pub const PAGE_DEFAULT: u16 = 50;
/// Items of a page, at most.
pub const PAGE_MAX: u16 = 200;
/// Sends that travel together from a gateway to chat-service, at most.
pub const BATCH_SENDS: usize = 256;
/// Bytes of message text in such a pack, at most: with everything around it, it stays below NATS' 1 MiB.
pub const BATCH_BYTES: usize = 256 * 1024;
/// Users who want onto conversations that a gateway asks about together, at most: what there is to know of conversations
/// with as many people as may be stays below NATS' 1 MiB.
pub const BATCH_JOINS: usize = 32;
/// Logs whose heads are asked for together, at most.
pub const HEADS_MAX: usize = 500;
/// Users whose languages a gateway tells together, at most.
pub const LANGUAGES_MAX: usize = 500;
/// What users do at their keyboards that travels together from a gateway to typing-service, at most.
pub const TYPING_INPUTS: usize = 256;
/// From a user's last `true` until the typing is over.
pub const TYPING_TTL: Duration = Duration::from_secs(6);
/// From a client's send until it is told `unavailable`.
pub const SEND_DEADLINE: Duration = Duration::from_secs(5);
