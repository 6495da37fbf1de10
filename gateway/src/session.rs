//! One client's socket: one owner, one loop, everything bounded.

mod asked;
mod places;

use crate::websocket::{Frame, Item, Socket};
use crate::{
    Shared,
    auth::{Identity, Rejected},
    log::View,
    multiplex,
    opening::{Dialect, Opening, Place, Start, Topic, admission, closing, take_place},
    outbox::Outbox,
    users::Presence,
};
use contract::{Close, Refusal, Seq, chat::Sent, typing::Keyboard};
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, poll_fn},
    stream::FuturesUnordered,
};
use places::Places;
use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
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

type Joined = (Topic, Result<Place, Refusal>);

/// What a client asked that others had to do.
enum Asked {
    /// A service.
    Service(Reply, Topic, Result<Option<Sent>, Refusal>),
    /// Whoever publishes keys: whose the fresh token is.
    Token(Reply, Result<Identity, Rejected>),
}

/// A client's socket. What only some clients need, or only for a moment, is boxed: there are many that wait.
pub struct Session {
    shared: Arc<Shared>,
    socket: Socket,
    outbox: Arc<Outbox>,
    _presence: Presence,
    identity: Identity,
    dialect: Dialect,
    places: Places,
    joins: Option<Box<FuturesUnordered<BoxFuture<'static, Joined>>>>,
    /// What the client asked and is not yet done; until then nothing more is read.
    asked: Option<BoxFuture<'static, Asked>>,
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
    /// Messages refused for their rate, since the last that wasn't.
    refused: u32,
}

/// What a session waits for.
enum Event {
    Inbound(Item),
    Done(Asked),
    Joined(Joined),
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
            outbox.set_talkative();
        }
        let expires = expiry(&shared, &identity);
        let ping_every = shared.limits.ping_every();
        let mut session = Self {
            shared,
            socket,
            outbox,
            _presence: presence,
            identity,
            dialect,
            places: Places::default(),
            joins: None,
            asked: None,
            heard: now,
            ping_at: now + ping_every,
            write_by: None,
            expires,
            drain_at: None,
            closing: None,
            stored: None,
            refused: 0,
        };
        if let Some((topic, admission)) = first {
            session.places.insert(topic, Place::Joining);
            let (shared, view) = (session.shared.clone(), session.view(topic));
            session
                .joining(async move { (topic, take_place(&shared, view, admission, start).await) }.boxed());
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
        // Boxed, as an idle socket would hold room for it.
        Box::pin(self.socket.goodbye(close)).await;
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
        if let Some(asked) = &mut self.asked
            && let Poll::Ready(done) = asked.poll_unpin(cx)
        {
            self.asked = None;
            return Poll::Ready(Event::Done(done));
        }
        if let Some(joins) = &mut self.joins {
            match joins.poll_next_unpin(cx) {
                Poll::Ready(Some(joined)) => return Poll::Ready(Event::Joined(joined)),
                Poll::Ready(None) => self.joins = None,
                Poll::Pending => {}
            }
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

    /// Whether the client is listened to: not while what it asked is under way, nor before it has its one place.
    fn is_reading(&self) -> bool {
        self.asked.is_none()
            && self.closing.is_none()
            && (self.joins.is_none() || self.dialect == Dialect::Multiplexed)
    }

    /// When a timer is due.
    fn due(&self) -> Instant {
        let silence = self.is_reading().then(|| self.heard + self.shared.limits.idle);
        // A stop waits for what was asked.
        let drain = self.drain_at.filter(|_| self.asked.is_none());
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
            Event::Joined((topic, joined)) => {
                self.heard = Instant::now();
                return self.joined(topic, joined);
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
        if is_due(self.drain_at) && self.asked.is_none() {
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
            Some(Place::Log(membership)) => membership.last_seq() < seq,
            _ => false,
        })
    }

    fn inbound(&mut self, item: Item) -> Result<(), Close> {
        self.heard = Instant::now();
        match item {
            Item::Text(text) => {
                self.outbox.set_talkative();
                self.take(&text);
                Ok(())
            }
            Item::Ping(_) | Item::Pong => Ok(()),
            Item::Close => Err(Close::Normal),
        }
    }

    fn joining(&mut self, join: BoxFuture<'static, Joined>) {
        self.joins.get_or_insert_default().push(join);
    }

    /// Lets the client onto one of several topics; nobody waits for it.
    fn join(
        &self,
        topic: Topic,
        start: Start,
        reference: Option<multiplex::Reference>,
    ) -> BoxFuture<'static, Joined> {
        let (shared, identity, view) = (self.shared.clone(), self.identity.clone(), self.view(topic));
        async move {
            let joined = async {
                let admission = admission(&shared, &identity, topic).await?;
                if let Some(reference) = &reference {
                    view.outbox.push(multiplex::ok(reference));
                }
                take_place(&shared, view.clone(), admission, start).await
            };
            let joined = joined.await;
            if let (Err(refusal), Some(reference)) = (&joined, &reference) {
                view.outbox.push(multiplex::error(refusal, Some(reference), None));
            }
            (topic, joined)
        }
        .boxed()
    }

    fn view(&self, topic: Topic) -> View {
        let envelope = (self.dialect == Dialect::Multiplexed).then(|| topic.name().into());
        View { user_id: self.identity.user_id, outbox: self.outbox.clone(), envelope }
    }

    fn joined(&mut self, topic: Topic, joined: Result<Place, Refusal>) -> Result<(), Close> {
        match joined {
            Ok(place) => {
                // Unless the client has unsubscribed meanwhile.
                if let Some(joining) = self.places.get_mut(&topic) {
                    *joining = place;
                }
                Ok(())
            }
            Err(refusal) => {
                self.places.remove(&topic);
                if self.dialect == Dialect::Multiplexed { Ok(()) } else { Err(closing(&refusal)) }
            }
        }
    }

    /// Tells typing-service of a typing socket that closes, if it was the user's last here.
    fn left(&self, topic: Topic, place: &Place) {
        let (Topic::Typing(conversation), Place::Typing(watching)) = (topic, place) else { return };
        if watching.is_last() && (watching.told.is_some() || watching.is_typing()) {
            let user = self.identity.user_id;
            let input = self.shared.input(conversation, user, watching.username(), Keyboard::Left);
            // Without room for it, the typing ends by itself.
            self.shared.keyboards.tell(input).ok();
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
