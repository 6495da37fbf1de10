//! Decodes the bytes of a client, and enforces all rules of RFC 6455 for clients. Pure: no I/O.

use super::{CONTROL_BYTES, FIN, MASKED, opcode};
use contract::Close;

/// Size of the longest header of a client's frame, in bytes.
const HEADER: usize = 14;

/// A decoded message or control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A complete text message.
    Text(String),
    /// A ping, to be answered with the same payload.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// A close frame. Everything after it is ignored.
    Close,
}

/// Decodes frames from pieces of any size. Buffers no more than the current message.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// The received part of the current text message.
    text: Vec<u8>,
    /// Number of bytes of `text` that are known to be UTF-8.
    checked: usize,
    /// Whether the message continues in another frame.
    unfinished: bool,
    /// Maximum size of a message, in bytes.
    max: usize,
}

#[derive(Debug)]
enum State {
    /// Within a header, of which `filled` bytes have arrived.
    Header { bytes: [u8; HEADER], filled: usize },
    /// Within the payload of a text message's frame.
    Text { last: bool, left: usize, mask: [u8; 4] },
    /// Within the payload of a control frame.
    Control { opcode: u8, left: usize, mask: [u8; 4], payload: Vec<u8> },
}

/// The state between two frames.
const NEXT_FRAME: State = State::Header { bytes: [0; HEADER], filled: 0 };

impl Decoder {
    /// Creates a decoder for a new connection. A message may have `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self { state: NEXT_FRAME, text: Vec::new(), checked: 0, unfinished: false, max }
    }

    /// Consumes `input` from its front until an item is complete or nothing is left.
    ///
    /// # Errors
    /// The close code of the client's violation. The rest of the stream cannot be decoded.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Item>, Close> {
        loop {
            match &mut self.state {
                State::Header { bytes, filled } => {
                    let Some(header) = take_header(bytes, filled, input)? else { return Ok(None) };
                    self.state = self.begin(&header)?;
                }
                State::Text { last, left, mask } => {
                    take_payload(&mut self.text, left, mask, input);
                    let (is_complete, last) = (*left == 0, *last);
                    if is_complete {
                        self.state = NEXT_FRAME;
                    }
                    if is_complete && last {
                        self.unfinished = false;
                        self.checked = 0;
                        let text = String::from_utf8(std::mem::take(&mut self.text));
                        return text.map(|text| Some(Item::Text(text))).map_err(|_| Close::NotUtf8);
                    }
                    self.check_utf8()?;
                    if !is_complete {
                        return Ok(None);
                    }
                    self.unfinished = true;
                }
                State::Control { opcode, left, mask, payload } => {
                    take_payload(payload, left, mask, input);
                    if *left > 0 {
                        return Ok(None);
                    }
                    let (opcode, payload) = (*opcode, std::mem::take(payload));
                    self.state = NEXT_FRAME;
                    return control(opcode, payload).map(Some);
                }
            }
        }
    }

    /// Checks whether the frame may follow the previous one, and returns the state for its payload.
    fn begin(&self, header: &Header) -> Result<State, Close> {
        let &Header { last, opcode, len, mask } = header;
        match opcode {
            opcode::TEXT if self.unfinished => Err(Close::Protocol),
            opcode::CONTINUATION if !self.unfinished => Err(Close::Protocol),
            opcode::TEXT | opcode::CONTINUATION => {
                let left = usize::try_from(len).ok().filter(|len| *len <= self.max - self.text.len());
                Ok(State::Text { last, left: left.ok_or(Close::TooBig)?, mask })
            }
            opcode::BINARY => Err(Close::Binary),
            _ => {
                let left = usize::try_from(len).unwrap_or_default();
                Ok(State::Control { opcode, left, mask, payload: Vec::new() })
            }
        }
    }

    /// Checks that the received part of a message can still become UTF-8.
    fn check_utf8(&mut self) -> Result<(), Close> {
        self.checked += match std::str::from_utf8(&self.text[self.checked..]) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return Err(Close::NotUtf8),
        };
        Ok(())
    }
}

