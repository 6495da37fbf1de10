//! The session of one client's socket: one owner, one loop, every queue bounded.

mod commands;
pub mod dialect;
mod join;
pub mod multiplex;
mod outcome;
mod pending;
mod subscriptions;
mod typing;

pub use join::{Opening, presence_is_off};

use crate::{
    admission::{tokens::Identity, user_sockets::SocketSlot},
    channel::view::View,
    state::Shared,
    topic::{Start, Topic},
    websocket::{Frame, Item, Socket, outbox::Outbox},
};
use contract::{Close, Code, Refusal, Seq};
use dialect::Dialect;
use futures_util::{
    FutureExt,
    future::{self, poll_fn},
};
use join::{Join, Step, Subscription, admit, close_code, join_topic};
use outcome::Outcome;
use pending::Pending;
use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use subscriptions::Subscriptions;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a write may take.
const WRITE: Duration = Duration::from_secs(10);
/// How often a drain checks whether the log has delivered the client's last stored message.
const ECHO: Duration = Duration::from_millis(20);
/// How long a multiplexed socket waits for its first frame before its page counts as visible.
const FIRST_FRAME: Duration = Duration::from_secs(1);

/// The session of a client. Fields that few clients need, or only for a moment, are boxed, because most sessions are
/// idle.
pub struct Session {
    shared: Arc<Shared>,
    socket: Socket,
    outbox: Arc<Outbox>,
    slot: SocketSlot,
    identity: Identity,
    /// Whether a fresh token has changed the user's name.
    is_renamed: bool,
    dialect: Dialect,
    subscriptions: Subscriptions,
    /// Commands in progress.
    pending: Pending,
    last_received_at: Instant,
    ping_at: Instant,
    /// The deadline of the write in progress.
    write_by: Option<Instant>,
    /// When the page counts as visible unless a frame says otherwise.
    visible_at: Option<Instant>,
    expires_at: Option<Instant>,
    drain_at: Option<Instant>,
    /// The close code, once everything before it is written.
    closing: Option<Close>,
    /// The client's last stored message. A drain delivers it before it closes the socket.
    stored: Option<(Topic, Seq)>,
    /// The client's messages refused for their rate; see [`commands`].
    refused_sends: u16,
    /// The client's frames refused for their rate; see [`commands`].
    refused_frames: u16,
}

/// An event that a session waits for.
enum Event {
    Inbound(Item),
    Done(Outcome),
    Join(Topic, Result<Step, Refusal>),
    Timer,
    Drain,
    Close(Close),
}

impl Session {
    /// The session of an admitted client.
    pub fn new(opening: Opening, socket: Socket) -> Self {
        let Opening { shared, identity, dialect, start, slot, first } = opening;
        let now = Instant::now();
        let outbox = slot.outbox().clone();
        if start != Start::Live || dialect == Dialect::Multiplexed {
            outbox.set_understands_extensions();
        }
        // A page that is hidden when it reconnects says so at once. It must not make its user present.
        let visible_at = (dialect == Dialect::Multiplexed).then(|| now + FIRST_FRAME);
        slot.set_visible(visible_at.is_none());
        let expires_at = expiry(&shared, &identity);
        let ping_every = shared.limits.ping_every();
        let mut session = Self {
            shared,
            socket,
            outbox,
            slot,
            identity,
            is_renamed: false,
            dialect,
            subscriptions: Subscriptions::default(),
            pending: Pending::default(),
            last_received_at: now,
            ping_at: now + ping_every,
            write_by: None,
            visible_at,
            expires_at,
            drain_at: None,
            closing: None,
            stored: None,
            refused_sends: 0,
            refused_frames: 0,
        };
        match first {
            Some((topic, admission)) => {
                let (shared, view) = (session.shared.clone(), session.view(topic));
                let joined = async move { join_topic(&shared, view, admission, start).await };
                let step = joined.map(|subscription| subscription.map(Step::Joined)).boxed();
                session.subscriptions.begin(topic, Join { step, reference: None, start, is_admitted: true });
            }
            None => session.outbox.push(multiplex::hello(&session.identity)),
        }
        session
    }

    /// Runs until the client leaves or breaks a rule, or the gateway stops.
    pub async fn run(mut self) {
        let kind = self.dialect.kind();
        metrics::gauge!("gateway_sockets", "kind" => kind).increment(1);
        let close = self.serve().await;
        metrics::gauge!("gateway_sockets", "kind" => kind).decrement(1);
        self.end_subscriptions();
        let pending = std::mem::take(&mut self.pending);
        let finish = async move {
            // Commands that a client sent before it left are still carried out.
            if close == Close::Normal {
                pending.finish().await;
            }
        };
        // Boxed, because otherwise every idle session would reserve memory for it.
        Box::pin(future::join(self.socket.close(close), finish)).await;
        count_close(close);
    }

