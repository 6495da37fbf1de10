//! notify-service through its doors: NATS, its admin port, and the rows that it leaves.

#![allow(clippy::unwrap_used, reason = "a helper of tests may fail as a test does")]

mod app;
mod bounds;
mod chat;
mod events;
mod faults;
mod identity;
mod letters;
mod questions;
