//! The configuration of notify-service.

use clap::Parser;
use service::config::{Command, Database, Nats, Telemetry};
use std::{net::SocketAddr, path::PathBuf};

/// The notify service: turns events of backends and chat messages into notifications in users' inboxes.
#[derive(Debug, Clone, Parser)]
#[command(name = "notify-service", version = service::version::text())]
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
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9002")]
    pub admin_addr: SocketAddr,
    /// Days for which notifications are kept, whether read or unread
    #[arg(long, env = "NOTIFICATION_RETENTION_DAYS", default_value = "180", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub notification_retention_days: u32,
    /// Folder of notification texts, one file for each language (fr.ftl), that override the built-in texts; reloaded on
    /// SIGHUP
    #[arg(long, env = "CATALOGUE_DIR")]
    pub catalogue_dir: Option<PathBuf>,
}

impl AsRef<Telemetry> for Config {
    fn as_ref(&self) -> &Telemetry {
        &self.telemetry
    }
}
