//! The gateway: sockets, tokens, routing. No rule of chat, and no database.
//!
//! A client's frame goes from its `session` through the `sends` (or a request) to a service. What a service
//! publishes comes in at a `channel`, which puts it in order (`log`) and hands it to the `outbox` of each socket.

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
