//! One client's socket: one owner, one loop, everything bounded.

use crate::{
    Shared,
    auth::Identity,
    channel::{self, Asker, Channel, LogKey, Membership},
    frames,
    log::View,
    multiplex::{self, Op},
    outbox::Outbox,
    typing::Watching,
    users::Presence,
};
use contract::{
    Close, Code, ConversationId, Refusal, Seq, UserId,
    chat::{MarkRead, Send, Sent},
    frames::{ChatFrame, InboxFrame, ServerFrame, TypingFrame},
    limits,
    notify::MarkNotification,
    typing::{Keyboard, TypingInput},
};
use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use service::bus::RequestError;
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
/// How often a client's `true`s are passed on, at most.
const TYPING_EVERY: Duration = Duration::from_millis(250);
/// Messages in a row that are refused for their rate before the socket is closed.
const REFUSED: u32 = 100;
/// Channels of one socket.
const CHANNELS: usize = 128;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// One conversation.
    Chat(ConversationId),
    /// The user's notifications.
    Notifications,
    /// Who types in one conversation.
    Typing(ConversationId),
    /// Any of these, by name.
    Multiplexed,
}

/// What a socket may be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A log.
    Log(LogKey),
    /// Who types in a conversation.
    Typing(ConversationId),
}

/// Where a socket wants to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Now.
    Live,
    /// Now; the client knows more than the old guide's frames.
    Latest,
    /// After this entry.
    After(i64),
}

/// A socket's place on a topic.
enum Place {
    /// Being taken: the replay goes on.
    Joining,
    Log(Membership),
    Typing(Watching),
}

/// How the client hears what became of what it asked.
struct Reply {
    /// On the multiplexed socket: what the client called it.
    reference: Option<multiplex::Reference>,
    client_id: Option<String>,
}

type Joined = (Topic, Result<Place, Refusal>);
type Sendable = (Reply, Topic, Result<Option<Sent>, Refusal>);

