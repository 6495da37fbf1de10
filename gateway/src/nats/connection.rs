//! The gateway's own NATS connection, for all frequent traffic: events of services, sends, joins and typing inputs. An
//! event and the reply to a send arrive in one read, and a subscription leaves together with the request to join. Rare
//! requests use [`service::Bus`].
//!
//! Each channel has a subscription, and a gateway may have a hundred thousand channels. So a subscription is one line
//! that is written once, and no state is kept for it: its id names the channel, and the task that reads hands each
//! message to its channel at once. `protocol` decodes the server's operations, `dial` opens connections.

pub use super::dial::Dialer;
use super::dial::{self, Connection};
use super::{
    error::ConnectionError,
    protocol::{self, Message, Op},
    requests::{REPLIES, Reply, Requests},
};
use crate::topic::Subscriber;
use bytes::{Buf, BytesMut};
use contract::{Deadline, Event, Request, deadline::DEADLINE, trace::TRACEPARENT};
use service::{
    Backoff, RequestError,
    bus::{chain, retry_until},
    trace,
};
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

/// Minimum free space of the buffer for a read, in bytes.
const READ: usize = 64 * 1024;
/// Capacity above which an empty buffer is freed, in bytes.
const KEEP: usize = 1024 * 1024;
/// Interval between pings. A server that leaves a ping unanswered for two intervals is given up.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Minimum interval between two writes without a request. Over most networks, opening a connection takes longer. At a
/// thousand handshakes a second, most of the cost of each one would be waking the server and this process.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// Time limit of a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of the commands that wait to be written, in bytes. Any number of concurrent handshakes creates less,
/// and the requests that are in progress at any time, too.
const OUTGOING: usize = 8 * 1024 * 1024;

/// The gateway's own connection to NATS. Cheap to clone.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    outgoing: Mutex<Outgoing>,
    requests: Requests,
    /// Wakes the writer.
    wake: Notify,
    /// Wakes the writer, which then writes at once.
    wake_now: Notify,
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
    /// The maximum size of a request, once every subscription has been renewed: no request precedes them.
    max: Option<usize>,
    commands: Vec<u8>,
    /// Whether the commands have exceeded [`OUTGOING`].
    is_full: bool,
    /// Whether the commands have to be written at once.
    is_urgent: bool,
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

    /// Renews the subscriptions of a part, with [`Link::subscribe`].
    fn resubscribe(&self, part: usize, link: &Link);

    /// Handles a message.
    fn take(&self, message: &Message<'_>);
}

