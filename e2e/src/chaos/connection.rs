//! A client's connection.

use super::{
    frame::Channel,
    ledger::short,
    watch::{ChatWatch, InboxWatch},
    world::World,
};
use crate::Answer;
use contract::{chat::Message, log::Head};
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
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

/// Timeout of a handshake, after which the client tries another gateway.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);
/// Maximum time in which the gateway carries out one command. Later commands wait for it.
const COMMAND_LIMIT: Duration = Duration::from_millis(5_300);
/// Allowance for slow machines.
const SLACK: Duration = Duration::from_secs(8);
/// Allowance for the replay on a single-channel socket, before its commands are read.
const REPLAY: Duration = Duration::from_secs(10);

/// A command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Stores the message with this text.
    Send(String),
    /// Edits or deletes a message.
    Change(Target),
    /// Reads a page of a conversation, in a state of the page with this number.
    Load(i64, u64),
    /// Moves the marker of a conversation to a message.
    Read(i64, i64),
    /// Marks a notification as read; `None` for all.
    InboxRead(Option<i64>),
    /// Marks the notifications up to this one as seen.
    InboxSeen(i64),
    /// Subscribes to a channel.
    Subscribe(Channel),
    /// Sends a typing state.
    Typing,
}

/// A change of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub conversation: i64,
    pub message: i64,
    /// The new text; `None` deletes the message.
    pub text: Option<String>,
}

struct PendingCommand {
    command: Command,
    reference: i64,
    since: Instant,
    due: Instant,
}

/// A client's connection.
pub struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Channel of a single-channel socket; `None` for the multiplexed socket.
    pub own: Option<Channel>,
    /// Index of the gateway.
    pub gateway: usize,
    /// Checks of the joined conversations.
    pub chats: HashMap<i64, ChatWatch>,
    /// Check of the inbox, if it is joined.
    pub inbox: Option<InboxWatch>,
    /// Changes requested on a single-channel socket, where errors don't name the command.
    pub changes: Vec<Target>,
    pending: Vec<PendingCommand>,
    /// Joined channels, by the `ref` of the subscribe command.
    joined: HashMap<i64, Channel>,
    /// Time until which the gateway may be busy with the commands so far.
    busy_until: Instant,
    references: i64,
}

/// Reason for the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The handshake was refused with this HTTP status.
    Status(u16),
    /// A close frame was received.
    Code(Option<u16>),
    /// The connection ended without a close frame, or was never established.
    Broken,
}

