//! Real nats-server and Postgres processes, for tests and for the local stack of `cargo xtask up`.
//!
//! Nothing here is part of a service's release build. Every server listens on loopback only, keeps its data in a folder
//! of its own, and ends with the process that started it, however that process ends.

#![warn(missing_docs)]

pub mod accounts;
pub mod bench;
pub mod database;
pub mod nats;
pub mod pgbouncer;
pub mod place;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod provision;
pub mod reads;
mod server;
pub mod token;
pub mod wait;

pub use database::TestDatabase;
pub use nats::{NatsOptions, NatsServer};
pub use ports::free_port;
pub use postgres::{Postgres, PostgresOptions};
pub use process::{Child, Output, Program, Signal};
pub use reads::Reads;
pub use wait::{eventually, within};
