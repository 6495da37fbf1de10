//! Encoded frames for clients: header and payload in one buffer, which all sockets share.

use super::{CONTROL_BYTES, FIN, opcode};
use bytes::Bytes;
use contract::Close;
use std::sync::Arc;

/// Size of the longest header of a server's frame, in bytes.
const HEADER: usize = 10;

/// An encoded frame. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// A text frame.
    pub fn text(payload: &str) -> Self {
        Self::text_of(|bytes| bytes.extend_from_slice(payload.as_bytes()))
    }

    /// A text frame with the payload that `write` appends. The payload must be UTF-8.
    pub fn text_of(write: impl FnOnce(&mut Vec<u8>)) -> Self {
        // The payload is written after space for the longest header; then the header is written right before it.
        let mut bytes = Vec::with_capacity(512);
        bytes.resize(HEADER, 0);
        write(&mut bytes);
        bytes.shrink_to_fit();
        let len = bytes.len() - HEADER;
        let (header, header_len) = header(opcode::TEXT, len);
        let start = HEADER - header_len;
        bytes[start..HEADER].copy_from_slice(&header[..header_len]);
        Self(Bytes::from(bytes).slice(start..))
    }

    /// The same frame with a guard, which is dropped with the last clone of the frame.
    #[must_use]
    pub fn with_guard<T: Send + Sync + 'static>(self, guard: Arc<T>) -> Self {
        struct Guarded<T>(Bytes, #[expect(dead_code, reason = "it is only dropped")] Arc<T>);
        impl<T> AsRef<[u8]> for Guarded<T> {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Self(Bytes::from_owner(Guarded(self.0, guard)))
    }

    /// A ping.
    pub const fn ping() -> Self {
        Self(Bytes::from_static(&[FIN | opcode::PING, 0]))
    }

    /// The answer to a ping.
    ///
    /// # Panics
    /// If the payload is too long for a control frame.
    pub fn pong(payload: &[u8]) -> Self {
        Self::control(opcode::PONG, payload)
    }

    /// A close frame.
    pub fn close(close: Close) -> Self {
        let mut payload = close.code().to_be_bytes().to_vec();
        payload.extend_from_slice(close.reason().as_bytes());
        Self::control(opcode::CLOSE, &payload)
    }

    fn control(opcode: u8, payload: &[u8]) -> Self {
        let len = u8::try_from(payload.len()).expect("a control frame is short");
        assert!(usize::from(len) <= CONTROL_BYTES, "a control frame is short");
        Self([&[FIN | opcode, len], payload].concat().into())
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        let header = match self.0.get(1) {
            Some(126) => 4,
            Some(127) => 10,
            _ => 2,
        };
        &self.0[header..]
    }

    /// The encoded bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The number of encoded bytes.
    pub const fn len(&self) -> usize {
        self.0.len()
    }
}

/// Encodes a header. Returns it with its length.
fn header(opcode: u8, len: usize) -> ([u8; HEADER], usize) {
    let mut header = [0; HEADER];
    header[0] = FIN | opcode;
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..=125), _) => {
            header[1] = short;
            (header, 2)
        }
        (_, Ok(medium)) => {
            header[1] = 126;
            header[2..4].copy_from_slice(&medium.to_be_bytes());
            (header, 4)
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
            (header, HEADER)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_uses_the_shortest_encoding() {
        for (len, expected) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 255, 255]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = Frame::text(&"x".repeat(len));
            assert_eq!(frame.bytes()[..expected.len()], expected);
            assert_eq!((frame.payload().len(), frame.len()), (len, expected.len() + len));
        }
    }

    #[test]
    fn control_frames_are_encoded() {
        assert_eq!(Frame::close(Close::Normal).bytes()[..], *b"\x88\x05\x03\xe8bye");
        assert_eq!(Frame::pong(b"hi").bytes()[..], *b"\x8a\x02hi");
        assert_eq!(Frame::ping().bytes()[..], *b"\x89\x00");
    }
}
