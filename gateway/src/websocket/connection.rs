//! A client's connection after the handshake.

use super::{Decoder, Frame, Item};
use bytes::{Buf, Bytes};
use contract::Close;
use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};

/// Maximum size of a read, in bytes. They are read into the reader's stack.
const READ: usize = 8 * 1024;
/// Maximum number of frames in one write.
const SLICES: usize = 64;
/// Number of waiting pongs at which the socket stops reading until they are written.
const PONGS: u8 = 32;
/// How long a closing socket waits for the client to close, too.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of bytes that a closing socket reads and discards.
const CLOSE_BYTES: usize = 4 * 1024 * 1024;

/// A client's socket.
pub struct Socket {
    stream: TcpStream,
    decoder: Decoder,
    /// Bytes that were read behind the last item.
    input: Bytes,
    /// Frames that wait to be written.
    output: VecDeque<Frame>,
    /// Number of bytes of the first frame that are written.
    written: usize,
    /// Number of pongs among the frames.
    pongs: u8,
    incoming: Incoming,
}

impl Socket {
    /// Creates a socket after its handshake. `input` holds the bytes that were read behind the client's request. A
    /// message may have `max` bytes.
    pub fn new(stream: TcpStream, input: Bytes, max: usize) -> Self {
        let decoder = Decoder::new(max);
        let (output, incoming) = (VecDeque::new(), Incoming::Frames);
        Self { stream, decoder, input, output, written: 0, pongs: 0, incoming }
    }

    /// Reads the next item. A ping is answered with the next flush. Cancel safe.
    ///
    /// # Errors
    /// The code to close the socket with: the client's violation, or `Normal` if the connection ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Item, Close>> {
        if self.pongs >= PONGS {
            return Poll::Pending; // The caller also flushes, and polls again after that.
        }
        loop {
            let mut rest = &self.input[..];
            let decoded = self.decoder.decode(&mut rest);
            let taken = self.input.len() - rest.len();
            self.input.advance(taken);
            if self.input.is_empty() {
                self.input = Bytes::new();
            }
            if let Some(item) = self.handle(decoded)? {
                return Poll::Ready(Ok(item));
            }
            let mut bytes = [MaybeUninit::uninit(); READ];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                self.incoming = Incoming::Closed;
                return Poll::Ready(Err(Close::Normal));
            }
            let mut rest = buffer.filled();
            let decoded = self.decoder.decode(&mut rest);
            if !rest.is_empty() {
                self.input = Bytes::copy_from_slice(rest);
            }
            if let Some(item) = self.handle(decoded)? {
                return Poll::Ready(Ok(item));
            }
        }
    }

    fn handle(&mut self, decoded: Result<Option<Item>, Close>) -> Result<Option<Item>, Close> {
        match &decoded {
            Ok(Some(Item::Ping(payload))) => {
                self.pongs += 1;
                self.output.push_back(Frame::pong(payload));
            }
            Ok(Some(Item::Close)) => self.incoming = Incoming::Closed,
            Err(_) => self.incoming = Incoming::Invalid,
            Ok(_) => {}
        }
        decoded
    }

    /// Queues a frame to be written.
    pub fn queue(&mut self, frame: Frame) {
        self.output.push_back(frame);
    }

    /// Queues frames to be written.
    pub fn queue_all(&mut self, mut frames: VecDeque<Frame>) {
        if self.output.is_empty() {
            self.output = frames;
        } else {
            self.output.append(&mut frames);
        }
    }

    /// Writes all queued frames, with as few system calls as possible. Cancel safe.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.output.front() {
            let first = &first.bytes()[self.written..];
            let stream = Pin::new(&mut self.stream);
            let written = if self.output.len() == 1 {
                ready!(stream.poll_write(cx, first))?
            } else {
                let mut slices = [IoSlice::new(first); SLICES];
                for (slice, frame) in slices.iter_mut().zip(&self.output).skip(1) {
                    *slice = IoSlice::new(frame.bytes());
                }
                let frames = self.output.len().min(SLICES);
                ready!(stream.poll_write_vectored(cx, &slices[..frames]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(written);
        }
        self.output = VecDeque::new();
        self.pongs = 0;
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        while let Some(first) = self.output.front()
            && first.len() <= self.written
        {
            self.written -= first.len();
            self.output.pop_front();
        }
    }

    /// Sends a close frame, and waits a little until the client closes, too. If bytes from the client were left unread,
    /// the kernel would reset the connection, and the client might not receive the close frame.
    pub async fn close(mut self, close: Close) {
        // A partly written frame must be completed first, or the client could not recognise the close frame.
        self.output.truncate(usize::from(self.written > 0));
        self.queue(Frame::close(close));
        let closing = async {
            poll_fn(|cx| self.poll_flush(cx)).await?;
            let mut left = CLOSE_BYTES;
            poll_fn(|cx| self.poll_closed(cx, &mut left)).await;
            self.stream.shutdown().await
        };
        timeout(CLOSE_TIMEOUT, closing).await.ok();
    }

    /// Reads until the client has closed, and discards everything else.
    fn poll_closed(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let input = std::mem::take(&mut self.input);
        self.look_for_close(&input);
        while self.incoming != Incoming::Closed && *left > 0 {
            let mut bytes = [MaybeUninit::uninit(); READ];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
            *left = left.saturating_sub(buffer.filled().len());
            self.look_for_close(buffer.filled());
        }
        Poll::Ready(())
    }

    fn look_for_close(&mut self, mut input: &[u8]) {
        while self.incoming == Incoming::Frames {
            match self.decoder.decode(&mut input) {
                Ok(Some(Item::Close)) => self.incoming = Incoming::Closed,
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => self.incoming = Incoming::Invalid,
            }
        }
    }
}

