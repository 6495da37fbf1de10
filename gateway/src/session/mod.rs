//! One client's socket: one owner, one loop, everything bounded.

mod commands;
pub mod handshake;
pub mod multiplex;
mod pending;
mod subscriptions;

use crate::websocket::{Frame, Item, Socket};
use crate::{
    admission::{
        tokens::{Identity, Rejected},
        user_sockets::SocketSlot,
    },
    channel::ordering::View,
    session::handshake::{Dialect, Join, Opening, Step, Subscription, admission, closing, join_topic},
    state::Shared,
    topic::{Start, Topic},
    websocket::outbox::Outbox,
};
use contract::{Close, Code, Refusal, Seq, chat::Sent, typing::Keyboard};
use futures_util::{
    FutureExt,
    future::{self, poll_fn},
};
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
/// How long a stop waits for the log to tell what is stored, before it looks again.
const ECHO: Duration = Duration::from_millis(20);

/// How the client hears what became of what it asked.
struct Reply {
    /// On the multiplexed socket: what the client called it.
    reference: Option<multiplex::Reference>,
    client_id: Option<String>,
}

/// The outcome of a command that others had to carry out.
enum Asked {
    /// A service.
    Service(Reply, Topic, Result<Option<Sent>, Refusal>),
    /// A fresh token whose key had to be fetched.
    Token(Reply, Result<Identity, Rejected>),
}

/// A client's socket. What only some clients need, or only for a moment, is boxed: there are many that wait.
pub struct Session {
    shared: Arc<Shared>,
    socket: Socket,
    outbox: Arc<Outbox>,
    presence: SocketSlot,
    identity: Identity,
    /// Whether a fresh token has brought another name.
    is_renamed: bool,
    dialect: Dialect,
    places: Subscriptions,
    /// The client's commands that are not done yet.
    pending: Pending,
    heard: Instant,
    ping_at: Instant,
    /// When what is being written must be.
    write_by: Option<Instant>,
    expires: Option<Instant>,
    drain_at: Option<Instant>,
    /// Why the socket is closed once everything is written.
    closing: Option<Close>,
    /// The last message of the client's that was stored: it is to see it before its socket is closed.
    stored: Option<(Topic, Seq)>,
    /// Messages refused for their rate, less those that later ones made up for.
    refused_sends: u16,
    /// Frames refused for their rate, less those that later ones made up for.
    refused_frames: u16,
}

/// What a session waits for.
enum Event {
    Inbound(Item),
    Done(Asked),
    Join(Topic, Result<Step, Refusal>),
    Due,
    Drain,
    Close(Close),
}