/// A client that was let in, before its socket is open.
pub struct Opening {
    shared: Arc<Shared>,
    identity: Identity,
    dialect: Dialect,
    start: Start,
    presence: Presence,
    first: Option<(Topic, Admission)>,
}

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
        let close = self.work().await;
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

    fn take(&mut self, text: &str) {
        match self.dialect {
            Dialect::Chat(conversation) => match ChatFrame::parse(text) {
                Ok(frame) => self.chat(conversation, frame, None),
                Err(bad) => self.outbox.push(frames::error(&bad.refusal, bad.client_id.as_deref())),
            },
            Dialect::Notifications => match InboxFrame::parse(text) {
                Ok(frame) => self.inbox(frame, None),
                Err(refusal) => self.outbox.push(frames::error(&refusal, None)),
            },
            Dialect::Typing(conversation) => match TypingFrame::parse(text) {
                Ok(frame) => self.keyboard(conversation, frame, None),
                Err(refusal) => self.outbox.push(frames::error(&refusal, None)),
            },
            Dialect::Multiplexed => match Op::parse(text, self.identity.user_id) {
                Ok((op, reference)) => self.operate(op, reference),
                Err((refusal, reference)) => {
                    self.outbox.push(multiplex::error(&refusal, reference.as_ref(), None))
                }
            },
        }
    }

    fn operate(&mut self, op: Op, reference: multiplex::Reference) {
        let reply = || Reply { reference: Some(reference.clone()), client_id: None };
        match op {
            Op::Subscribe(topic, _) if self.places.contains_key(&topic) => {
                self.answer(&reply(), Err(Refusal::new(Code::InvalidRequest, "already subscribed")));
            }
            Op::Subscribe(..) if self.places.len() >= CHANNELS => {
                let detail = format!("at most {CHANNELS} channels on one socket");
                self.answer(&reply(), Err(Refusal::new(Code::InvalidRequest, detail)));
            }
            Op::Subscribe(topic, start) => {
                self.places.insert(topic, Place::Joining);
                self.joins.push(self.join(topic, start, Some(reference)));
            }
            Op::Unsubscribe(topic) => {
                let answer = match self.places.remove(&topic) {
                    Some(place) => {
                        self.left(topic, &place);
                        Ok(())
                    }
                    None => Err(Refusal::new(Code::NotFound, "not subscribed")),
                };
                self.answer(&reply(), answer);
            }
            Op::Auth(token) => self.auth(&token, Some(reference)),
            Op::Chat(conversation, frame) => self.chat(conversation, frame, Some(reference)),
            Op::Inbox(frame) => self.inbox(frame, Some(reference)),
            Op::Typing(conversation, frame) => self.keyboard(conversation, frame, Some(reference)),
        }
    }

    fn chat(
        &mut self,
        conversation_id: ConversationId,
        frame: ChatFrame,
        reference: Option<multiplex::Reference>,
    ) {
        let topic = Topic::Log(LogKey::Conversation(conversation_id));
        let user_id = self.identity.user_id;
        match frame {
            ChatFrame::Message { message, client_id } => {
                let reply = Reply { reference, client_id: client_id.clone() };
                if let Err(refusal) = self.shared.limits.send(user_id) {
                    self.refused += 1;
                    if self.refused > REFUSED {
                        self.outbox.close(Close::RateLimited);
                    }
                    return self.answer(&reply, Err(refusal));
                }
                self.refused = 0;
                let sender_username = self.identity.username.clone();
                let send = Send { conversation_id, sender_id: user_id, sender_username, message, client_id };
                let packer = self.shared.packer.clone();
                self.asked = Some(async move { (reply, topic, Ok(Some(packer.send(send).await))) }.boxed());
            }
            ChatFrame::Read(message_id) => {
                let ask = MarkRead { conversation_id, user_id, message_id };
                self.ask(topic, reference, ask);
            }
            ChatFrame::Auth(token) => self.auth(&token, reference),
        }
    }

    fn inbox(&mut self, frame: InboxFrame, reference: Option<multiplex::Reference>) {
        let user_id = self.identity.user_id;
        let notification_id = match frame {
            InboxFrame::Read(id) => Some(id),
            InboxFrame::ReadAll => None,
            InboxFrame::Auth(token) => return self.auth(&token, reference),
        };
        let topic = Topic::Log(LogKey::Inbox(user_id));
        self.ask(topic, reference, MarkNotification { user_id, notification_id });
    }

    fn ask<R: contract::Request>(
        &mut self,
        topic: Topic,
        reference: Option<multiplex::Reference>,
        question: R,
    ) {
        let reply = Reply { reference, client_id: None };
        let shared = self.shared.clone();
        self.asked = Some(
            async move {
                let answer = shared.hub.bus().request_until(&question, limits::SEND_DEADLINE).await;
                (reply, topic, answer.map(|_| None).map_err(RequestError::into_refusal))
            }
            .boxed(),
        );
    }

    fn keyboard(
        &mut self,
        conversation_id: ConversationId,
        frame: TypingFrame,
        reference: Option<multiplex::Reference>,
    ) {
        let is_typing = match frame {
            TypingFrame::Typing(is_typing) => is_typing,
            TypingFrame::Auth(token) => return self.auth(&token, reference),
        };
        let topic = Topic::Typing(conversation_id);
        let reply = Reply { reference, client_id: None };
        let (Some(Place::Typing(watching)), Some(typing)) =
            (self.places.get(&topic), self.typing.get_mut(&conversation_id))
        else {
            return self.answer(&reply, Err(Refusal::new(Code::Forbidden, "subscribe to the channel first")));
        };
        let now = Instant::now();
        let keyboard = match (is_typing, typing.told) {
            (true, Some(told)) if now < told + TYPING_EVERY => None,
            (true, _) => {
                typing.told = Some(now);
                Some(Keyboard::Typing)
            }
            (false, told) => {
                typing.told = None;
                (told.is_some() || watching.is_typing()).then_some(Keyboard::Stopped)
            }
        };
        let Some(keyboard) = keyboard else { return self.answer(&reply, Ok(())) };
        let input = self.shared.input(conversation_id, self.identity.user_id, &typing.username, keyboard);
        let shared = self.shared.clone();
        self.asked = Some(
            async move {
                let published = shared.hub.bus().publish(&input).await;
                (reply, topic, published.map(|()| None).map_err(|_| Refusal::unavailable()))
            }
            .boxed(),
        );
    }

    fn auth(&mut self, token: &str, reference: Option<multiplex::Reference>) {
        let fresh = self.shared.identify(token).ok();
        let fresh = fresh.filter(|fresh| fresh.user_id == self.identity.user_id);
        let reply = Reply { reference, client_id: None };
        let Some(fresh) = fresh else {
            let refusal = Refusal::new(Code::Unauthorized, "the token is not valid, or another user's");
            return self.answer(&reply, Err(refusal));
        };
        self.expires = expiry(&self.shared, &fresh);
        let expires_at = fresh.expires_at;
        self.identity = Identity { username: fresh.username.or(self.identity.username.take()), ..fresh };
        match reply.reference {
            Some(_) => self.answer(&reply, Ok(())),
            None => self.outbox.push(frames::encode(&ServerFrame::Auth { expires_at })),
        }
    }

    /// What the client asked is done, or not.
    fn done(&mut self, (reply, topic, answer): Sendable) {
        let place = match self.places.get(&topic) {
            Some(Place::Log(membership)) => Some(membership),
            _ => None,
        };
        let answer = match answer {
            Ok(Some(Sent::Stored(message))) => {
                // The message itself comes with the log; this only makes sure that it does.
                if let Some(membership) = place {
                    membership.stored(message.seq);
                    self.stored = Some((topic, message.seq));
                }
                Ok(())
            }
            Ok(Some(Sent::Repeated(message))) => {
                let entry = frames::message(message);
                match place {
                    Some(membership) => membership.repeat(&entry),
                    None => tracing::debug!("a repeated send without a place in its conversation"),
                }
                Ok(())
            }
            Ok(Some(Sent::Refused(refusal))) | Err(refusal) => Err(refusal),
            Ok(None) => Ok(()),
        };
        self.answer(&reply, answer);
    }

    /// Tells the client what became of what it asked; on a single socket, success shows by itself.
    fn answer(&self, reply: &Reply, answer: Result<(), Refusal>) {
        let frame = match (&reply.reference, answer) {
            (Some(reference), Ok(())) => multiplex::ok(reference),
            (Some(reference), Err(refusal)) => {
                multiplex::error(&refusal, Some(reference), reply.client_id.as_deref())
            }
            (None, Ok(())) => return,
            (None, Err(refusal)) => frames::error(&refusal, reply.client_id.as_deref()),
        };
        self.outbox.push(frame);
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

impl Opening {
    /// Lets a client in, if it may be on the one topic that its dialect is about.
    ///
    /// # Errors
    /// What its socket is to be closed with.
    pub async fn new(
        shared: Arc<Shared>,
        identity: Identity,
        presence: Presence,
        dialect: Dialect,
        start: Start,
    ) -> Result<Self, Close> {
        let topic = match dialect {
            Dialect::Chat(conversation) => Some(Topic::Log(LogKey::Conversation(conversation))),
            Dialect::Notifications => Some(Topic::Log(LogKey::Inbox(identity.user_id))),
            Dialect::Typing(conversation) => Some(Topic::Typing(conversation)),
            Dialect::Multiplexed => None,
        };
        let first = match topic {
            Some(topic) => {
                let admission =
                    admission(&shared, &identity, topic).await.map_err(|refusal| closing(&refusal))?;
                Some((topic, admission))
            }
            None => None,
        };
        Ok(Self { shared, identity, dialect, start, presence, first })
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

/// A client that may be on a topic.
struct Admission {
    topic: Admitted,
    username: Option<String>,
}

enum Admitted {
    Log(Arc<Channel>, channel::Part),
    Typing(ConversationId),
}

/// Asks the service whether a user may be on a topic. For a log, after its subscription began, so that nothing falls
/// between what this reads and what comes live.
async fn admission(shared: &Shared, identity: &Identity, topic: Topic) -> Result<Admission, Refusal> {
    let asker = Asker::User(identity.user_id, identity.username.as_deref());
    match topic {
        Topic::Log(key) => {
            let channel = shared.hub.log(key).await;
            let part = key.read(shared.hub.bus(), asker, None).await.map_err(RequestError::into_refusal)?;
            Ok(Admission { username: part.username.clone(), topic: Admitted::Log(channel, part) })
        }
        Topic::Typing(conversation) => {
            let key = LogKey::Conversation(conversation);
            let part = key.read(shared.hub.bus(), asker, None).await.map_err(RequestError::into_refusal)?;
            Ok(Admission { username: part.username, topic: Admitted::Typing(conversation) })
        }
    }
}

async fn take_place(
    shared: &Shared,
    view: View,
    admission: Admission,
    start: Start,
) -> Result<Place, Refusal> {
    match admission.topic {
        Admitted::Log(channel, first) => {
            let after = match start {
                Start::After(id) => Some(id),
                Start::Live | Start::Latest => None,
            };
            channel::join(&channel, shared.hub.bus(), view, first, after).await.map(Place::Log)
        }
        Admitted::Typing(conversation) => {
            let username = admission.username.unwrap_or_else(|| format!("user-{}", view.user_id));
            let typists = shared.hub.typing(conversation).await;
            Ok(Place::Typing(typists.join(shared.hub.bus(), view, username).await))
        }
    }
}

impl Topic {
    /// The name of its channel on the multiplexed socket.
    fn name(self) -> String {
        match self {
            Self::Log(key) => key.name(),
            Self::Typing(conversation) => format!("typing/{conversation}"),
        }
    }
}

impl Shared {
    fn input(
        &self,
        conversation_id: ConversationId,
        user_id: UserId,
        username: &str,
        keyboard: Keyboard,
    ) -> TypingInput {
        TypingInput {
            conversation_id,
            user_id,
            username: username.to_owned(),
            gateway: self.id.clone(),
            keyboard,
        }
    }
}

/// What a single socket that is refused its topic is closed with.
fn closing(refusal: &Refusal) -> Close {
    match refusal.code {
        Code::Forbidden | Code::NotFound => Close::Forbidden,
        Code::Unavailable => Close::Overloaded,
        _ => Close::Fault,
    }
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