impl Link {
    /// Creates the state. [`Link::run`] connects.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            outgoing: Mutex::default(),
            requests: Requests::new(),
            wake: Notify::new(),
            wake_now: Notify::new(),
            passed: watch::Sender::new(0),
            disruptions: watch::Sender::new(0),
            connected: AtomicBool::new(false),
        }))
    }

    /// Subscribes, before the next request or ping. Messages that are published after the server has passed the mark
    /// are received, and those that are published once a later request has arrived.
    ///
    /// For one subscriber, the caller must serialise the calls of this function, of [`Link::unsubscribe`] and of
    /// [`Listener::resubscribe`].
    pub fn subscribe(&self, subscriber: Subscriber) -> Mark {
        let mut outgoing = self.outgoing();
        outgoing.push(|commands| write!(commands, "SUB {} {}\r\n", subscriber.subject(), subscriber.sid()));
        outgoing.pings + 1
    }

    /// The mark that covers every subscription so far.
    pub fn mark(&self) -> Mark {
        self.outgoing().pings + 1
    }

    /// Unsubscribes, before the next request or ping.
    pub fn unsubscribe(&self, subscriber: Subscriber) {
        self.outgoing().push(|commands| write!(commands, "UNSUB {}\r\n", subscriber.sid()));
    }

    /// Waits until the server has passed a mark.
    pub async fn passed(&self, mark: Mark) {
        let mut passed = self.0.passed.subscribe();
        if *passed.borrow() >= mark {
            return;
        }
        self.outgoing().needs_ping = true;
        self.0.wake.notify_one();
        // Never fails, because the sender lives as long as `self`.
        passed.wait_for(|passed| *passed >= mark).await.ok();
    }

    /// Publishes an event.
    ///
    /// # Errors
    /// If there is no connection, or the event is too large.
    pub fn publish<E: Event>(&self, event: &E) -> Result<(), ConnectionError> {
        let payload = serde_json::to_vec(event).map_err(io::Error::from)?;
        self.push_now(payload.len(), |commands| {
            write!(commands, "PUB {} {}\r\n", event.subject(), payload.len())?;
            commands.extend_from_slice(&payload);
            commands.extend_from_slice(b"\r\n");
            Ok(())
        })
    }

    /// Sends a request to one replica of a service, behind all earlier subscriptions, and waits for its reply for
    /// `within`. The caller may repeat the request until `deadline`; a replica that receives it only after that drops
    /// it.
    ///
    /// # Errors
    /// If there is no reply, or it is a refusal.
    pub async fn attempt<R: Request>(
        &self,
        request: &R,
        within: Duration,
        deadline: Deadline,
    ) -> Result<R::Reply, RequestError> {
        let payload =
            serde_json::to_vec(request).map_err(|error| RequestError::Payload(R::SUBJECT, error))?;
        let mut pending = self.0.requests.begin();
        let mut headers = format!("NATS/1.0\r\n{DEADLINE}: {deadline}\r\n");
        if let Some(parent) = trace::current() {
            headers.push_str(&format!("{TRACEPARENT}: {parent}\r\n"));
        }
        headers.push_str("\r\n");
        let sent = self.push_now(headers.len() + payload.len(), |commands| {
            let (reply, size) = (pending.subject(), headers.len());
            write!(commands, "HPUB {} {reply} {size} {}\r\n{headers}", R::SUBJECT, size + payload.len())?;
            commands.extend_from_slice(&payload);
            commands.extend_from_slice(b"\r\n");
            Ok(())
        });
        match sent {
            Ok(()) => {}
            Err(ConnectionError::Closed) => return Err(RequestError::NotConnected(R::SUBJECT)),
            Err(error) => return Err(RequestError::Failed(R::SUBJECT, error.into())),
        }
        match timeout(within, &mut pending.reply).await {
            Ok(Ok(Reply::Payload(payload))) => {
                serde_json::from_slice(&payload).map_err(|error| RequestError::Payload(R::SUBJECT, error))
            }
            Ok(Ok(Reply::Refused(refusal))) => Err(RequestError::Refused(refusal)),
            Ok(Ok(Reply::NoResponders)) => Err(RequestError::NoResponders(R::SUBJECT)),
            Ok(Err(_)) => Err(RequestError::Failed(R::SUBJECT, ConnectionError::Closed.into())),
            Err(_) => Err(RequestError::TimedOut(R::SUBJECT)),
        }
    }

    /// Sends a request like [`Link::attempt`], and repeats it while that may help, for at most `within` in total. The
    /// request must be idempotent.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn request_until<R: Request>(
        &self,
        request: &R,
        within: Duration,
    ) -> Result<R::Reply, RequestError> {
        retry_until(within, |within, deadline| self.attempt(request, within, deadline)).await
    }

    /// Adds a command with `size` bytes of headers and payload, which is written at once.
    ///
    /// # Errors
    /// [`ConnectionError::Closed`] without a connection; [`ConnectionError::RequestTooLarge`].
    fn push_now(
        &self,
        size: usize,
        write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<(), ConnectionError> {
        let mut outgoing = self.outgoing();
        let max = outgoing.max.ok_or(ConnectionError::Closed)?;
        if size > max {
            return Err(ConnectionError::RequestTooLarge(max));
        }
        outgoing.push(write);
        outgoing.is_urgent = true;
        drop(outgoing);
        self.0.wake_now.notify_one();
        Ok(())
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

    /// Keeps a connection open, and passes all messages to `listener`. Never returns.
    pub async fn run<L: Listener>(self, mut dialer: Dialer, listener: Arc<L>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let Err(error) = self.run_connection(&mut dialer, &*listener, &mut backoff).await;
            self.0.connected.store(false, Ordering::Relaxed);
            self.outgoing().close();
            self.0.requests.fail();
            tracing::warn!(error = chain(&error), "no NATS connection of its own; trying again");
            backoff.wait().await;
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
        {
            let mut outgoing = self.outgoing();
            outgoing.is_open = true;
            outgoing.push(|commands| write!(commands, "SUB {} {REPLIES}\r\n", self.0.requests.subject()));
        }
        for part in 0..L::PARTS {
            listener.resubscribe(part, self);
            let commands = self.outgoing().take(false)?;
            write(&mut writer, &commands).await?;
        }
        self.outgoing().max = Some(max);
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
                        if message.sid == REPLIES {
                            self.0.requests.take(&message);
                        } else {
                            messages.increment(1);
                            bytes.increment(message.payload.len() as u64);
                            listener.take(&message);
                        }
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

    /// Writes commands. Requests are written at once, together with all that precedes them; other commands at most once
    /// per [`WRITE_INTERVAL`], and not while a ping is unanswered.
    async fn write(
        &self,
        writer: &mut WriteHalf<Box<dyn dial::Stream>>,
    ) -> Result<Infallible, ConnectionError> {
        let mut ticks = interval(PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = Instant::now();
        loop {
            let woken = async {
                self.0.wake.notified().await;
                sleep_until(next).await;
            };
            tokio::select! {
                () = self.0.wake_now.notified() => {}
                () = woken => {}
                _ = ticks.tick() => self.outgoing().tick()?,
            }
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

    /// Takes the commands; while a ping is unanswered, only if they are urgent. If `with_ping` is set and a ping is
    /// due, appends it.
    fn take(&mut self, with_ping: bool) -> Result<Vec<u8>, ConnectionError> {
        if self.is_full {
            metrics::counter!("gateway_events_full_total").increment(1);
            return Err(ConnectionError::OutgoingFull);
        }
        if !std::mem::take(&mut self.is_urgent) && self.is_pinging {
            return Ok(Vec::new());
        }
        let mut commands = std::mem::take(&mut self.commands);
        if with_ping && !self.is_pinging && std::mem::take(&mut self.needs_ping) {
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
pub mod tests;
