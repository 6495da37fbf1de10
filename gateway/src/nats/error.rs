//! Errors of the gateway's own connection to NATS.

use super::protocol::ProtocolError;
use std::io;

/// The reason why a connection failed or ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// An I/O error.
    #[error("the connection to NATS broke")]
    Io(#[from] io::Error),
    /// The server closed the connection.
    #[error("NATS closed the connection")]
    Closed,
    /// The server violated the protocol.
    #[error("NATS sent invalid data")]
    Protocol(#[from] ProtocolError),
    /// The server did not answer in time.
    #[error("NATS did not answer in time")]
    AnswerTimeout,
    /// A write did not finish in time.
    #[error("a write to NATS timed out")]
    WriteTimeout,
    /// The server refused the connection.
    #[error("NATS refused the connection: {0}")]
    Refused(String),
    /// A request exceeds the server's limit.
    #[error("NATS takes at most {0} bytes")]
    RequestTooLarge(usize),
    /// The server is too slow for the commands that wait to be written.
    #[error("too many commands waited to be written to NATS")]
    OutgoingFull,
}
