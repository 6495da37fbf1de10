//! The NATS connection for events of services. It only subscribes; requests use another connection.
//!
//! Each channel has a subscription, and a gateway may have a hundred thousand channels. So a subscription is one line
//! that is written once, and no state is kept for it: its id names the channel, and the task that reads hands each
//! message to its channel at once. `protocol` decodes the server's operations, `dial` opens connections.

pub use super::dial::Dialer;
use super::dial::{self, Connection};
use super::{
    error::ConnectionError,
    protocol::{self, Message, Op},
};
use crate::topic::Subscriber;
use bytes::{Buf, BytesMut};
use service::{Backoff, bus::chain};
use std::{
    convert::Infallible,
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// Minimum free space of the buffer for a read, in bytes.
const READ: usize = 64 * 1024;
/// Capacity above which an empty buffer is freed, in bytes.
const KEEP: usize = 1024 * 1024;
/// Interval between pings. A server that leaves a ping unanswered for two intervals is given up.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Minimum interval between two writes. Over most networks, opening a connection takes longer. At a thousand handshakes
/// a second, most of the cost of each one would be waking the server and this process.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// Time limit of a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of the commands that wait to be written, in bytes. Any number of concurrent handshakes creates less.
const OUTGOING: usize = 8 * 1024 * 1024;

/// The connection for events. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    outgoing: Mutex<Outgoing>,
    /// Wakes the writer.
    wake: Notify,
    /// The last mark that the server has passed.
    passed: watch::Sender<Mark>,
    /// Changes after every subscription has been renewed.
    disruptions: watch::Sender<u64>,
    connected: AtomicBool,
}

/// A position in the commands to the server: the number of the next ping. The server has passed it once it has answered
/// that ping.
pub type Mark = u64;

/// The commands that wait to be written.
#[derive(Default)]
struct Outgoing {
    /// Whether there is a connection. Without one, commands are dropped, because the next connection starts with all
    /// subscriptions.
    is_open: bool,
    commands: Vec<u8>,
    /// Whether the commands have exceeded [`OUTGOING`].
    is_full: bool,
    /// Whether a ping follows the commands.
    needs_ping: bool,
    /// Whether a ping is unanswered.
    is_pinging: bool,
    /// Number of pings written, over all connections.
    pings: Mark,
    /// The number of pings at the last tick, and the number of ticks for which the last ping has been unanswered.
    watched: (Mark, u8),
}

/// The owner of the subscriptions, who handles their messages.
pub trait Listener: Send + Sync + 'static {
    /// Number of parts in which the subscriptions are renewed.
    const PARTS: usize;

    /// Renews the subscriptions of a part, with [`Events::subscribe`].
    fn resubscribe(&self, part: usize, events: &Events);

    /// Handles a message.
    fn take(&self, message: &Message<'_>);
}

