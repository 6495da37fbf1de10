//! A connection with a time limit for writes. If the client does not read a response, the connection is closed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// How long a write may make no progress.
const STALL: Duration = Duration::from_secs(10);
/// How long it may take, despite progress, until a write that had to wait is finished.
const TOTAL: Duration = Duration::from_secs(60);

/// A connection. It has a timer only while a write waits.
pub struct Guarded<S = TcpStream> {
    stream: S,
    /// The write that waits.
    blocked: Option<BlockedWrite>,
}

struct BlockedWrite {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Guarded<S> {
    /// Guards a stream.
    pub const fn new(stream: S) -> Self {
        Self { stream, blocked: None }
    }

    /// The stream.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Applies the time limits to the result of a write.
    fn limit<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if let Some(blocked) = &mut self.blocked {
                let by = (Instant::now() + STALL).min(blocked.since + TOTAL);
                blocked.timer.as_mut().reset(by);
            }
            return written;
        }
        let blocked = self.blocked.get_or_insert_with(|| {
            let since = Instant::now();
            BlockedWrite { since, timer: Box::pin(sleep_until(since + STALL)) }
        });
        ready!(blocked.timer.as_mut().poll(cx));
        metrics::counter!("gateway_responses_stalled_total").increment(1);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.limit(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.limit(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called only after the stream has accepted all bytes.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.blocked = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stalls_for_10_s_fails() {
        let (_client, server) = duplex(1024);
        let started = Instant::now();
        let error = Guarded::new(server).write_all(&[0; 4096]).await.unwrap_err();
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, STALL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_continues_while_the_client_reads_but_not_for_ever() {
        for (every, is_in_time) in [(2, true), (9, false)] {
            let (mut client, server) = duplex(1024);
            let reads = tokio::spawn(async move {
                let mut bytes = [0; 512];
                while client.read_exact(&mut bytes).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(every)).await;
                }
            });
            let mut server = Guarded::new(server);
            let written = async {
                server.write_all(&[0; 10_240]).await?;
                server.flush().await
            };
            let started = Instant::now();
            assert_eq!(written.await.is_ok(), is_in_time, "{every} s");
            assert!(started.elapsed() <= TOTAL);
            // The time between two responses does not count.
            if is_in_time {
                tokio::time::sleep(2 * TOTAL).await;
                server.write_all(&[0; 4096]).await.unwrap();
            }
            drop(server);
            reads.await.unwrap();
        }
    }
}
