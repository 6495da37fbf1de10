//! The stack, as its users see it.

mod chat;
mod hostile;
mod http;
mod limits;
mod notifications;
mod resilience;
mod scale;
mod typing;
