//! The common base of all services: boot, configuration, NATS, Postgres, health, metrics, logs, traces, shutdown.
//!
//! Contains no chat rule and no table name.

#![warn(missing_docs)]

pub mod admin;
pub mod backoff;
pub mod batcher;
pub mod boot;
pub mod bus;
pub mod config;
pub mod endpoints;
pub mod files;
pub mod logs;
pub mod metrics;
pub mod panics;
pub mod postgres;
pub mod presence;
mod process;
#[cfg(feature = "profile")]
mod profile;
pub mod streams;
pub mod trace;
pub mod version;

pub use admin::Admin;
pub use backoff::Backoff;
pub use boot::{Workers, main};
pub use bus::{Bus, RequestError};
pub use endpoints::Endpoints;
pub use presence::Presence;
pub use trace::Span;
