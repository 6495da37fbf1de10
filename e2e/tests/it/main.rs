//! The stack, as its users see it.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod accounts;
mod backup;
mod chat;
mod collector;
mod documents;
mod hostile;
mod http;
mod limits;
mod notifications;
mod resilience;
mod safety;
mod scale;
mod traces;
mod typing;
