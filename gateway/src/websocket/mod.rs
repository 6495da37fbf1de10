//! The server's side of the WebSocket protocol (RFC 6455), without extensions.
//!
//! An idle socket holds no buffer at all: what is read goes through the stack of whoever reads, and what is written
//! is encoded once and shared by every socket that it goes to. `decoder` and `frame` are pure; `connection` is the I/O.

#[cfg(test)]
mod autobahn;
mod connection;
mod decoder;
mod frame;
pub mod outbox;

pub use connection::Socket;
pub use decoder::{Decoder, Item};
pub use frame::Frame;

/// The four bits that say what a frame is.
mod opcode {
    pub const CONTINUATION: u8 = 0x0;
    pub const TEXT: u8 = 0x1;
    pub const BINARY: u8 = 0x2;
    pub const CLOSE: u8 = 0x8;
    pub const PING: u8 = 0x9;
    pub const PONG: u8 = 0xA;
}

/// The bit of a message's last frame.
const FIN: u8 = 0x80;
/// The bit of a frame whose payload is masked: every client's, and no server's.
const MASKED: u8 = 0x80;
/// Bytes of a control frame's payload, at most.
const CONTROL_BYTES: usize = 125;
