//! What a client sends, byte by byte: pure, and strict about everything that RFC 6455 says a client must do.

use super::{CONTROL_BYTES, FIN, MASKED, opcode};
use contract::Close;

/// Bytes of the longest header of a client's frame.
const HEADER: usize = 14;

/// Something that a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A whole text message.
    Text(String),
    /// It wants a pong with this payload.
    Ping(Vec<u8>),
    /// It is alive.
    Pong,
    /// It leaves; whatever follows means nothing.
    Close,
}

/// Reads frames of a client in whatever pieces they come. It holds no more than the message that is under way.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// What has come of the text message that is under way.
    text: Vec<u8>,
    /// How much of that is known to be UTF-8.
    checked: usize,
    /// Whether the message goes on in another frame.
    unfinished: bool,
    /// Bytes of a message, at most.
    max: usize,
}

#[derive(Debug)]
enum State {
    /// Within a header, of which so much has come.
    Header { bytes: [u8; HEADER], filled: usize },
    /// Within the payload of a text message's frame.
    Text { last: bool, left: usize, mask: [u8; 4] },
    /// Within the payload of a control frame.
    Control { opcode: u8, left: usize, mask: [u8; 4], payload: Vec<u8> },
}

const NEXT: State = State::Header { bytes: [0; HEADER], filled: 0 };

impl Decoder {
    /// At the start of a connection. A message may have `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self { state: NEXT, text: Vec::new(), checked: 0, unfinished: false, max }
    }

    /// Takes bytes off the front of `input` until something is whole, or nothing is left.
    ///
    /// # Errors
    /// What the client broke; after that, nothing that it sends means anything.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Item>, Close> {
        loop {
            match &mut self.state {
                State::Header { bytes, filled } => {
                    let Some(header) = take_header(bytes, filled, input)? else { return Ok(None) };
                    self.state = self.begin(&header)?;
                }
                State::Text { last, left, mask } => {
                    take_payload(&mut self.text, left, mask, input);
                    let (whole, last) = (*left == 0, *last);
                    if whole {
                        self.state = NEXT;
                    }
                    if whole && last {
                        self.unfinished = false;
                        self.checked = 0;
                        let text = String::from_utf8(std::mem::take(&mut self.text));
                        return text.map(|text| Some(Item::Text(text))).map_err(|_| Close::NotUtf8);
                    }
                    self.check_so_far()?;
                    if !whole {
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
                    self.state = NEXT;
                    return control(opcode, payload).map(Some);
                }
            }
        }
    }

    /// Whether a frame can follow here, and what its payload belongs to.
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

    /// Whether what has come of a message can still become UTF-8.
    fn check_so_far(&mut self) -> Result<(), Close> {
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

/// Gathers a header; what is wrong with its first bytes is said before the others have come.
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

/// The first byte: extensions there are none, and kinds of frames only those that are known.
fn check_first(first: u8) -> Result<(), Close> {
    let extension = first & 0x70 != 0;
    let opcode = first & 0x0f;
    let known = opcode <= opcode::BINARY || (opcode::CLOSE..=opcode::PONG).contains(&opcode);
    let parted = opcode >= opcode::CLOSE && first & FIN == 0;
    if extension || !known || parted { Err(Close::Protocol) } else { Ok(()) }
}

/// The second byte: a client masks, and control frames are short.
fn check_second(first: u8, second: u8) -> Result<(), Close> {
    let control = first & 0x0f >= opcode::CLOSE;
    let long = usize::from(second & !MASKED) > CONTROL_BYTES;
    if second & MASKED == 0 || (control && long) { Err(Close::Protocol) } else { Ok(()) }
}

/// A whole header.
fn header(bytes: &[u8]) -> Result<Header, Close> {
    let (head, mask) = bytes.split_last_chunk().ok_or(Close::Protocol)?;
    let (len, least) = match head {
        [_, short] => (u64::from(short & !MASKED), 0),
        [_, _, len @ ..] => (number(len), if len.len() == 2 { 126 } else { 65_536 }),
        _ => return Err(Close::Protocol),
    };
    // A length is written as short as it can be, and has no sign.
    if len < least || len >> 63 != 0 {
        return Err(Close::Protocol);
    }
    Ok(Header { last: head[0] & FIN != 0, opcode: head[0] & 0x0f, len, mask: *mask })
}

/// A number, its highest byte first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Moves payload from `input` to `to`, unmasked. `mask` begins with the byte that is next.
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

/// A whole control frame.
fn control(opcode: u8, payload: Vec<u8>) -> Result<Item, Close> {
    match opcode {
        opcode::PING => Ok(Item::Ping(payload)),
        opcode::PONG => Ok(Item::Pong),
        _ => match payload.split_first_chunk() {
            None if payload.is_empty() => Ok(Item::Close),
            Some((code, reason)) if may_be_sent(u16::from_be_bytes(*code)) => {
                std::str::from_utf8(reason).map(|_| Item::Close).map_err(|_| Close::NotUtf8)
            }
            _ => Err(Close::Protocol),
        },
    }
}

/// Whether a close code may stand in a frame: those that RFC 6455 and IANA's registry define, and private ones.
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests;
