//! A minimal client socket: the generator shares the processors with the measured system.
//!
//! All sockets read into one buffer, an idle socket uses no memory except for its own state, and writes go directly to
//! the kernel.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, Cursor},
    net::{Ipv4Addr, SocketAddr},
    ops::ControlFlow,
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::{
        TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_tungstenite::tungstenite::{
    handshake::derive_accept_key,
    protocol::frame::{
        FrameHeader,
        coding::{Control, Data, OpCode},
    },
};

/// Size of the shared read buffer.
const BUFFER: usize = 64 * 1024;
/// Maximum bytes queued for a socket whose server doesn't read. Further frames are refused.
const WAITING: usize = 256 * 1024;
/// Maximum size of the response to a handshake.
const RESPONSE_BYTES: usize = 8 * 1024;
/// Key of every handshake. It protects against proxies, of which there are none on loopback.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Number of source addresses, used in turn, because one address has ports for only 28,000 sockets.
const SOURCES: u8 = 100;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// The error of a failed handshake.
#[derive(Debug)]
pub enum Refused {
    /// Refused with this HTTP status.
    Status(u16),
    /// Closed with this code before it was ready.
    Closed(Option<u16>),
    /// Error of the connection.
    Io(io::Error),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(out, "refused with HTTP {status}"),
            Self::Closed(Some(code)) => write!(out, "closed with {code}"),
            Self::Closed(None) => write!(out, "disconnected"),
            Self::Io(error) => write!(out, "{error}"),
        }
    }
}

impl std::error::Error for Refused {}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The writing side of a socket.
#[derive(Debug)]
pub struct Link {
    write: OwnedWriteHalf,
    waiting: RefCell<Vec<u8>>,
}

/// The reading side of a socket.
#[derive(Debug)]
pub struct Reader {
    read: OwnedReadHalf,
    /// Received bytes that are not yet a complete frame, or not yet processed.
    rest: Vec<u8>,
    link: Rc<Link>,
}

/// Reason for the end of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The callback stopped the read.
    Stopped,
    /// The server closed the socket, with this code if it sent one.
    Closed(Option<u16>),
}

/// Opens a socket to `address`; `number` selects the source address.
///
/// # Errors
/// If the connection fails, or the server refuses the handshake.
pub async fn open(address: SocketAddr, path: &str, number: usize) -> Result<(Rc<Link>, Reader), Refused> {
    let socket = TcpSocket::new_v4()?;
    if address.ip().is_loopback() {
        let last = u8::try_from(number % usize::from(SOURCES)).unwrap_or(0) + 1;
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
    }
    let mut stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::with_capacity(512);
    let head = loop {
        if stream.read_buf(&mut response).await? == 0 {
            return Err(Refused::Closed(None));
        }
        if let Some(head) = head(&response)? {
            break head;
        }
        if response.len() > RESPONSE_BYTES {
            return Err(io::Error::other("the response to a handshake is too long").into());
        }
    };
    let rest = response.split_off(head);
    let (read, write) = stream.into_split();
    let link = Rc::new(Link { write, waiting: RefCell::default() });
    Ok((link.clone(), Reader { read, rest, link }))
}

/// Length of a response's head, if it is complete and accepts the handshake.
fn head(bytes: &[u8]) -> Result<Option<usize>, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let status = response.parse(bytes).map_err(io::Error::other)?;
    let httparse::Status::Complete(length) = status else { return Ok(None) };
    let code = response.code.unwrap_or(0);
    if code != 101 {
        return Err(Refused::Status(code));
    }
    let accepts = response.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("sec-websocket-accept")
            && header.value == derive_accept_key(KEY.as_bytes()).as_bytes()
    });
    if !accepts {
        return Err(io::Error::other("the server accepted a different handshake").into());
    }
    Ok(Some(length))
}

impl Link {
    /// Sends a text frame. Returns false if the server has not read for so long that the queue is full.
    pub fn send(self: &Rc<Self>, text: &str) -> bool {
        self.put(OpCode::Data(Data::Text), text.as_bytes())
    }

    /// Sends a close frame. The server then closes the connection.
    pub fn close(self: &Rc<Self>) {
        self.put(OpCode::Control(Control::Close), &1000_u16.to_be_bytes());
    }

