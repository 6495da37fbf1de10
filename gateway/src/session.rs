//! One client's socket: one owner, one loop, everything bounded.

mod asked;

use crate::{
    Shared,
    auth::Identity,
    log::View,
    multiplex,
    opening::{Dialect, Opening, Place, Start, Topic, admission, closing, take_place},
    outbox::Outbox,
    users::Presence,
};
use contract::{Close, ConversationId, Refusal, Seq, chat::Sent, typing::Keyboard};
use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message as WsMessage,
        error::CapacityError,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// How often a client is pinged.
const PING_EVERY: Duration = Duration::from_secs(25);
/// After how long without a sign of life a socket is closed.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a write may take.
const WRITE: Duration = Duration::from_secs(10);
/// How long a socket that is closed waits for the client to close, too.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long a stop waits for the log to tell what is stored, before it looks again.
const ECHO: Duration = Duration::from_millis(20);
/// Bytes that are read and thrown away meanwhile.
const GOODBYE_BYTES: usize = 4 * 1024 * 1024;

/// How the client hears what became of what it asked.
struct Reply {
    /// On the multiplexed socket: what the client called it.
    reference: Option<multiplex::Reference>,
    client_id: Option<String>,
}

type Joined = (Topic, Result<Place, Refusal>);
type Sendable = (Reply, Topic, Result<Option<Sent>, Refusal>);

/// A client's socket.
pub struct Session {
    shared: Arc<Shared>,
    socket: WebSocketStream<TcpStream>,
    outbox: Arc<Outbox>,
    _presence: Presence,
    identity: Identity,
    dialect: Dialect,
    places: HashMap<Topic, Place>,
    joins: FuturesUnordered<BoxFuture<'static, Joined>>,
    /// What the client asked and is not yet done; until then nothing more is read.
    asked: Option<BoxFuture<'static, Sendable>>,
    typing: HashMap<ConversationId, Typing>,
    heard: Instant,
    ping_at: Instant,
    expires: Option<Instant>,
    drain_at: Option<Instant>,
    /// The last message of the client's that was stored: it is to see it before its socket is closed.
    stored: Option<(Topic, Seq)>,
    /// Messages refused for their rate, since the last that wasn't.
    refused: u32,
}

/// What the client has typed lately.
struct Typing {
    username: String,
    told: Option<Instant>,
}

impl Session {
    /// The session of a client that was let in.
    pub fn new(opening: Opening, socket: WebSocketStream<TcpStream>) -> Self {
        let Opening { shared, identity, dialect, start, presence, first } = opening;
        let now = Instant::now();
        let outbox = presence.outbox().clone();
        if start != Start::Live || dialect == Dialect::Multiplexed {
            outbox.set_talkative();
        }
        let expires = expiry(&shared, &identity);
        let mut session = Self {
            shared,
            socket,
            outbox,
            _presence: presence,
            identity,
            dialect,
            places: HashMap::new(),
            joins: FuturesUnordered::new(),
            asked: None,
            typing: HashMap::new(),
            heard: now,
            ping_at: now + PING_EVERY,
            expires,
            drain_at: None,
            stored: None,
            refused: 0,
        };
        if let Some((topic, admission)) = first {
            session.places.insert(topic, Place::Joining);
            let (shared, view) = (session.shared.clone(), session.view(topic));
            session
                .joins
                .push(async move { (topic, take_place(&shared, view, admission, start).await) }.boxed());
        }
        session
    }

    /// Runs until the client leaves, breaks a rule or the gateway stops; returns which.
    pub async fn run(mut self) -> Close {
        let sockets = metrics::gauge!("gateway_sockets", "kind" => self.dialect.kind());
        sockets.increment(1);
        let close = self.work().await;
        sockets.decrement(1);
        self.leave();
        goodbye(self.socket, close).await;
        close
    }

    async fn work(&mut self) -> Close {
        loop {
            let reading =
                self.asked.is_none() && (self.joins.is_empty() || self.dialect == Dialect::Multiplexed);
            if !reading {
                self.heard = Instant::now();
            }
            let due = self.due();
            // Every branch is cancel safe: losing the race loses no frame.
            let event = tokio::select! {
                message = self.socket.next(), if reading => Event::Inbound(message),
                () = self.outbox.readable() => Event::Outbound,
                done = async { self.asked.as_mut().expect("checked by the guard").await }, if self.asked.is_some() => Event::Done(Box::new(done)),
                Some(joined) = self.joins.next(), if !self.joins.is_empty() => Event::Joined(joined),
                () = sleep_until(due) => Event::Due,
                () = self.shared.shutdown.cancelled(), if self.drain_at.is_none() => Event::Drain,
            };
            let went = match event {
                Event::Inbound(message) => self.inbound(message),
                Event::Outbound => self.write().await,
                Event::Done(done) => {
                    self.asked = None;
                    self.done(*done);
                    Ok(())
                }
                Event::Joined((topic, joined)) => self.joined(topic, joined),
                Event::Due => self.timers().await,
                Event::Drain => {
                    self.drain_at = Some(Instant::now() + self.shared.drain_delay());
                    Ok(())
                }
            };
            if let Err(close) = went {
                return close;
            }
        }
    }

