//! A client's connection after its handshake.

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

/// Bytes that are read at once, into the reader's stack.
const READ: usize = 8 * 1024;
/// Frames that are written at once.
const SLICES: usize = 64;
/// Answers to pings that wait to be written; until they are, nothing more is read.
const PONGS: u8 = 32;
/// How long a socket that is closed waits for the client to close, too.
const GOODBYE: Duration = Duration::from_secs(2);
/// Bytes that are read and thrown away meanwhile.
const GOODBYE_BYTES: usize = 4 * 1024 * 1024;

/// A client's socket.
pub struct Socket {
    stream: TcpStream,
    decoder: Decoder,
    /// What was read behind the last item.
    input: Bytes,
    /// Frames to be written.
    output: VecDeque<Frame>,
    /// Bytes of the first of them that are written.
    written: usize,
    /// How many of them are answers to pings.
    pongs: u8,
    hears: Hears,
}

impl Socket {
    /// A connection whose handshake has been answered, and what has been read behind the client's half of that. A
    /// message may have `max` bytes.
    pub fn new(stream: TcpStream, input: Bytes, max: usize) -> Self {
        let decoder = Decoder::new(max);
        let (output, hears) = (VecDeque::new(), Hears::Frames);
        Self { stream, decoder, input, output, written: 0, pongs: 0, hears }
    }

    /// What the client says next. A ping is answered with the next flush. Cancel safe.
    ///
    /// # Errors
    /// Why the socket is to be closed: what the client broke, or `Normal` where the connection ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Item, Close>> {
        if self.pongs >= PONGS {
            return Poll::Pending; // Whoever waits for an item flushes, and asks again after that.
        }
        loop {
            let mut rest = &self.input[..];
            let decoded = self.decoder.decode(&mut rest);
            let taken = self.input.len() - rest.len();
            self.input.advance(taken);
            if self.input.is_empty() {
                self.input = Bytes::new();
            }
            if let Some(item) = self.heard(decoded)? {
                return Poll::Ready(Ok(item));
            }
            let mut bytes = [MaybeUninit::uninit(); READ];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                self.hears = Hears::Nothing;
                return Poll::Ready(Err(Close::Normal));
            }
            let mut rest = buffer.filled();
            let decoded = self.decoder.decode(&mut rest);
            if !rest.is_empty() {
                self.input = Bytes::copy_from_slice(rest);
            }
            if let Some(item) = self.heard(decoded)? {
                return Poll::Ready(Ok(item));
            }
        }
    }

    fn heard(&mut self, decoded: Result<Option<Item>, Close>) -> Result<Option<Item>, Close> {
        match &decoded {
            Ok(Some(Item::Ping(payload))) => {
                self.pongs += 1;
                self.output.push_back(Frame::pong(payload));
            }
            Ok(Some(Item::Close)) => self.hears = Hears::Nothing,
            Err(_) => self.hears = Hears::Noise,
            Ok(_) => {}
        }
        decoded
    }

    /// Appends a frame to what is to be written.
    pub fn queue(&mut self, frame: Frame) {
        self.output.push_back(frame);
    }

    /// Appends frames to what is to be written.
    pub fn queue_all(&mut self, mut frames: VecDeque<Frame>) {
        if self.output.is_empty() {
            self.output = frames;
        } else {
            self.output.append(&mut frames);
        }
    }

    /// Writes all that is queued, with as few calls as it takes. Cancel safe.
    ///
    /// # Errors
    /// When the connection has ended.
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

    /// Says goodbye, and waits a little for the client to have read it: data of the client's that nobody has read would
    /// make the kernel reset the connection, and the client would never see the close frame.
    pub async fn goodbye(mut self, close: Close) {
        // What has begun must end, or the client would not know the close frame for one.
        self.output.truncate(usize::from(self.written > 0));
        self.queue(Frame::close(close));
        let parting = async {
            poll_fn(|cx| self.poll_flush(cx)).await?;
            let mut left = GOODBYE_BYTES;
            poll_fn(|cx| self.poll_farewell(cx, &mut left)).await;
            self.stream.shutdown().await
        };
        timeout(GOODBYE, parting).await.ok();
    }

    /// Reads on until the client has closed, too; nothing else that it says means anything now.
    fn poll_farewell(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let input = std::mem::take(&mut self.input);
        self.look_for_close(&input);
        while self.hears != Hears::Nothing && *left > 0 {
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
        while self.hears == Hears::Frames {
            match self.decoder.decode(&mut input) {
                Ok(Some(Item::Close)) => self.hears = Hears::Nothing,
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => self.hears = Hears::Noise,
            }
        }
    }
}

/// What a client still says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hears {
    Frames,
    /// Something that can't be understood since it broke the protocol.
    Noise,
    /// It has closed.
    Nothing,
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
    async fn another_make_of_client_reads_all_that_is_written() {
        let (mut socket, client) = connection().await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        // More than the kernel takes at once, so that writes end within frames.
        let sizes: Vec<usize> = (0..300).map(|index| index * index % 70_000).collect();
        let writes = async {
            for sizes in sizes.chunks(100) {
                socket.queue_all(sizes.iter().map(|size| Frame::text(&"x".repeat(*size))).collect());
                flush(&mut socket).await;
            }
            socket.goodbye(Close::Restart).await;
        };
        let reads = async {
            let mut told = Vec::new();
            while let Some(message) = client.next().await {
                told.push(message.unwrap());
            }
            told
        };
        let ((), told) = tokio::join!(writes, reads);
        let (close, texts) = told.split_last().unwrap();
        let lengths: Vec<usize> = texts.iter().map(|text| text.to_text().unwrap().len()).collect();
        assert_eq!(lengths, sizes);
        assert!(matches!(close, Message::Close(Some(frame)) if u16::from(frame.code) == 1012), "{close:?}");
    }

    #[tokio::test]
    async fn frames_that_come_together_are_told_one_by_one_and_pings_answered() {
        let (mut socket, client) = connection().await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let large = "é".repeat(limits::FRAME_BYTES / 2);
        for message in
            [Message::text("a"), Message::Ping("1".into()), Message::text(&large), Message::text("b")]
        {
            client.feed(message).await.unwrap();
        }
        let sends = async { client.flush().await.unwrap() };
        let hears = async {
            for expected in ["a", "", &large, "b"] {
                match poll_fn(|cx| socket.poll_next(cx)).await.unwrap() {
                    Item::Text(text) => assert_eq!(text, expected),
                    item => assert_eq!(item, Item::Ping(b"1".to_vec())),
                }
            }
        };
        tokio::join!(sends, hears);
        flush(&mut socket).await;
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("1".into()));
        client.close(None).await.unwrap();
        assert_eq!(poll_fn(|cx| socket.poll_next(cx)).await, Ok(Item::Close));
        socket.goodbye(Close::Normal).await;
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_))) | None));
    }

    #[tokio::test]
    async fn whoever_pings_and_never_reads_is_not_listened_to() {
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