impl Session {
    /// The session of a client that was let in.
    pub fn new(opening: Opening, socket: Socket) -> Self {
        let Opening { shared, identity, dialect, start, presence, first } = opening;
        let now = Instant::now();
        let outbox = presence.outbox().clone();
        if start != Start::Live || dialect == Dialect::Multiplexed {
            outbox.set_understands_extensions();
        }
        let expires = expiry(&shared, &identity);
        let ping_every = shared.limits.ping_every();
        let mut session = Self {
            shared,
            socket,
            outbox,
            presence,
            identity,
            is_renamed: false,
            dialect,
            places: Subscriptions::default(),
            pending: Pending::default(),
            heard: now,
            ping_at: now + ping_every,
            write_by: None,
            expires,
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
                let step = joined.map(|place| place.map(Step::Joined)).boxed();
                session.places.begin(topic, Join { step, reference: None, start, is_admitted: true });
            }
            None => session.outbox.push(multiplex::hello(&session.identity)),
        }
        session
    }

    /// Runs until the client leaves, breaks a rule or the gateway stops.
    pub async fn run(mut self) {
        let kind = self.dialect.kind();
        metrics::gauge!("gateway_sockets", "kind" => kind).increment(1);
        let close = self.work().await;
        metrics::gauge!("gateway_sockets", "kind" => kind).decrement(1);
        self.leave();
        let pending = std::mem::take(&mut self.pending);
        let finish = async move {
            // What a client sent before it left is done, as if it had stayed.
            if close == Close::Normal {
                pending.finish().await;
            }
        };
        // Boxed, as an idle socket would hold room for it.
        Box::pin(future::join(self.socket.goodbye(close), finish)).await;
        count(close);
    }

    async fn work(&mut self) -> Close {
        let shutdown = self.shared.shutdown.clone();
        let mut stop = pin!(shutdown.cancelled());
        let mut timer = pin!(sleep_until(self.due()));
        loop {
            let event = poll_fn(|cx| {
                if let Poll::Ready(event) = self.poll_event(cx) {
                    return Poll::Ready(event);
                }
                if self.drain_at.is_none() && stop.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Drain);
                }
                self.poll_due(cx, timer.as_mut()).map(|()| Event::Due)
            });
            let event = event.await;
            if let Err(close) = self.handle(event) {
                return close;
            }
        }
    }

    /// Whatever happens but by the clock. What wants to be written comes first: it is what the rest may wait for.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(close) = self.poll_write(cx) {
            return Poll::Ready(Event::Close(close));
        }
        if let Poll::Ready(done) = self.pending.poll(cx) {
            return Poll::Ready(Event::Done(done));
        }
        if let Poll::Ready((topic, step)) = self.places.poll_joins(cx) {
            return Poll::Ready(Event::Join(topic, step));
        }
        if self.is_reading() {
            return self.socket.poll_next(cx).map(|item| item.map_or_else(Event::Close, Event::Inbound));
        }
        Poll::Pending
    }

    /// Writes everything that waits with as few calls as it takes, and then waits for more; or says why the socket is
    /// to be closed.
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

    /// The timer is only ever set for earlier: that something was put off is seen when it is due.
    fn poll_due(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        loop {
            let due = self.due();
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

    /// Whether frames are read: not while too many commands are pending, nor before a single socket has joined its
    /// channel, nor once it is to be closed.
    fn is_reading(&self) -> bool {
        !self.pending.is_full()
            && self.closing.is_none()
            && (!self.places.has_joins() || self.dialect == Dialect::Multiplexed)
            && self.drain_at.is_none_or(|at| Instant::now() < at)
    }

    /// When a timer is due.
    fn due(&self) -> Instant {
        let silence = self.is_reading().then(|| self.heard + self.shared.limits.idle);
        // A stop waits for what was asked.
        let drain = self.drain_at.filter(|_| self.pending.is_empty());
        let others = [silence, self.expires, drain, self.write_by];
        others.into_iter().flatten().fold(self.ping_at, Instant::min)
    }

    fn handle(&mut self, event: Event) -> Result<(), Close> {
        match event {
            Event::Inbound(item) => return self.inbound(item),
            Event::Done(done) => {
                self.heard = Instant::now();
                self.done(done);
            }
            Event::Join(topic, step) => {
                self.heard = Instant::now();
                return self.step(topic, step);
            }
            Event::Due => return self.timers(),
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
                self.outbox.close(Close::Restart); // After what waits in it is written.
            }
        }
        if is_due(self.expires) {
            return Err(Close::Unauthorized);
        }
        if is_due(self.write_by) {
            metrics::counter!("gateway_slow_clients_total").increment(1);
            return Err(Close::Overloaded);
        }
        if self.is_reading() && now >= self.heard + self.shared.limits.idle {
            metrics::counter!("gateway_silent_clients_total").increment(1);
            return Err(Close::Overloaded);
        }
        if now >= self.ping_at {
            self.ping_at = now + self.shared.limits.ping_every();
            self.socket.queue(Frame::ping());
        }
        Ok(())
    }

    /// Whether a message of the client's is stored, and not yet told by its log.
    fn awaits_echo(&self) -> bool {
        self.stored.is_some_and(|(topic, seq)| match self.places.get(&topic) {
            Some(Subscription::Log(membership)) => membership.last_seq() < seq,
            _ => false,
        })
    }

    fn inbound(&mut self, item: Item) -> Result<(), Close> {
        self.heard = Instant::now();
        match item {
            Item::Text(text) => {
                self.outbox.set_understands_extensions();
                self.take(&text);
                Ok(())
            }
            Item::Ping(_) | Item::Pong => {
                // They are answered, or not at all, by the connection; too many of them are a flood like any other.
                self.limit_frame().ok();
                Ok(())
            }
            Item::Close => Err(Close::Normal),
        }
    }

    /// Begins a subscription on a multiplexed socket.
    fn subscribe(&mut self, topic: Topic, start: Start, reference: multiplex::Reference) {
        let (shared, identity) = (self.shared.clone(), self.identity.clone());
        let step = async move { admission(&shared, &identity, topic).await.map(Step::Admitted) }.boxed();
        self.places.begin(topic, Join { step, reference: Some(reference), start, is_admitted: false });
    }

    fn view(&self, topic: Topic) -> View {
        let envelope = (self.dialect == Dialect::Multiplexed).then(|| topic.name().into());
        View { user_id: self.identity.user_id, outbox: self.outbox.clone(), envelope }
    }

    /// A subscription has come a step further, or failed.
    fn step(&mut self, topic: Topic, step: Result<Step, Refusal>) -> Result<(), Close> {
        match step {
            Ok(Step::Admitted(admission)) => {
                let (shared, view) = (self.shared.clone(), self.view(topic));
                if let Some(Subscription::Joining(join)) = self.places.get_mut(&topic) {
                    join.is_admitted = true;
                    if let Some(reference) = &join.reference {
                        self.outbox.push(multiplex::ok(reference));
                    }
                    let start = join.start;
                    let joined = async move { join_topic(&shared, view, admission, start).await };
                    join.step = joined.map(|place| place.map(Step::Joined)).boxed();
                }
                Ok(())
            }
            Ok(Step::Joined(mut place)) => {
                // The join began under the name of the token of that time.
                if self.is_renamed
                    && let (Subscription::Typing(watching), Some(name)) =
                        (&mut place, &self.identity.username)
                {
                    watching.rename(name);
                }
                self.places.joined(&topic, place);
                Ok(())
            }
            Err(refusal) => {
                let place = self.places.remove(&topic);
                if self.dialect != Dialect::Multiplexed {
                    return Err(closing(&refusal));
                }
                if let Some(Subscription::Joining(join)) = place {
                    self.outbox.push(multiplex::error(&refusal, join.reference.as_ref(), None));
                }
                Ok(())
            }
        }
    }

    /// Ends a subscription on a multiplexed socket.
    fn unsubscribe(&mut self, topic: Topic) -> Result<(), Refusal> {
        let place =
            self.places.remove(&topic).ok_or_else(|| Refusal::new(Code::NotFound, "not subscribed"))?;
        self.left(topic, &place);
        // A subscription that ended before it was admitted is answered nevertheless.
        if let Subscription::Joining(join) = &place
            && let (false, Some(reference)) = (join.is_admitted, &join.reference)
        {
            self.outbox.push(multiplex::ok(reference));
        }
        Ok(())
    }

    /// Tells typing-service of a typing socket that closes, if it was the user's last here.
    fn left(&self, topic: Topic, place: &Subscription) {
        let (Topic::Typing(conversation), Subscription::Typing(watching)) = (topic, place) else { return };
        if watching.is_last() && (watching.told.is_some() || watching.is_typing()) {
            let user = self.identity.user_id;
            let input = self.shared.input(conversation, user, watching.username(), Keyboard::Left);
            // Without room for it, the typing ends by itself.
            self.shared.typing_inputs.publish(input).ok();
        }
    }

    fn leave(&mut self) {
        for (topic, place) in self.places.take() {
            self.left(topic, &place);
        }
    }
}

/// A socket was closed.
pub fn count(close: Close) {
    metrics::counter!("gateway_closes_total", "code" => close.code().to_string()).increment(1);
    tracing::debug!(code = close.code(), "a socket was closed");
}

fn expiry(shared: &Shared, identity: &Identity) -> Option<Instant> {
    let seconds = shared.verifier.lifetime(identity)?;
    // A token for centuries ends later than any process.
    Instant::now().checked_add(Duration::from_secs(seconds.min(u64::from(u32::MAX))))
}
