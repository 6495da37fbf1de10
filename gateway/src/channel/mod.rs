//! Channels: the logs (conversations and inboxes), typing and presence, to which sockets of this gateway subscribe.

mod delivery;
pub mod encode;
pub mod entry;
pub mod hub;
mod lifecycle;
pub mod log_channel;
mod maintenance;
pub mod ordering;
pub mod page;
pub mod presence;
mod probe;
mod registry;
pub mod replay;
pub mod typing_channel;
pub mod view;
