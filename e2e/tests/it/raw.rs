//! A client that writes and reads raw bytes.

use e2e::{Stack, token, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

// Opcodes.
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;
// Bits of a frame's first byte.
pub const FIN: u8 = 0x80;
pub const RSV1: u8 = 0x40;

/// Connects to the first gateway, optionally with a receive buffer of this size.
pub async fn connect(stack: &Stack, receive_buffer: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.connect(stack.host(0).parse().unwrap()).await.unwrap()
}

/// Request of a handshake for this path.
pub fn handshake(stack: &Stack, path: &str, user: i64) -> String {
    let mark = if path.contains('?') { '&' } else { '?' };
    format!(
        "GET {path}{mark}token={} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        token(user),
        stack.host(0)
    )
}

/// Opens a socket.
pub async fn open(stack: &Stack, path: &str, user: i64, receive_buffer: Option<u32>) -> TcpStream {
    let mut stream = connect(stack, receive_buffer).await;
    stream.write_all(handshake(stack, path, user).as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

/// Reads the head of a response and no byte after it.
pub async fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut seen) = (Vec::new(), [0; 1024]);
    within("the head of a response", async {
        loop {
            let count = stream.peek(&mut seen).await.unwrap_or_default();
            let before = head.len();
            head.extend_from_slice(&seen[..count]);
            if let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") {
                head.truncate(end + 4);
            }
            let taken = head.len() - before;
            let ended = stream.read_exact(&mut seen[..taken]).await.is_err() || count == 0;
            if ended || head.ends_with(b"\r\n\r\n") {
                break;
            }
        }
    })
    .await;
    String::from_utf8(head).unwrap()
}

/// A client's frame. The mask is zero, so that the payload is unchanged.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64, true);
    frame.extend_from_slice(payload);
    frame
}

/// Header of a frame with this length.
pub fn header(first: u8, len: u64, masked: bool) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut header = vec![first];
    match len {
        0..=125 => header.push(mask_bit | u8::try_from(len).unwrap()),
        126..=0xffff => {
            header.push(mask_bit | 126);
            header.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
        _ => {
            header.push(mask_bit | 127);
            header.extend_from_slice(&len.to_be_bytes());
        }
    }
    header.extend_from_slice(if masked { &[0; 4] } else { &[] });
    header
}

/// Opcode and payload of the server's next frame; `None` if the connection ends.
pub async fn next(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    within("a frame", async {
        let first = stream.read_u8().await.ok()?;
        let len = match stream.read_u8().await.ok()? {
            126 => u64::from(stream.read_u16().await.ok()?),
            127 => stream.read_u64().await.ok()?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        stream.read_exact(&mut payload).await.ok()?;
        Some((first & 0x0f, payload))
    })
    .await
}

/// Waits until the socket is closed and returns the close code, if there is one. Drops the frames before it.
pub async fn closed(stream: &mut TcpStream) -> Option<u16> {
    loop {
        match next(stream).await {
            Some((CLOSE, payload)) => {
                return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
            Some(_) => {}
            None => return None,
        }
    }
}