struct Header {
    last: bool,
    opcode: u8,
    len: u64,
    mask: [u8; 4],
}

/// Collects a header. Its first two bytes are checked before the rest has arrived.
fn take_header(
    bytes: &mut [u8; HEADER],
    filled: &mut usize,
    input: &mut &[u8],
) -> Result<Option<Header>, Close> {
    loop {
        if *filled >= 1 {
            check_first(bytes[0])?;
        }
        if *filled >= 2 {
            check_second(bytes[0], bytes[1])?;
        }
        let wanted = match bytes[1] & !MASKED {
            _ if *filled < 2 => 2,
            126 => 8,
            127 => 14,
            _ => 6,
        };
        if *filled == wanted {
            return header(&bytes[..wanted]).map(Some);
        }
        if input.is_empty() {
            return Ok(None);
        }
        let (now, rest) = input.split_at(input.len().min(wanted - *filled));
        bytes[*filled..*filled + now.len()].copy_from_slice(now);
        *filled += now.len();
        *input = rest;
    }
}

/// Checks the first byte: no extension, a known opcode, and no fragmented control frame.
fn check_first(first: u8) -> Result<(), Close> {
    let extension = first & 0x70 != 0;
    let opcode = first & 0x0f;
    let known = opcode <= opcode::BINARY || (opcode::CLOSE..=opcode::PONG).contains(&opcode);
    let fragmented = opcode >= opcode::CLOSE && first & FIN == 0;
    if extension || !known || fragmented { Err(Close::Protocol) } else { Ok(()) }
}

/// Checks the second byte: the payload is masked, and that of a control frame is short.
fn check_second(first: u8, second: u8) -> Result<(), Close> {
    let control = first & 0x0f >= opcode::CLOSE;
    let long = usize::from(second & !MASKED) > CONTROL_BYTES;
    if second & MASKED == 0 || (control && long) { Err(Close::Protocol) } else { Ok(()) }
}

/// Parses a complete header.
fn header(bytes: &[u8]) -> Result<Header, Close> {
    let (head, mask) = bytes.split_last_chunk().ok_or(Close::Protocol)?;
    let (len, least) = match head {
        [_, short] => (u64::from(short & !MASKED), 0),
        [_, _, len @ ..] => (number(len), if len.len() == 2 { 126 } else { 65_536 }),
        _ => return Err(Close::Protocol),
    };
    // A length must use the shortest encoding, and its highest bit must be 0.
    if len < least || len >> 63 != 0 {
        return Err(Close::Protocol);
    }
    Ok(Header { last: head[0] & FIN != 0, opcode: head[0] & 0x0f, len, mask: *mask })
}

/// Parses a big-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Moves payload from `input` to `to` and unmasks it. `mask` starts with the byte for the next payload byte.
fn take_payload(to: &mut Vec<u8>, left: &mut usize, mask: &mut [u8; 4], input: &mut &[u8]) {
    let (now, rest) = input.split_at(input.len().min(*left));
    let start = to.len();
    to.extend_from_slice(now);
    let (words, tail) = to[start..].as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(*mask)).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(*mask) {
        *byte ^= mask;
    }
    mask.rotate_left(tail.len());
    *left -= now.len();
    *input = rest;
}

/// Converts a complete control frame.
fn control(opcode: u8, payload: Vec<u8>) -> Result<Item, Close> {
    match opcode {
        opcode::PING => Ok(Item::Ping(payload)),
        opcode::PONG => Ok(Item::Pong),
        _ => match payload.split_first_chunk() {
            None if payload.is_empty() => Ok(Item::Close),
            Some((code, reason)) if is_allowed(u16::from_be_bytes(*code)) => {
                std::str::from_utf8(reason).map(|_| Item::Close).map_err(|_| Close::NotUtf8)
            }
            _ => Err(Close::Protocol),
        },
    }
}

/// Whether a frame may contain this close code: one of RFC 6455, of IANA's registry, or a private one.
const fn is_allowed(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests;
