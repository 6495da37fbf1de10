//! Black-box tests of notify-service: through NATS, its admin port and its tables.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, as tests do")]

mod api;
mod app;
mod bounds;
mod chat;
mod dead_letters;
mod events;
mod events_out;
mod faults;
mod identity;
mod seen;
