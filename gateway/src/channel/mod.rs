//! Channels: the logs (conversations and inboxes) and typing channels that sockets of this gateway subscribe to.

mod delivery;
pub mod encode;
pub mod entry;
pub mod hub;
mod lifecycle;
pub mod log_channel;
mod maintenance;
pub mod ordering;
pub mod page;
mod probe;
mod registry;
pub mod replay;
pub mod typing_channel;
pub mod view;