/// The state of the client's side of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incoming {
    Frames,
    /// The client violated the protocol, so its bytes cannot be decoded any more.
    Invalid,
    /// The client has closed.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::limits;
    use futures_util::{SinkExt, StreamExt};
    use tokio::{io::AsyncWriteExt, net::TcpListener};
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::{Message, protocol::Role},
    };

    async fn connection() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(listener.accept().await.unwrap().0, Bytes::new(), limits::FRAME_BYTES), client)
    }

    async fn flush(socket: &mut Socket) {
        poll_fn(|cx| socket.poll_flush(cx)).await.unwrap();
    }

    #[tokio::test]
    async fn another_implementation_reads_all_frames() {
        let (mut socket, client) = connection().await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        // More than the kernel accepts at once, so that some writes end within a frame.
        let sizes: Vec<usize> = (0..300).map(|index| index * index % 70_000).collect();
        let writes = async {
            for sizes in sizes.chunks(100) {
                socket.queue_all(sizes.iter().map(|size| Frame::text(&"x".repeat(*size))).collect());
                flush(&mut socket).await;
            }
            socket.close(Close::Restart).await;
        };
        let reads = async {
            let mut messages = Vec::new();
            while let Some(message) = client.next().await {
                messages.push(message.unwrap());
            }
            messages
        };
        let ((), messages) = tokio::join!(writes, reads);
        let (close, texts) = messages.split_last().unwrap();
        let lengths: Vec<usize> = texts.iter().map(|text| text.to_text().unwrap().len()).collect();
        assert_eq!(lengths, sizes);
        assert!(matches!(close, Message::Close(Some(frame)) if u16::from(frame.code) == 1012), "{close:?}");
    }

    #[tokio::test]
    async fn frames_that_arrive_together_are_read_one_by_one_and_pings_are_answered() {
        let (mut socket, client) = connection().await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let large = "é".repeat(limits::FRAME_BYTES / 2);
        for message in
            [Message::text("a"), Message::Ping("1".into()), Message::text(&large), Message::text("b")]
        {
            client.feed(message).await.unwrap();
        }
        let sends = async { client.flush().await.unwrap() };
        let reads = async {
            for expected in ["a", "", &large, "b"] {
                match poll_fn(|cx| socket.poll_next(cx)).await.unwrap() {
                    Item::Text(text) => assert_eq!(text, expected),
                    item => assert_eq!(item, Item::Ping(b"1".to_vec())),
                }
            }
        };
        tokio::join!(sends, reads);
        flush(&mut socket).await;
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("1".into()));
        client.close(None).await.unwrap();
        assert_eq!(poll_fn(|cx| socket.poll_next(cx)).await, Ok(Item::Close));
        socket.close(Close::Normal).await;
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_))) | None));
    }

    #[tokio::test]
    async fn a_socket_with_too_many_unwritten_pongs_stops_reading() {
        let (mut socket, mut client) = connection().await;
        client.write_all(&[0x89, 0x80, 0, 0, 0, 0].repeat(1_000)).await.unwrap();
        for _ in 0..PONGS {
            assert_eq!(poll_fn(|cx| socket.poll_next(cx)).await, Ok(Item::Ping(Vec::new())));
        }
        assert!(futures_util::poll!(poll_fn(|cx| socket.poll_next(cx))).is_pending());
        flush(&mut socket).await;
        assert_eq!(poll_fn(|cx| socket.poll_next(cx)).await, Ok(Item::Ping(Vec::new())));
    }
}
