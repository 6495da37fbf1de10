//! The gateway: sockets, tokens and routing, without chat rules and without a database.
//!
//! A client's frame goes from its `session` through `nats::sends` (or a request) to a service. Events of services go to
//! a `channel`, which puts them in order (`channel::ordering`) and pushes them into the `outbox` of each socket.

mod admission;
mod app;
#[cfg(any(test, feature = "bench"))]
pub mod bench;
mod channel;
mod config;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
mod nats;
mod session;
mod state;
mod telemetry;
mod topic;
mod websocket;

pub use app::Gateway;
pub use config::{Config, TokenExpiry, Tokens};
