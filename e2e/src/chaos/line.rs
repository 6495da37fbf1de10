//! One connection of a client.

use super::{
    frame::Channel,
    watch::{ChatWatch, InboxWatch},
    world::World,
};
use crate::Answer;
use contract::{chat::Message, log::Head};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message as WsMessage},
};

/// How long a handshake may take before the client tries elsewhere.
const HANDSHAKE: Duration = Duration::from_secs(8);
/// How long the gateway may work on one thing that it was asked; what was asked after it waits.
const WORK: Duration = Duration::from_millis(5_300);
/// What is added to that, as machines are slow at times.
const SLACK: Duration = Duration::from_secs(8);
/// What a replay may take before a single socket is listened to.
const REPLAY: Duration = Duration::from_secs(10);

/// What a client has asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To store the message with this text.
    Send(String),
    /// To move the marker of a conversation to a message.
    Read(i64, i64),
    /// To mark a notification as read; with `None`, all.
    InboxRead(Option<i64>),
    /// To be on a channel.
    Subscribe(Channel),
    /// To show that the user types.
    Typing,
}

struct Question {
    asked: Asked,
    reference: i64,
    since: Instant,
    due: Instant,
}

/// One connection of a client.
pub struct Line {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The one channel that it is for; `None`: the multiplexed socket.
    pub own: Option<Channel>,
    /// Which gateway it is at.
    pub gateway: usize,
    /// The conversations that it is on.
    pub chats: HashMap<i64, ChatWatch>,
    /// The inbox, if it is on that.
    pub inbox: Option<InboxWatch>,
    questions: Vec<Question>,
    /// Channels that the client is on, or was told so, by what it called that.
    joined: HashMap<i64, Channel>,
    /// Until when the gateway may work on what was asked so far.
    busy_until: Instant,
    references: i64,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The handshake was refused with this HTTP status.
    Status(u16),
    /// A close frame came.
    Code(Option<u16>),
    /// It ended without one, or never began.
    Broken,
}

