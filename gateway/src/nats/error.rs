//! Why the connection to NATS for events ends.

use super::protocol::Broken;
use std::io;

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// It broke.
    #[error("the connection to NATS broke")]
    Io(#[from] io::Error),
    /// It ended.
    #[error("NATS closed the connection")]
    Closed,
    /// What came over it is not NATS.
    #[error("NATS said what can't be read")]
    Broken(#[from] Broken),
    /// What it was asked for did not come.
    #[error("NATS did not answer in time")]
    Silent,
    /// Nothing is taken.
    #[error("NATS did not take what was written in time")]
    Stalled,
    /// It doesn't want us.
    #[error("NATS refused the connection: {0}")]
    Refused(String),
    /// It takes less than is to be written.
    #[error("more waited for NATS than may")]
    Full,
}
