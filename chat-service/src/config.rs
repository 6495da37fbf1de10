//! The chat service's configuration.

use clap::{Parser, ValueEnum};
use service::config::{Database, Nats, Telemetry};
use std::net::SocketAddr;

/// Keeps conversations: stores each message once, in order, and tells everyone concerned.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Config {
    /// NATS.
    #[command(flatten)]
    pub nats: Nats,
    /// Postgres.
    #[command(flatten)]
    pub database: Database,
    /// Logs.
    #[command(flatten)]
    pub telemetry: Telemetry,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9001")]
    pub admin_addr: SocketAddr,
    /// Who may start conversations: anyone with a token, or only backends over NATS
    #[arg(long, env = "CONVERSATIONS_BY", value_enum, default_value_t = ConversationsBy::Anyone)]
    pub conversations_by: ConversationsBy,
    /// Batches of messages that are written at once, each over a connection of its own
    #[arg(long, env = "CHAT_LANES", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub lanes: u8,
}

impl AsRef<Telemetry> for Config {
    fn as_ref(&self) -> &Telemetry {
        &self.telemetry
    }
}

/// Who may start conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConversationsBy {
    /// Every user with a token.
    Anyone,
    /// Only backends, with `chat.conversations.create`.
    Backends,
}