impl Events {
    /// Creates the state. [`Events::run`] connects.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            outgoing: Mutex::default(),
            wake: Notify::new(),
            passed: watch::Sender::new(0),
            disruptions: watch::Sender::new(0),
            connected: AtomicBool::new(false),
        }))
    }

    /// Subscribes. Messages that are published after the server has passed the mark are received.
    ///
    /// For one subscriber, the caller must serialise the calls of this function, of [`Events::unsubscribe`] and of
    /// [`Listener::resubscribe`].
    pub fn subscribe(&self, subscriber: Subscriber) -> Mark {
        let mut outgoing = self.outgoing();
        outgoing.push(|commands| write!(commands, "SUB {} {}\r\n", subscriber.subject(), subscriber.sid()));
        outgoing.needs_ping = true;
        let mark = outgoing.pings + 1;
        drop(outgoing);
        self.0.wake.notify_one();
        mark
    }

    /// Unsubscribes.
    pub fn unsubscribe(&self, subscriber: Subscriber) {
        self.outgoing().push(|commands| write!(commands, "UNSUB {}\r\n", subscriber.sid()));
        self.0.wake.notify_one();
    }

    /// Waits until the server has passed a mark.
    pub async fn passed(&self, mark: Mark) {
        // Never fails, because the sender lives as long as `self`.
        self.0.passed.subscribe().wait_for(|passed| *passed >= mark).await.ok();
    }

    /// Changes after a possible loss of events, once every subscription has been renewed.
    pub fn disruptions(&self) -> watch::Receiver<u64> {
        self.0.disruptions.subscribe()
    }

    /// Sets the metrics of the connection.
    pub fn measure(&self) {
        let connected = self.0.connected.load(Ordering::Relaxed);
        metrics::gauge!("gateway_events_connected").set(f64::from(u8::from(connected)));
    }

    /// Keeps a connection open until the token is cancelled, and passes all messages to `listener`.
    pub async fn run<L: Listener>(self, mut dialer: Dialer, listener: Arc<L>, ended: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let Err(error) = tokio::select! {
                result = self.run_connection(&mut dialer, &*listener, &mut backoff) => result,
                () = ended.cancelled() => return,
            };
            self.0.connected.store(false, Ordering::Relaxed);
            self.outgoing().close();
            tracing::warn!(error = chain(&error), "no NATS connection for events; trying again");
            tokio::select! {
                () = backoff.wait() => {}
                () = ended.cancelled() => return,
            }
        }
    }

    /// Opens a connection and uses it until it ends.
    async fn run_connection<L: Listener>(
        &self,
        dialer: &mut Dialer,
        listener: &L,
        backoff: &mut Backoff,
    ) -> Result<Infallible, ConnectionError> {
        let Connection { stream, buffer, max } = dialer.dial().await?;
        metrics::counter!("nats_connects_total").increment(1);
        let (mut reader, mut writer) = tokio::io::split(stream);
        self.outgoing().is_open = true;
        for part in 0..L::PARTS {
            listener.resubscribe(part, self);
            let commands = self.outgoing().take(false)?;
            write(&mut writer, &commands).await?;
        }
        self.0.connected.store(true, Ordering::Relaxed);
        backoff.reset();
        tokio::select! {
            result = self.read(&mut reader, buffer, max, dialer, listener) => result,
            result = self.write(&mut writer) => result,
        }
    }

    async fn read<L: Listener>(
        &self,
        reader: &mut ReadHalf<Box<dyn dial::Stream>>,
        mut buffer: BytesMut,
        max: usize,
        dialer: &mut Dialer,
        listener: &L,
    ) -> Result<Infallible, ConnectionError> {
        let (messages, bytes) =
            (metrics::counter!("gateway_events_total"), metrics::counter!("gateway_events_bytes_total"));
        let mut is_new = true;
        loop {
            while let Some((op, len)) = protocol::decode(&buffer, max)? {
                match op {
                    Op::Message(message) => {
                        messages.increment(1);
                        bytes.increment(message.payload.len() as u64);
                        listener.take(&message);
                    }
                    Op::Ping => {
                        self.outgoing().push(|commands| write!(commands, "PONG\r\n"));
                        self.0.wake.notify_one();
                    }
                    Op::Pong => {
                        self.take_pong();
                        if std::mem::take(&mut is_new) {
                            self.0.disruptions.send_modify(|disruptions| *disruptions += 1);
                        }
                    }
                    Op::Info(info) => dialer.update(info),
                    Op::Ok => {}
                    // An error about one subscription, or the server is about to close the connection.
                    Op::Error(error) => {
                        tracing::warn!(error, "NATS reported an error");
                        if error.eq_ignore_ascii_case("slow consumer") {
                            metrics::counter!("nats_dropped_total").increment(1);
                        }
                    }
                }
                buffer.advance(len);
                // Lets other tasks run during a flood of messages.
                tokio::task::consume_budget().await;
            }
            if buffer.is_empty() && buffer.capacity() > KEEP {
                buffer = BytesMut::new();
            }
            buffer.reserve(READ);
            if reader.read_buf(&mut buffer).await? == 0 {
                return Err(ConnectionError::Closed);
            }
        }
    }

    /// Writes commands, at most one batch per [`WRITE_INTERVAL`], and none while a ping is unanswered.
    async fn write(
        &self,
        writer: &mut WriteHalf<Box<dyn dial::Stream>>,
    ) -> Result<Infallible, ConnectionError> {
        let mut ticks = interval(PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = self.0.wake.notified() => {}
                _ = ticks.tick() => self.outgoing().tick()?,
            }
            sleep_until(next).await;
            let commands = self.outgoing().take(true)?;
            if !commands.is_empty() {
                write(writer, &commands).await?;
                next = Instant::now() + WRITE_INTERVAL;
            }
        }
    }

    /// Takes the answer to the last ping.
    fn take_pong(&self) {
        let mut outgoing = self.outgoing();
        outgoing.is_pinging = false;
        self.0.passed.send_replace(outgoing.pings);
        drop(outgoing);
        self.0.wake.notify_one();
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.0.outgoing.lock().expect("no holder of this lock panics")
    }
}

impl Outgoing {
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
        if !self.is_open || self.is_full {
            return;
        }
        write(&mut self.commands).expect("writing to a Vec never fails");
        self.is_full = self.commands.len() > OUTGOING;
    }

    /// Takes the commands; none while a ping is unanswered. If `with_ping` is set and a ping is due, appends it.
    fn take(&mut self, with_ping: bool) -> Result<Vec<u8>, ConnectionError> {
        if self.is_full {
            metrics::counter!("gateway_events_full_total").increment(1);
            return Err(ConnectionError::OutgoingFull);
        }
        if self.is_pinging {
            return Ok(Vec::new());
        }
        let mut commands = std::mem::take(&mut self.commands);
        if with_ping && std::mem::take(&mut self.needs_ping) {
            self.pings += 1;
            self.is_pinging = true;
            commands.extend_from_slice(b"PING\r\n");
        }
        Ok(commands)
    }

    /// Requests a ping. Fails if the same ping has been unanswered for two ticks. Subscriptions also cause pings, so
    /// the ping that is unanswered at each tick may be another one.
    fn tick(&mut self) -> Result<(), ConnectionError> {
        let (last, ticks) = self.watched;
        let is_unanswered = self.is_pinging && self.pings == last;
        self.watched = (self.pings, if is_unanswered { ticks + 1 } else { 0 });
        self.needs_ping = true;
        if self.watched.1 < 2 { Ok(()) } else { Err(ConnectionError::AnswerTimeout) }
    }

    /// Drops the commands after the end of a connection.
    fn close(&mut self) {
        *self = Self { pings: self.pings, ..Self::default() };
    }
}

async fn write(
    writer: &mut WriteHalf<Box<dyn dial::Stream>>,
    commands: &[u8],
) -> Result<(), ConnectionError> {
    let written = async {
        writer.write_all(commands).await?;
        writer.flush().await
    };
    let written = timeout(WRITE_TIMEOUT, written).await.map_err(|_| ConnectionError::WriteTimeout)?;
    written.map_err(ConnectionError::Io)
}

#[cfg(test)]
mod tests;
