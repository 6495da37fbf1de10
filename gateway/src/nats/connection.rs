//! What services publish, as this gateway hears it: over a connection to NATS of its own, that only listens.
//!
//! There are as many subscriptions as channels, and a gateway has a hundred thousand of those. So a subscription is a
//! line that is written once, and nothing is kept of it: its name says which channel it is for, and what comes in goes
//! to that channel at once, from the one task that reads. `wire` is the protocol, `dial` the way to a connection.

pub use super::dial::Dialer;
use super::dial::{self, Connection};
use super::{
    error::Lost,
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

/// Bytes that are read at once, at least.
const READ: usize = 64 * 1024;
/// Bytes of the buffer that are kept while nothing comes.
const KEEP: usize = 1024 * 1024;
/// How often a server is asked whether it is there; one that has not answered after two of these is not.
const PING: Duration = Duration::from_secs(3);
/// Between two writings. Over most networks, coming to a connection takes longer; and at a thousand handshakes a second, what
/// each of them costs the server and us is mostly that both wake for it.
const GATHER: Duration = Duration::from_millis(10);
/// How long a server may take to take what is written.
const WRITE: Duration = Duration::from_secs(10);
/// Bytes that wait to be written, at most: more than any number of handshakes under way makes.
const OUTGOING: usize = 8 * 1024 * 1024;

/// The connection over which the gateway listens. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

struct Shared {
    outgoing: Mutex<Outgoing>,
    /// Something is to be written.
    wake: Notify,
    /// The last mark that the server has passed.
    passed: watch::Sender<Mark>,
    /// Changes when every subscription has been made anew.
    disruptions: watch::Sender<u64>,
    connected: AtomicBool,
}

/// A moment in what servers are told: the number of the ping that follows.
pub type Mark = u64;

/// What is to be written.
#[derive(Default)]
struct Outgoing {
    /// Whether there is a connection. Without one nothing waits: the next begins with every subscription there is.
    is_open: bool,
    commands: Vec<u8>,
    /// More waits than may.
    is_full: bool,
    /// A ping is to follow.
    ping: bool,
    /// A ping is under way.
    pinged: bool,
    /// Pings written, over all connections.
    pings: Mark,
    /// The ping that was the last one at the last tick, and the ticks since at which it was under way.
    watched: (Mark, u8),
}

/// Who has subscriptions, and hears what is published.
pub trait Listener: Send + Sync + 'static {
    /// In so many parts all subscriptions are made anew.
    const PARTS: usize;

    /// Makes the subscriptions of a part anew, with [`Events::subscribe`].
    fn resubscribe(&self, part: usize, events: &Events);

    /// Something was published.
    fn take(&self, message: &Message<'_>);
}

impl Events {
    /// Not connected, until [`Events::run`] is.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            outgoing: Mutex::default(),
            wake: Notify::new(),
            passed: watch::Sender::new(0),
            disruptions: watch::Sender::new(0),
            connected: AtomicBool::new(false),
        }))
    }

    /// Listens for a topic. What is published once the server has passed the mark is heard.
    ///
    /// To be called in one order with [`Events::unsubscribe`] and [`Listener::resubscribe`] of the same topic.
    pub fn subscribe(&self, subscriber: Subscriber) -> Mark {
        let mut outgoing = self.outgoing();
        outgoing.push(|commands| write!(commands, "SUB {} {}\r\n", subscriber.subject(), subscriber.sid()));
        outgoing.ping = true;
        let mark = outgoing.pings + 1;
        drop(outgoing);
        self.0.wake.notify_one();
        mark
    }

    /// Listens no more.
    pub fn unsubscribe(&self, subscriber: Subscriber) {
        self.outgoing().push(|commands| write!(commands, "UNSUB {}\r\n", subscriber.sid()));
        self.0.wake.notify_one();
    }

    /// Waits until the server has passed a mark.
    pub async fn passed(&self, mark: Mark) {
        // The sender is ours: it is there as long as this is.
        self.0.passed.subscribe().wait_for(|passed| *passed >= mark).await.ok();
    }

    /// Changes whenever events may have been lost, and no more are: after every subscription was made anew.
    pub fn disruptions(&self) -> watch::Receiver<u64> {
        self.0.disruptions.subscribe()
    }

    /// Sets the metrics of the connection.
    pub fn measure(&self) {
        let connected = self.0.connected.load(Ordering::Relaxed);
        metrics::gauge!("gateway_events_connected").set(f64::from(u8::from(connected)));
    }

    /// Listens for `listener` until the token is cancelled, over one connection after the other.
    pub async fn run<L: Listener>(self, mut dialer: Dialer, listener: Arc<L>, ended: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let Err(lost) = tokio::select! {
                lost = self.listen(&mut dialer, &*listener, &mut backoff) => lost,
                () = ended.cancelled() => return,
            };
            self.0.connected.store(false, Ordering::Relaxed);
            self.outgoing().close();
            tracing::warn!(error = chain(&lost), "no connection to NATS for events; trying again");
            tokio::select! {
                () = backoff.wait() => {}
                () = ended.cancelled() => return,
            }
        }
    }

    /// Listens over one connection.
    async fn listen<L: Listener>(
        &self,
        dialer: &mut Dialer,
        listener: &L,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Lost> {
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
            lost = self.read(&mut reader, buffer, max, dialer, listener) => lost,
            lost = self.write(&mut writer) => lost,
        }
    }

    async fn read<L: Listener>(
        &self,
        reader: &mut ReadHalf<Box<dyn dial::Stream>>,
        mut buffer: BytesMut,
        max: usize,
        dialer: &mut Dialer,
        listener: &L,
    ) -> Result<Infallible, Lost> {
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
                        self.ponged();
                        if std::mem::take(&mut is_new) {
                            self.0.disruptions.send_modify(|disruptions| *disruptions += 1);
                        }
                    }
                    Op::Info(info) => dialer.learn(info),
                    Op::Ok => {}
                    // Either it is about one subscription, or the server closes the connection now.
                    Op::Error(error) => {
                        tracing::warn!(error, "NATS reported an error");
                        if error.eq_ignore_ascii_case("slow consumer") {
                            metrics::counter!("nats_dropped_total").increment(1);
                        }
                    }
                }
                buffer.advance(len);
                // A flood must not keep others from this thread.
                tokio::task::consume_budget().await;
            }
            if buffer.is_empty() && buffer.capacity() > KEEP {
                buffer = BytesMut::new();
            }
            buffer.reserve(READ);
            if reader.read_buf(&mut buffer).await? == 0 {
                return Err(Lost::Closed);
            }
        }
    }

    /// Writes what gathers while the last ping is under way, and for a moment after the last writing.
    async fn write(&self, writer: &mut WriteHalf<Box<dyn dial::Stream>>) -> Result<Infallible, Lost> {
        let mut ticks = interval(PING);
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
                next = Instant::now() + GATHER;
            }
        }
    }

    /// The server has passed the last ping.
    fn ponged(&self) {
        let mut outgoing = self.outgoing();
        outgoing.pinged = false;
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
        write(&mut self.commands).expect("a Vec takes whatever is written");
        self.is_full = self.commands.len() > OUTGOING;
    }

    /// Takes what waits, but nothing while a ping is under way; and `with_ping` the one that is to follow.
    fn take(&mut self, with_ping: bool) -> Result<Vec<u8>, Lost> {
        if self.is_full {
            metrics::counter!("gateway_events_full_total").increment(1);
            return Err(Lost::Full);
        }
        if self.pinged {
            return Ok(Vec::new());
        }
        let mut commands = std::mem::take(&mut self.commands);
        if with_ping && std::mem::take(&mut self.ping) {
            self.pings += 1;
            self.pinged = true;
            commands.extend_from_slice(b"PING\r\n");
        }
        Ok(commands)
    }

    /// Has the server asked whether it is there, unless it hasn't answered for two ticks. Others may be asking all the time,
    /// so that some ping is always under way.
    fn tick(&mut self) -> Result<(), Lost> {
        let (last, ticks) = self.watched;
        let is_silent = self.pinged && self.pings == last;
        self.watched = (self.pings, if is_silent { ticks + 1 } else { 0 });
        self.ping = true;
        if self.watched.1 < 2 { Ok(()) } else { Err(Lost::Silent) }
    }

    /// The connection has ended.
    fn close(&mut self) {
        *self = Self { pings: self.pings, ..Self::default() };
    }
}

async fn write(writer: &mut WriteHalf<Box<dyn dial::Stream>>, commands: &[u8]) -> Result<(), Lost> {
    let written = async {
        writer.write_all(commands).await?;
        writer.flush().await
    };
    timeout(WRITE, written).await.map_err(|_| Lost::Stalled)?.map_err(Lost::Io)
}

#[cfg(test)]
mod tests;
