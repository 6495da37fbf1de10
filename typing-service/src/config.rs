//! What an operator may choose.

use clap::Parser;
use contract::limits::TYPING_TTL;
use service::config::{Nats, Telemetry};
use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

/// typing-service: who is typing where. Keeps everything in memory; any number of replicas may run.
#[derive(Debug, Clone, Parser)]
#[command(name = "typing-service", version)]
pub struct Config {
    /// How to reach NATS.
    #[command(flatten)]
    pub nats: Nats,
    /// What is logged, and how.
    #[command(flatten)]
    pub telemetry: Telemetry,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "ADMIN_ADDR", default_value = "0.0.0.0:9003")]
    pub admin_addr: SocketAddr,
    /// People who may type at once, about 400 bytes each; those beyond are not shown
    #[arg(long, env = "TYPISTS_MAX", default_value = "100000")]
    pub typists_max: NonZeroUsize,
    /// From a user's last `true` until the typing is over. Not an operator's choice, as gateways count on it too.
    #[arg(skip = TYPING_TTL)]
    pub ttl: Duration,
}

impl AsRef<Telemetry> for Config {
    fn as_ref(&self) -> &Telemetry {
        &self.telemetry
    }
}
