//! Configuration.

use clap::Parser;
use service::config::{Database, Nats, Telemetry};
use std::{net::SocketAddr, path::PathBuf};

/// Keeps each user's inbox: what other backends and the chat publish becomes notifications.
#[derive(Debug, Clone, Parser)]
#[command(name = "notify-service", version)]
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
    /// Where /healthz, /readyz and /metrics are
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9002")]
    pub admin_addr: SocketAddr,
    /// Days for which a notification is kept, read or not
    #[arg(long, env = "NOTIFICATION_RETENTION_DAYS", default_value = "180", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub notification_retention_days: u32,
    /// Folder with texts of notifications, one file for each language (fr.ftl), that go before the built-in ones;
    /// read again on SIGHUP
    #[arg(long, env = "CATALOGUE_DIR")]
    pub catalogue_dir: Option<PathBuf>,
}

impl AsRef<Telemetry> for Config {
    fn as_ref(&self) -> &Telemetry {
        &self.telemetry
    }
}