    fn put(self: &Rc<Self>, opcode: OpCode, payload: &[u8]) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() + payload.len() > WAITING {
            return false;
        }
        let idle = waiting.is_empty();
        encode(opcode, payload, &mut waiting);
        if idle {
            let written = self.write.try_write(&waiting).unwrap_or(0); // An error also appears on reading.
            waiting.drain(..written);
            if !waiting.is_empty() {
                tokio::task::spawn_local(self.clone().flush());
            } else {
                waiting.shrink_to(0); // There are thousands of sockets, and each rarely writes.
            }
        }
        true
    }

    /// Writes the queued bytes when the server reads again.
    async fn flush(self: Rc<Self>) {
        while self.write.writable().await.is_ok() {
            let mut waiting = self.waiting.borrow_mut();
            match self.write.try_write(&waiting) {
                Ok(written) => {
                    waiting.drain(..written);
                    if waiting.is_empty() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Appends a client's frame, masked as the protocol requires.
fn encode(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    let mask = fastrand::u32(..).to_ne_bytes();
    let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
    let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
    header.format(length, out).expect("writing to a Vec doesn't fail");
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

impl Reader {
    /// Calls `on_text` with each text frame, until it breaks or the socket is closed. Answers pings.
    pub async fn read(&mut self, mut on_text: impl FnMut(&[u8]) -> ControlFlow<()>) -> Ended {
        if !self.rest.is_empty()
            && let Some(ended) = self.handle_bytes(&[], &mut on_text)
        {
            return ended;
        }
        poll_fn(|context| {
            loop {
                let ended = READ.with_borrow_mut(|buffer| {
                    let mut space = ReadBuf::new(buffer);
                    match ready!(Pin::new(&mut self.read).poll_read(context, &mut space)) {
                        Ok(()) if !space.filled().is_empty() => {
                            Poll::Ready(self.handle_bytes(space.filled(), &mut on_text))
                        }
                        Ok(()) | Err(_) => Poll::Ready(Some(Ended::Closed(None))),
                    }
                });
                if let Some(ended) = ready!(ended) {
                    return Poll::Ready(ended);
                }
            }
        })
        .await
    }

    /// Handles all complete frames in the remaining and the newly read bytes.
    fn handle_bytes(
        &mut self,
        read: &[u8],
        on_text: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Option<Ended> {
        let mut left = std::mem::take(&mut self.rest);
        let bytes = if left.is_empty() {
            read
        } else {
            left.extend_from_slice(read);
            &left
        };
        let mut from = 0;
        let ended = loop {
            match frame(&bytes[from..]) {
                Ok(Some((opcode, payload, length))) => {
                    from += length;
                    if let Some(ended) = self.handle(opcode, payload, on_text) {
                        break Some(ended);
                    }
                }
                Ok(None) => break None,
                Err(_) => break Some(Ended::Closed(None)),
            }
        };
        self.rest = bytes[from..].to_vec();
        ended
    }

    fn handle(
        &self,
        opcode: OpCode,
        payload: &[u8],
        on_text: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Option<Ended> {
        match opcode {
            OpCode::Data(Data::Text) => on_text(payload).is_break().then_some(Ended::Stopped),
            OpCode::Control(Control::Ping) => {
                self.link.put(OpCode::Control(Control::Pong), payload);
                None
            }
            OpCode::Control(Control::Close) => {
                self.link.put(OpCode::Control(Control::Close), payload);
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                Some(Ended::Closed(code))
            }
            _ => None,
        }
    }
}

/// Opcode, payload and total length of a frame.
type Frame<'a> = (OpCode, &'a [u8], usize);

/// The first frame in these bytes, if it is complete.
fn frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, Box<dyn std::error::Error>> {
    let mut cursor = Cursor::new(bytes);
    let Some((header, length)) = FrameHeader::parse(&mut cursor)? else { return Ok(None) };
    let start = usize::try_from(cursor.position())?;
    let end = start + usize::try_from(length)?;
    Ok(bytes.get(start..end).map(|payload| (header.opcode, payload, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_parsed_when_it_is_complete() {
        let bytes = [0x81, 3, b'a', b'b', b'c', 0x89, 0];
        for short in 0..5 {
            assert!(frame(&bytes[..short]).unwrap().is_none());
        }
        let (opcode, payload, length) = frame(&bytes).unwrap().unwrap();
        assert_eq!((opcode, payload, length), (OpCode::Data(Data::Text), b"abc".as_slice(), 5));
        let (opcode, payload, length) = frame(&bytes[5..]).unwrap().unwrap();
        assert_eq!((opcode, payload, length), (OpCode::Control(Control::Ping), b"".as_slice(), 2));
    }

    #[test]
    fn sent_frames_are_masked() {
        let mut out = Vec::new();
        encode(OpCode::Data(Data::Text), b"hello", &mut out);
        assert_eq!(out[..2], [0x81, 0x85]);
        let plain: Vec<u8> = out[6..].iter().zip(out[2..6].iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(plain, b"hello");
    }
}
