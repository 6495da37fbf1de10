//! What sockets subscribe to: conversations and inboxes, which are logs, and typing.

pub mod encode;
pub mod entry;
pub mod hub;
pub mod log_channel;
pub mod maintenance;
pub mod ordering;
pub mod probe;
pub mod typing_channel;
