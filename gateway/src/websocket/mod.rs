//! The server side of the WebSocket protocol (RFC 6455), without extensions.
//!
//! An idle socket holds no buffer: bytes are read into the reader's stack, and a frame is encoded once and shared by
//! all sockets that write it. `decoder` and `frame` are pure; `connection` does the I/O.

#[cfg(test)]
mod autobahn;
mod connection;
mod decoder;
mod frame;
pub mod outbox;

pub use connection::Socket;
pub use decoder::{Decoder, Item};
pub use frame::Frame;

/// The opcodes: four bits that define the type of a frame.
mod opcode {
    pub const CONTINUATION: u8 = 0x0;
    pub const TEXT: u8 = 0x1;
    pub const BINARY: u8 = 0x2;
    pub const CLOSE: u8 = 0x8;
    pub const PING: u8 = 0x9;
    pub const PONG: u8 = 0xA;
}

/// The bit in the first byte of a message's last frame.
const FIN: u8 = 0x80;
/// The bit in the second byte of a frame with a masked payload. Clients always mask; servers never do.
const MASKED: u8 = 0x80;
/// Maximum size of a control frame's payload, in bytes.
const CONTROL_BYTES: usize = 125;