    /// Handles events until the socket is to be closed.
    async fn serve(&mut self) -> Close {
        let shutdown = self.shared.shutdown.clone();
        let mut stop = pin!(shutdown.cancelled());
        let mut timer = pin!(sleep_until(self.next_due()));
        loop {
            let event = poll_fn(|cx| {
                if let Poll::Ready(event) = self.poll_event(cx) {
                    return Poll::Ready(event);
                }
                if self.drain_at.is_none() && stop.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Drain);
                }
                self.poll_timer(cx, timer.as_mut()).map(|()| Event::Timer)
            });
            let event = event.await;
            if let Err(close) = self.handle(event) {
                return close;
            }
        }
    }

    /// The next event of the socket, a command or a join. Writing comes first, because the others may wait for its
    /// result.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(close) = self.poll_write(cx) {
            return Poll::Ready(Event::Close(close));
        }
        if let Poll::Ready(done) = self.pending.poll(cx) {
            return Poll::Ready(Event::Done(done));
        }
        if let Poll::Ready((topic, step)) = self.subscriptions.poll_joins(cx) {
            return Poll::Ready(Event::Join(topic, step));
        }
        if self.is_reading() {
            return self.socket.poll_next(cx).map(|item| item.map_or_else(Event::Close, Event::Inbound));
        }
        Poll::Pending
    }

    /// Writes every waiting frame with as few system calls as possible, then waits for more. Returns the close code
    /// once the socket is to be closed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        loop {
            match self.socket.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.write_by = None,
                Poll::Ready(Err(_)) => return Poll::Ready(Close::Normal),
                Poll::Pending => {
                    self.write_by.get_or_insert_with(|| Instant::now() + WRITE);
                    return Poll::Pending;
                }
            }
            if let Some(close) = self.closing {
                return Poll::Ready(close);
            }
            let (frames, closed) = ready!(self.outbox.poll_take(cx));
            self.closing = closed;
            self.socket.queue_all(frames);
        }
    }

    /// Waits until a timer is due. The timer is only ever moved to an earlier time: if a time was put off, that shows
    /// when the timer fires.
    fn poll_timer(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        loop {
            let due = self.next_due();
            if due < timer.deadline() {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }

    /// Whether frames are read: not while too many commands are pending, not before a single socket has joined its
    /// channel, and not once the socket is to be closed.
    fn is_reading(&self) -> bool {
        !self.pending.is_full()
            && self.closing.is_none()
            && (!self.subscriptions.has_joins() || self.dialect == Dialect::Multiplexed)
            && self.drain_at.is_none_or(|at| Instant::now() < at)
    }

    /// The time of the next timer.
    fn next_due(&self) -> Instant {
        let silence = self.is_reading().then(|| self.last_received_at + self.shared.limits.idle);
        // A drain waits for the commands in progress.
        let drain = self.drain_at.filter(|_| self.pending.is_empty());
        let others = [silence, self.visible_at, self.expires_at, drain, self.write_by];
        others.into_iter().flatten().fold(self.ping_at, Instant::min)
    }

    fn handle(&mut self, event: Event) -> Result<(), Close> {
        match event {
            Event::Inbound(item) => return self.inbound(item),
            Event::Done(outcome) => {
                self.last_received_at = Instant::now();
                self.done(outcome);
            }
            Event::Join(topic, step) => {
                self.last_received_at = Instant::now();
                return self.step(topic, step);
            }
            Event::Timer => return self.timers(),
            Event::Drain => self.drain_at = Some(Instant::now() + self.shared.drain_delay()),
            Event::Close(close) => return Err(close),
        }
        Ok(())
    }

    fn timers(&mut self) -> Result<(), Close> {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if is_due(self.drain_at) && self.pending.is_empty() {
            if self.awaits_echo() {
                self.drain_at = Some(now + ECHO);
            } else {
                self.drain_at = Some(now + WRITE);
                self.outbox.close(Close::Restart); // After the waiting frames.
            }
        }
        if is_due(self.visible_at) {
            self.set_visible(true);
        }
        if is_due(self.expires_at) {
            return Err(Close::Unauthorized);
        }
        if is_due(self.write_by) {
            metrics::counter!("gateway_slow_clients_total").increment(1);
            return Err(Close::Overloaded);
        }
        if self.is_reading() && now >= self.last_received_at + self.shared.limits.idle {
            metrics::counter!("gateway_silent_clients_total").increment(1);
            return Err(Close::Overloaded);
        }
        if now >= self.ping_at {
            self.ping_at = now + self.shared.limits.ping_every();
            self.socket.queue(Frame::ping());
        }
        Ok(())
    }

    /// Whether the log has yet to deliver the client's last stored message.
    fn awaits_echo(&self) -> bool {
        self.stored.is_some_and(|(topic, seq)| match self.subscriptions.get(&topic) {
            Some(Subscription::Log(membership)) => membership.last_seq() < seq,
            _ => false,
        })
    }

    fn set_visible(&mut self, visible: bool) {
        self.visible_at = None;
        self.slot.set_visible(visible);
    }

    fn inbound(&mut self, item: Item) -> Result<(), Close> {
        self.last_received_at = Instant::now();
        match item {
            Item::Text(text) => {
                self.outbox.set_understands_extensions();
                self.take(&text);
                if self.visible_at.is_some() {
                    self.set_visible(true);
                }
                Ok(())
            }
            Item::Ping(_) | Item::Pong => {
                // The connection has answered a ping already. Too many of these frames are a flood like any other.
                self.limit_frame().ok();
                Ok(())
            }
            Item::Close => Err(Close::Normal),
        }
    }

    /// Begins a subscription on a multiplexed socket.
    fn subscribe(&mut self, topic: Topic, start: Start, reference: multiplex::Reference) {
        let (shared, identity) = (self.shared.clone(), self.identity.clone());
        let step = async move { admit(&shared, &identity, topic).await.map(Step::Admitted) }.boxed();
        self.subscriptions.begin(topic, Join { step, reference: Some(reference), start, is_admitted: false });
    }

    fn view(&self, topic: Topic) -> View {
        let envelope = (self.dialect == Dialect::Multiplexed).then(|| topic.name().into());
        View { user_id: self.identity.user_id, outbox: self.outbox.clone(), envelope }
    }

    /// Takes the outcome of a join's step.
    fn step(&mut self, topic: Topic, step: Result<Step, Refusal>) -> Result<(), Close> {
        match step {
            Ok(Step::Admitted(admission)) => self.admitted(topic, admission),
            Ok(Step::Joined(subscription)) => self.joined(topic, subscription),
            Err(refusal) => return self.refused(topic, &refusal),
        }
        Ok(())
    }

    /// Answers a subscription that the service has admitted, and begins its replay.
    fn admitted(&mut self, topic: Topic, admission: join::Admission) {
        let (shared, view) = (self.shared.clone(), self.view(topic));
        if let Some(Subscription::Joining(join)) = self.subscriptions.get_mut(&topic) {
            join.is_admitted = true;
            if let Some(reference) = &join.reference {
                self.outbox.push(match (join.start, &admission) {
                    (Start::After(_, Some(_)), join::Admission::Log(_, head)) => {
                        multiplex::subscribed(reference, head.changes)
                    }
                    _ => multiplex::ok(reference),
                });
            }
            let start = join.start;
            let joined = async move { join_topic(&shared, view, admission, start).await };
            join.step = joined.map(|subscription| subscription.map(Step::Joined)).boxed();
        }
    }

    fn joined(&mut self, topic: Topic, mut subscription: Subscription) {
        // The join began with the name of an earlier token.
        if self.is_renamed
            && let (Subscription::Typing(membership), Some(name)) =
                (&mut subscription, &self.identity.username)
        {
            membership.rename(name);
        }
        self.subscriptions.joined(&topic, subscription);
    }

    /// Ends a refused join: of a single socket, the socket as well.
    fn refused(&mut self, topic: Topic, refusal: &Refusal) -> Result<(), Close> {
        let subscription = self.subscriptions.remove(&topic);
        if self.dialect != Dialect::Multiplexed {
            return Err(close_code(refusal));
        }
        if let Some(Subscription::Joining(join)) = subscription {
            self.outbox.push(multiplex::error(refusal, join.reference.as_ref(), None));
        }
        Ok(())
    }

    /// Ends a subscription on a multiplexed socket.
    fn unsubscribe(&mut self, topic: Topic) -> Result<(), Refusal> {
        let subscription = self
            .subscriptions
            .remove(&topic)
            .ok_or_else(|| Refusal::new(Code::NotFound, "not subscribed"))?;
        self.end_typing(topic, &subscription);
        // A subscription that ends before it is admitted still gets its answer.
        if let Subscription::Joining(join) = &subscription
            && let (false, Some(reference)) = (join.is_admitted, &join.reference)
        {
            self.outbox.push(multiplex::ok(reference));
        }
        Ok(())
    }

    fn end_subscriptions(&mut self) {
        for (topic, subscription) in self.subscriptions.take() {
            self.end_typing(topic, &subscription);
        }
    }
}

/// Counts a socket that was closed.
pub fn count_close(close: Close) {
    metrics::counter!("gateway_closes_total", "code" => close.code().to_string()).increment(1);
    tracing::debug!(code = close.code(), "closed a socket");
}

fn expiry(shared: &Shared, identity: &Identity) -> Option<Instant> {
    let seconds = shared.verifier.lifetime(identity)?;
    // Bounded, because a token may be valid for centuries.
    Instant::now().checked_add(Duration::from_secs(seconds.min(u64::from(u32::MAX))))
}
