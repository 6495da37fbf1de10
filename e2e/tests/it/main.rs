//! The stack, as its users see it.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod accounts;
mod backup;
mod chat;
mod collector;
mod crowds;
mod documents;
mod health;
mod hostile;
mod hostile_clients;
mod http;
mod limits;
mod logs;
mod metrics;
mod notifications;
mod probing;
mod raw;
mod requests;
mod resilience;
mod safety;
mod scale;
mod tokens;
mod traces;
mod typing;