    /// When a timer is due.
    fn due(&self) -> Instant {
        let fixed = self.ping_at.min(self.heard + SILENCE);
        // A stop waits for what was asked.
        let drain = self.drain_at.filter(|_| self.asked.is_none());
        [self.expires, drain].into_iter().flatten().fold(fixed, Instant::min)
    }

    async fn timers(&mut self) -> Result<(), Close> {
        let now = Instant::now();
        if self.drain_at.is_some_and(|at| now >= at) && self.asked.is_none() {
            if self.awaits_echo() {
                self.drain_at = Some(now + ECHO);
            } else {
                self.write().await?;
                return Err(Close::Restart);
            }
        }
        if self.expires.is_some_and(|at| now >= at) {
            return Err(Close::Unauthorized);
        }
        if now >= self.heard + SILENCE {
            metrics::counter!("gateway_silent_clients_total").increment(1);
            return Err(Close::Overloaded);
        }
        if now >= self.ping_at {
            self.ping_at = now + PING_EVERY;
            return timed(self.socket.send(WsMessage::Ping(bytes::Bytes::new()))).await;
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

    /// Writes everything that waits with as few calls as it takes.
    async fn write(&mut self) -> Result<(), Close> {
        let frames = self.outbox.take();
        if !frames.is_empty() {
            let socket = &mut self.socket;
            timed(async {
                for frame in frames {
                    socket.feed(WsMessage::Text(frame)).await?;
                }
                socket.flush().await
            })
            .await?;
        }
        self.outbox.closed().map_or(Ok(()), Err)
    }

    fn inbound(&mut self, message: Option<Result<WsMessage, WsError>>) -> Result<(), Close> {
        self.heard = Instant::now();
        match message {
            Some(Ok(WsMessage::Text(text))) => {
                self.outbox.set_talkative();
                self.take(&text);
                Ok(())
            }
            Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_))) => Ok(()),
            Some(Ok(WsMessage::Binary(_))) => Err(Close::Binary),
            Some(Err(WsError::Capacity(CapacityError::MessageTooLong { .. }))) => Err(Close::TooBig),
            Some(Ok(WsMessage::Close(_)) | Err(_)) | None => Err(Close::Normal),
        }
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
            Ok(place) if self.places.contains_key(&topic) => {
                if let (Topic::Typing(conversation), Place::Typing(watching)) = (topic, &place) {
                    let username = watching.username().to_owned();
                    self.typing.entry(conversation).or_insert(Typing { username, told: None });
                }
                self.places.insert(topic, place);
                Ok(())
            }
            // The client has unsubscribed meanwhile.
            Ok(_) => Ok(()),
            Err(refusal) => {
                self.places.remove(&topic);
                if self.dialect == Dialect::Multiplexed { Ok(()) } else { Err(closing(&refusal)) }
            }
        }
    }

    /// Tells typing-service of a typing socket that closes, if it was the user's last here.
    fn left(&mut self, topic: Topic, place: &Place) {
        let (Topic::Typing(conversation), Place::Typing(watching)) = (topic, place) else { return };
        let Some(typing) = self.typing.remove(&conversation) else { return };
        if watching.is_last() && (typing.told.is_some() || watching.is_typing()) {
            let user = self.identity.user_id;
            let input = self.shared.input(conversation, user, &typing.username, Keyboard::Left);
            let shared = self.shared.clone();
            self.shared.tasks.spawn(async move {
                if let Err(error) = shared.hub.bus().publish(&input).await {
                    tracing::debug!(error = format!("{error:#}"), "tell that a typist has left");
                }
            });
        }
    }

    fn leave(&mut self) {
        for (topic, place) in std::mem::take(&mut self.places) {
            self.left(topic, &place);
        }
    }
}

enum Event {
    Inbound(Option<Result<WsMessage, WsError>>),
    Outbound,
    Done(Box<Sendable>),
    Joined(Joined),
    Due,
    Drain,
}

fn expiry(shared: &Shared, identity: &Identity) -> Option<Instant> {
    let seconds = shared.verifier.lifetime(identity)?;
    // A token for centuries ends later than any process.
    Instant::now().checked_add(Duration::from_secs(seconds.min(u64::from(u32::MAX))))
}

async fn timed(write: impl Future<Output = Result<(), WsError>>) -> Result<(), Close> {
    match timeout(WRITE, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Close::Normal),
        Err(_) => {
            metrics::counter!("gateway_slow_clients_total").increment(1);
            Err(Close::Overloaded)
        }
    }
}

/// Says goodbye, and waits a little for the client to have read it: data of the client's that nobody has read would
/// make the kernel reset the connection, and the client would never see the close frame.
pub async fn goodbye(mut socket: WebSocketStream<TcpStream>, close: Close) {
    let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().into() };
    let parting = async {
        socket.close(Some(frame)).await.ok();
        let stream = socket.get_mut();
        let (mut scrap, mut left) = ([0_u8; 4096], GOODBYE_BYTES);
        while let Ok(read @ 1..) = stream.read(&mut scrap).await {
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
    };
    timeout(GOODBYE, parting).await.ok();
}
