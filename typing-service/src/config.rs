//! The configuration of typing-service.

use clap::Parser;
use contract::limits::TYPING_TTL;
use service::config::{Nats, Switch, Telemetry};
use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

/// The typing service: tracks which users are typing in which conversations. Its state is in memory; any number of
/// replicas may run.
#[derive(Debug, Clone, Parser)]
#[command(name = "typing-service", version = service::version::text())]
pub struct Config {
    /// Connection to NATS.
    #[command(flatten)]
    pub nats: Nats,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: Telemetry,
    /// Address that serves /healthz, /readyz and /metrics
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9003")]
    pub admin_addr: SocketAddr,
    /// Maximum number of users typing at once, about 400 bytes each; further users are not shown
    #[arg(long, env = "TYPISTS_MAX", default_value = "100000")]
    pub typists_max: NonZeroUsize,
    /// Whether to know and show which users are present: on or off; the same for all services
    #[arg(long, env = "PRESENCE", value_enum, default_value_t = Switch::On)]
    pub presence: Switch,
    /// Time from a user's last input until typing ends. Operators can't change it, because gateways depend on it too.
    #[arg(skip = TYPING_TTL)]
    pub ttl: Duration,
}

impl AsRef<Telemetry> for Config {
    fn as_ref(&self) -> &Telemetry {
        &self.telemetry
    }
}