impl Connection {
    /// Connects to a gateway.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn open(
        world: &World,
        gateway: usize,
        path: &str,
        own: Option<Channel>,
    ) -> Result<Self, Closed> {
        let url = format!("ws://{}{path}", world.hosts[gateway]);
        let socket = match timeout(HANDSHAKE_TIMEOUT, tokio_tungstenite::connect_async(url)).await {
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
            changes: Vec::new(),
            pending: Vec::new(),
            joined: HashMap::new(),
            busy_until,
            references: 0,
        })
    }

    /// Starts the check of a channel, after this entry and this change.
    pub fn watch(&mut self, channel: Channel, user: i64, after: Option<Head>, changes: i64) {
        match channel {
            Channel::Chat(id) => {
                let watch = ChatWatch::new(user, after, changes);
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

    /// Subscribes to a channel of the multiplexed socket.
    pub async fn subscribe(&mut self, channel: Channel, user: i64, after: Option<Head>, changes: i64) {
        self.watch(channel, user, after, changes);
        let mut op = json!({"op": "subscribe", "channel": channel.name()});
        if let Some(after) = after {
            op["after"] = after.id.into();
            if matches!(channel, Channel::Chat(_)) {
                op["changes"] = changes.into();
            }
        }
        self.command(Command::Subscribe(channel), op, false).await;
    }

    /// Sends a frame on a channel.
    pub async fn send(&mut self, channel: Channel, command: Command, data: Value) {
        match self.own {
            Some(_) => self.command(command, data, true).await,
            None => {
                let op = json!({"op": "send", "channel": channel.name(), "data": data});
                self.command(command, op, true).await;
            }
        }
    }

    async fn command(&mut self, command: Command, mut frame: Value, in_turn: bool) {
        self.references += 1;
        if self.own.is_none() {
            frame["ref"] = self.references.into();
        }
        let since = Instant::now();
        let mut due = since + COMMAND_LIMIT;
        if in_turn {
            due = self.busy_until.max(since) + COMMAND_LIMIT;
            self.busy_until = due;
        }
        if let (Some(_), Command::Change(target)) = (self.own, &command) {
            self.changes.push(target.clone());
        }
        // On a single-channel socket, only sends always get a reply.
        if self.own.is_none() || matches!(command, Command::Send(_)) {
            self.pending.push(PendingCommand {
                command,
                reference: self.references,
                since,
                due: due + SLACK,
            });
        }
        // A closed socket is detected by reading.
        timeout(Duration::from_secs(2), self.socket.send(WsMessage::text(frame.to_string()))).await.ok();
    }

    /// Returns the next text frame, or the reason for the end.
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

    /// Removes and returns the pending command with this `ref`.
    pub fn complete(&mut self, reference: i64) -> Option<Command> {
        let index = self.pending.iter().position(|command| command.reference == reference)?;
        let command = self.pending.remove(index).command;
        self.update_busy();
        Some(command)
    }

    /// Records that a channel is joined. An error that follows has the same `ref`.
    pub fn set_joined(&mut self, reference: i64, channel: Channel) {
        self.joined.insert(reference, channel);
    }

    /// Whether a channel is joined.
    pub fn is_joined(&self, channel: Channel) -> bool {
        self.joined.values().any(|joined| *joined == channel)
    }

    /// Removes a joined channel after an error.
    pub fn remove_joined(&mut self, reference: i64) -> Option<Command> {
        self.joined.remove(&reference).map(Command::Subscribe)
    }

    /// Removes the pending send of the message with the name of this text.
    pub fn complete_send(&mut self, content: &str) {
        let name = short(content);
        self.pending
            .retain(|command| !matches!(&command.command, Command::Send(text) if short(text) == name));
        self.update_busy();
    }

    /// Text of the oldest pending send.
    pub fn oldest_send(&self) -> Option<String> {
        self.pending.iter().find_map(|command| match &command.command {
            Command::Send(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// The gateway is no longer busy if no command is pending.
    fn update_busy(&mut self) {
        if self.pending.is_empty() && self.own.is_none() {
            self.busy_until = self.busy_until.min(Instant::now());
        }
    }

    /// Extends all deadlines, because the client has not read replies for this time.
    pub fn extend_deadlines(&mut self, pause: Duration) {
        self.busy_until += pause;
        for command in &mut self.pending {
            command.due += pause;
        }
    }

    /// Removes and returns the overdue sends.
    pub fn overdue(&mut self, world: &Arc<World>) -> Vec<(String, Duration)> {
        let now = Instant::now();
        let gateway = self.gateway;
        let late =
            |command: &PendingCommand| command.due + world.paused_for(gateway, command.since, now) < now;
        let (late, rest) = std::mem::take(&mut self.pending).into_iter().partition(late);
        self.pending = rest;
        let late: Vec<PendingCommand> = late;
        let sends = late.into_iter().filter_map(|command| match command.command {
            Command::Send(text) => Some((text, command.since.elapsed())),
            _ => None,
        });
        sends.collect()
    }

    /// Disconnects, with a close frame if `gracefully` is set.
    pub async fn leave(mut self, gracefully: bool) {
        if gracefully {
            timeout(Duration::from_secs(1), self.socket.close(None)).await.ok();
        }
    }
}

/// Result of an HTTP call.
pub struct Called {
    pub command: Command,
    /// Duration, without the pauses of the gateway.
    pub took: Duration,
    /// Reply, if there was one.
    pub answer: Option<Answer>,
}

impl Called {
    /// The stored message in the reply.
    pub fn message(&self) -> Option<Message> {
        let answer = self.answer.as_ref().filter(|answer| [200, 201].contains(&answer.status))?;
        serde_json::from_value(answer.body.clone()).ok()
    }
}

impl Called {
    /// The messages of the page in the reply, and the number of changes.
    pub fn page(&self) -> Option<(Vec<Message>, i64)> {
        let answer = self.answer.as_ref().filter(|answer| answer.status == 200)?;
        let items = serde_json::from_value(answer.body["items"].clone()).ok()?;
        Some((items, answer.body["changes"].as_i64()?))
    }
}

/// Sends a command over HTTP.
pub async fn call(
    world: Arc<World>,
    gateway: usize,
    (method, path): (Method, String),
    token: String,
    body: Value,
    command: Command,
) -> Called {
    let since = Instant::now();
    let url = format!("http://{}{path}", world.hosts[gateway]);
    let mut request = world.http.request(method, url).bearer_auth(token);
    if !body.is_null() {
        request = request.json(&body);
    }
    let answer = Answer::try_of(request).await.ok();
    let now = Instant::now();
    let took = (now - since).saturating_sub(world.paused_for(gateway, since, now));
    Called { command, took, answer }
}
