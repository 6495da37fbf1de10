//! The chat service's configuration.

use clap::{Parser, ValueEnum};
use contract::UserId;
use service::config::{Command, Database, Nats, OptionalEvent, Telemetry};
use std::{net::SocketAddr, path::PathBuf};

/// The chat service: stores each message once, in order, and publishes it to gateways and notify-service.
#[derive(Debug, Clone, Parser)]
#[command(version = service::version::text())]
pub struct Config {
    /// Command; without one, the service runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Connection to NATS.
    #[command(flatten)]
    pub nats: Nats,
    /// Connection to Postgres.
    #[command(flatten)]
    pub database: Database,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: Telemetry,
    /// Address that serves /healthz, /readyz and /metrics
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9001")]
    pub admin_addr: SocketAddr,
    /// Who may start conversations: anyone with a token, or only backends over NATS
    #[arg(long, env = "CONVERSATIONS_BY", value_enum, default_value_t = ConversationsBy::Anyone)]
    pub conversations_by: ConversationsBy,
    /// Time in seconds in which senders may edit a message; 0: never
    #[arg(long, env = "EDIT_SECONDS", default_value = "900")]
    pub edit_seconds: u32,
    /// Time in seconds in which senders may delete a message; 0: never
    #[arg(long, env = "DELETE_SECONDS", default_value = "86400")]
    pub delete_seconds: u32,
    /// Time in days for which moderators can read the former text of an edited or deleted message
    #[arg(long, env = "VERSION_DAYS", default_value = "90")]
    pub version_days: u32,
    /// Time in days for which messages are kept; 0: for good
    #[arg(long, env = "MESSAGE_DAYS", default_value = "0", value_parser = clap::value_parser!(u32).range(..=36_500))]
    pub message_days: u32,
    /// Time in days for which reports are kept, with the reported texts
    #[arg(long, env = "REPORT_DAYS", default_value = "365", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub report_days: u32,
    /// Folder with kinds of messages, one JSON Schema in each file; SIGHUP loads it again
    #[arg(long, env = "KINDS_DIR")]
    pub kinds_dir: Option<PathBuf>,
    /// Language of the texts that are made from the data of messages
    #[arg(long, env = "KINDS_LANG", default_value = "fr")]
    pub kinds_lang: String,
    /// Sender of system messages; without it, backends can't send them
    #[arg(long, env = "SYSTEM_USER_ID")]
    pub system_user_id: Option<UserId>,
    /// Display name of the sender of system messages
    #[arg(long, env = "SYSTEM_USERNAME", default_value = "Vyzio")]
    pub system_username: String,
    /// Optional events for backends on the stream EVENTS_OUT, separated by commas. This service publishes changed, and
    /// notes opened for notify-service
    #[arg(long = "tell", env = "TELL", value_enum, value_delimiter = ',')]
    pub optional_events: Vec<OptionalEvent>,
    /// Number of message batches written at the same time, each over its own connection
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
    /// Only backends, through `chat.conversations.create`.
    Backends,
}