impl Line {
    /// Connects to a gateway.
    ///
    /// # Errors
    /// Why not.
    pub async fn open(
        world: &World,
        gateway: usize,
        path: &str,
        own: Option<Channel>,
    ) -> Result<Self, Closed> {
        let url = format!("ws://{}{path}", world.hosts[gateway]);
        let socket = match timeout(HANDSHAKE, tokio_tungstenite::connect_async(url)).await {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(Error::Http(response))) => return Err(Closed::Status(response.status().as_u16())),
            Ok(Err(_)) | Err(_) => return Err(Closed::Broken),
        };
        let busy_until = Instant::now() + if own.is_some() { REPLAY } else { Duration::ZERO };
        Ok(Self {
            socket,
            own,
            gateway,
            chats: HashMap::new(),
            inbox: None,
            questions: Vec::new(),
            joined: HashMap::new(),
            busy_until,
            references: 0,
        })
    }

    /// Is on a channel from now on, after this entry.
    pub fn watch(&mut self, channel: Channel, user: i64, after: Option<Head>) {
        match channel {
            Channel::Chat(id) => {
                let watch = ChatWatch::new(user, after);
                let watch = match self.chats.remove(&id) {
                    Some(before) => watch.after(before),
                    None => watch,
                };
                self.chats.insert(id, watch);
            }
            Channel::Inbox => self.inbox = Some(InboxWatch::new(after)),
            Channel::Typing(_) => {}
        }
    }

    /// Asks to be on a channel of the multiplexed socket.
    pub async fn subscribe(&mut self, channel: Channel, user: i64, after: Option<Head>) {
        self.watch(channel, user, after);
        let mut op = json!({"op": "subscribe", "channel": channel.name()});
        if let Some(after) = after {
            op["after"] = after.id.into();
        }
        self.ask(Asked::Subscribe(channel), op, false).await;
    }

    /// Sends a frame on a channel.
    pub async fn say(&mut self, channel: Channel, asked: Asked, data: Value) {
        match self.own {
            Some(_) => self.ask(asked, data, true).await,
            None => {
                let op = json!({"op": "send", "channel": channel.name(), "data": data});
                self.ask(asked, op, true).await;
            }
        }
    }

    async fn ask(&mut self, asked: Asked, mut frame: Value, in_turn: bool) {
        self.references += 1;
        if self.own.is_none() {
            frame["ref"] = self.references.into();
        }
        let since = Instant::now();
        let mut due = since + WORK;
        if in_turn {
            due = self.busy_until.max(since) + WORK;
            self.busy_until = due;
        }
        // On a single socket only sends are answered in any case.
        if self.own.is_none() || matches!(asked, Asked::Send(_)) {
            self.questions.push(Question { asked, reference: self.references, since, due: due + SLACK });
        }
        // That the socket is closed shows when it is read.
        timeout(Duration::from_secs(2), self.socket.send(WsMessage::text(frame.to_string()))).await.ok();
    }

    /// The next text, or why there is none.
    pub async fn next(&mut self) -> Result<String, Closed> {
        loop {
            match self.socket.next().await {
                Some(Ok(WsMessage::Text(text))) => return Ok(text.to_string()),
                Some(Ok(WsMessage::Close(frame))) => {
                    return Err(Closed::Code(frame.map(|frame| frame.code.into())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Closed::Broken),
            }
        }
    }

    /// What was asked under this name, which is answered now.
    pub fn answered(&mut self, reference: i64) -> Option<Asked> {
        let index = self.questions.iter().position(|question| question.reference == reference)?;
        let asked = self.questions.remove(index).asked;
        self.rest();
        Some(asked)
    }

    /// The client is on a channel: what follows may still fail, and then says so under the same name.
    pub fn on(&mut self, reference: i64, channel: Channel) {
        self.joined.insert(reference, channel);
    }

    /// Whether the client was told that it is on a channel.
    pub fn is_on(&self, channel: Channel) -> bool {
        self.joined.values().any(|joined| *joined == channel)
    }

    /// A channel that the client was on after all is none.
    pub fn off(&mut self, reference: i64) -> Option<Asked> {
        self.joined.remove(&reference).map(Asked::Subscribe)
    }

    /// The message with this text is answered now; says whether it was asked for.
    pub fn sent(&mut self, content: &str) -> bool {
        let before = self.questions.len();
        self.questions.retain(|question| !matches!(&question.asked, Asked::Send(text) if text == content));
        self.rest();
        self.questions.len() < before
    }

    /// The oldest message that is not answered yet.
    pub fn oldest_send(&self) -> Option<String> {
        self.questions.iter().find_map(|question| match &question.asked {
            Asked::Send(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// What the gateway has answered it no longer works on.
    fn rest(&mut self) {
        if self.questions.is_empty() && self.own.is_none() {
            self.busy_until = self.busy_until.min(Instant::now());
        }
    }

    /// The client did not read for a while: answers may have waited for it.
    pub fn napped(&mut self, nap: Duration) {
        self.busy_until += nap;
        for question in &mut self.questions {
            question.due += nap;
        }
    }

    /// Sends that should have been answered by now; each is reported once.
    pub fn overdue(&mut self, world: &Arc<World>) -> Vec<(String, Duration)> {
        let now = Instant::now();
        let gateway = self.gateway;
        let late = |question: &Question| question.due + world.stood_still(gateway, question.since, now) < now;
        let (late, rest) = std::mem::take(&mut self.questions).into_iter().partition(late);
        self.questions = rest;
        let late: Vec<Question> = late;
        let sends = late.into_iter().filter_map(|question| match question.asked {
            Asked::Send(text) => Some((text, question.since.elapsed())),
            _ => None,
        });
        sends.collect()
    }

    /// Leaves, in good order or just so.
    pub async fn leave(mut self, politely: bool) {
        if politely {
            timeout(Duration::from_secs(1), self.socket.close(None)).await.ok();
        }
    }
}

/// What became of a call over HTTP.
pub struct Called {
    /// What was asked.
    pub asked: Asked,
    /// How long it took, without what the gateway stood still.
    pub took: Duration,
    /// The answer, if one came.
    pub answer: Option<Answer>,
}

impl Called {
    /// The message that is stored.
    pub fn message(&self) -> Option<Message> {
        let answer = self.answer.as_ref().filter(|answer| [200, 201].contains(&answer.status))?;
        serde_json::from_value(answer.body.clone()).ok()
    }
}

/// Asks over HTTP.
pub async fn call(
    world: Arc<World>,
    gateway: usize,
    path: String,
    token: String,
    body: Value,
    asked: Asked,
) -> Called {
    let since = Instant::now();
    let url = format!("http://{}{path}", world.hosts[gateway]);
    let request = world.http.post(url).bearer_auth(token).json(&body);
    let answer = Answer::try_of(request).await.ok();
    let now = Instant::now();
    let took = (now - since).saturating_sub(world.stood_still(gateway, since, now));
    Called { asked, took, answer }
}
