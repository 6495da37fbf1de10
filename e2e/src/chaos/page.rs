//! A client: a page in a browser. It chats, reconnects after a disconnect, and resumes where it was.

use super::{
    connection::{Called, Closed, Command, Connection, Target, call},
    frame::Channel,
    ledger::short,
    rules::{Fault, Rule},
    view::{View, Views},
    world::{Counters, Phase, Position, World},
};
use contract::{chat::Message, log::Head};
use fastrand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Number of lines of a channel's history that are kept as evidence.
const TRAIL: usize = 10;
/// Maximum number of unacknowledged messages of a page.
const DRAFTS: usize = 3;
/// Time after which a change on a single-channel socket is requested again, because only a refusal has an answer there.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Behaviour of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Behaviour {
    /// Uses one socket for all channels; otherwise it has a single channel.
    pub multiplexed: bool,
    /// Resumes with `after`, and sends a `client_id`; otherwise it is a page of the old guide.
    pub resumes: bool,
    /// Edits and deletes messages, and resumes with `changes`; otherwise it is a page of an earlier release. Implies
    /// `resumes`.
    pub changes: bool,
    /// Sends commands over HTTP instead of its socket.
    pub over_http: bool,
    /// Pauses reading from time to time.
    pub pauses: bool,
    /// Is closed from time to time, and opened again without its state.
    pub leaves: bool,
}

/// State of a channel in the page.
#[derive(Debug, Default)]
pub(super) struct ChannelState {
    /// Last received entry.
    pub last: Option<Head>,
    /// Number of the last change that it knows; `None` if the server has not told it yet.
    pub changes: Option<i64>,
    /// Ids of the last entries.
    pub recent: VecDeque<i64>,
    /// Ids and names of the user's last messages.
    pub own: VecDeque<(i64, String)>,
    trail: VecDeque<String>,
}

/// A message that is not acknowledged yet.
pub(super) struct Draft {
    pub content: String,
    pub conversation: i64,
    pub client_id: Option<String>,
    pub tries: u32,
    /// Time of the next attempt; `None` while one is in flight.
    pub due: Option<Instant>,
}

/// A change that is not acknowledged yet.
pub(super) struct ChangeDraft {
    pub target: Target,
    pub tries: u32,
    /// Time of the next attempt; `None` while one is in flight and has an answer.
    pub due: Option<Instant>,
}

/// An open page.
pub struct Page {
    pub(super) world: Arc<World>,
    pub(super) rng: Rng,
    pub(super) number: usize,
    pub(super) user: i64,
    pub(super) behaviour: Behaviour,
    pub(super) channels: BTreeMap<Channel, ChannelState>,
    pub(super) drafts: Vec<Draft>,
    /// The change in progress.
    pub(super) change: Option<ChangeDraft>,
    /// Number of times that the page was opened without its state.
    pub(super) renewed: u64,
    /// Recently acknowledged messages, some of which are sent again needlessly.
    pub(super) done: VecDeque<Draft>,
    /// Channels of the multiplexed socket to subscribe to again, and when.
    pub(super) lost: Vec<(Instant, Channel)>,
    gateway: usize,
    written: u64,
    calls: JoinSet<Called>,
    failures: u32,
}

/// Reason for the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed(Closed),
    /// The page broke the connection.
    Dropped,
    /// The page was closed, and a new one is opened.
    Left,
    Over,
}

impl Page {
    /// Creates a page of a user with these channels.
    pub fn new(
        world: Arc<World>,
        seed: u64,
        number: usize,
        user: i64,
        behaviour: Behaviour,
        channels: &[Channel],
    ) -> Self {
        let mut rng = Rng::with_seed(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let gateway = rng.usize(..world.hosts.len());
        Self {
            world,
            rng,
            number,
            user,
            behaviour,
            channels: channels.iter().map(|channel| (*channel, ChannelState::default())).collect(),
            drafts: Vec::new(),
            change: None,
            renewed: 0,
            done: VecDeque::new(),
            lost: Vec::new(),
            gateway,
            written: 0,
            calls: JoinSet::new(),
            failures: 0,
        }
    }

    /// Runs the page until the end of the run.
    pub async fn run(mut self) {
        self.renew();
        loop {
            let end = match self.open().await {
                Ok(connection) => self.use_connection(connection).await,
                Err(closed) => End::Closed(closed),
            };
            self.unlink();
            let pause = match end {
                End::Over => return,
                End::Left => {
                    self.renew();
                    self.pause(0.1, 2.0)
                }
                End::Dropped => self.pause(0.0, 1.0),
                End::Closed(closed) => self.after(closed),
            };
            Counters::increment(&self.world.counters.reconnects);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.world.until(Phase::Over) => return,
            }
        }
    }

    /// Resets the state, as in a newly opened page.
    fn renew(&mut self) {
        self.renewed += 1;
        for (channel, state) in &mut self.channels {
            let last = self.behaviour.resumes.then(Head::default);
            state.last = last;
            state.changes = None;
            state.recent.clear();
            state.own.clear();
            if let Channel::Chat(id) = channel {
                self.world.views().insert((self.number, *id), Views::default());
            }
            if self.behaviour.resumes && !matches!(channel, Channel::Typing(_)) {
                self.world.set_position(self.number, *channel, Some(Position { last, user: self.user }));
            }
        }
    }

    /// Resets the state of the lost connection.
    fn unlink(&mut self) {
        self.lost.clear();
        for id in self.conversations() {
            self.with_views(id, |views| views.socket = View::default());
        }
        if !self.behaviour.resumes {
            for (channel, state) in &mut self.channels {
                state.last = None;
                self.world.set_position(self.number, *channel, None);
            }
            // A page of the old guide can't repeat a message that may have been stored.
            self.drafts.retain(|draft| draft.due.is_some());
        }
        let now = Instant::now();
        for draft in &mut self.drafts {
            draft.due.get_or_insert(now);
        }
        if let Some(change) = &mut self.change {
            change.due.get_or_insert(now);
        }
    }

    pub(super) fn with_views(&self, conversation: i64, change: impl FnOnce(&mut Views)) {
        change(self.world.views().entry((self.number, conversation)).or_default());
    }

    /// Returns the pause before the next connection. Records a violation if the connection should not have ended this
    /// way.
    fn after(&mut self, closed: Closed) -> Duration {
        let is_violation = match closed {
            Closed::Code(Some(1000 | 1012 | 1013)) | Closed::Code(None) | Closed::Broken => false,
            Closed::Status(status) => ![429, 503].contains(&status),
            Closed::Code(Some(_)) => true,
        };
        if is_violation {
            let what = format!("a socket of user {} was closed or refused with {closed:?}", self.user);
            self.report_fault(None, Fault::new(Rule::Refused, what));
        }
        let restart = closed == Closed::Code(Some(1012));
        if restart || self.failures > 0 || self.rng.u8(..4) == 0 {
            self.gateway = self.rng.usize(..self.world.hosts.len());
        }
        if restart {
            return self.pause(0.05, 1.5);
        }
        self.failures += 1;
        let most = 0.2 * f64::from(1 << self.failures.min(4));
        self.pause(most / 4.0, most)
    }

    fn pause(&mut self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(least + self.rng.f64() * (most - least))
    }

    async fn open(&mut self) -> Result<Connection, Closed> {
        let token = crate::token(self.user);
        let channels: Vec<Channel> = self.channels.keys().copied().collect();
        if self.behaviour.multiplexed {
            let path = format!("/ws/?token={token}");
            let mut connection = Connection::open(&self.world, self.gateway, &path, None).await?;
            for channel in channels {
                self.subscribe(&mut connection, channel).await;
            }
            return Ok(connection);
        }
        let channel = channels[0];
        if let Channel::Chat(id) = channel
            && self.behaviour.over_http
            && self.channels[&channel].last == Some(Head::default())
        {
            self.load_first(id).await;
        }
        let (last, changes) = (self.channels[&channel].last, self.channels[&channel].changes.unwrap_or(0));
        let mut after = last.map(|last| format!("after={}&", last.id)).unwrap_or_default();
        if self.behaviour.changes && matches!(channel, Channel::Chat(_)) {
            write!(after, "changes={changes}&").expect("a string accepts everything");
        }
        let path = format!("/ws/{}/?{after}token={token}", channel.name());
        let mut connection = Connection::open(&self.world, self.gateway, &path, Some(channel)).await?;
        connection.watch(channel, self.user, last, changes);
        self.trail(channel, || {
            format!("-- opened with after={:?} changes={changes}", last.map(|last| last.id))
        });
        self.count_resume(last);
        Ok(connection)
    }

    /// Starts with the newest page of a conversation.
    async fn load_first(&mut self, id: i64) {
        let path = format!("/api/conversations/{id}/messages?limit=20");
        let token = crate::token(self.user);
        let (get, command) = ((Method::GET, path), Command::Load(id, self.renewed));
        let called = call(self.world.clone(), self.gateway, get, token, Value::Null, command).await;
        let Some((items, changes)) = called.page() else { return };
        let newest = items.first().map(|item| Head { seq: item.seq, id: item.message_id.get() });
        let channel = Channel::Chat(id);
        if let Some(newest) = newest {
            self.move_to(channel, Some(newest), newest.id);
            if let Some(state) = self.channels.get_mut(&channel) {
                state.changes = Some(changes);
            }
        }
        self.show_items(id, &items);
    }

    /// Shows the items of a page.
    pub(super) fn show_items(&self, id: i64, items: &[Message]) {
        self.with_views(id, |views| items.iter().for_each(|item| views.page.show(item)));
        for item in items {
            let noted = self.world.deliveries().message(item);
            if let Err(fault) = noted {
                self.report_fault(Some(Channel::Chat(id)), fault);
            }
        }
    }

    pub(super) async fn subscribe(&mut self, connection: &mut Connection, channel: Channel) {
        let after = match channel {
            Channel::Typing(_) => None,
            _ => self.channels.get(&channel).and_then(|state| state.last),
        };
        let changes = self.channels.get(&channel).and_then(|state| state.changes).unwrap_or(0);
        self.trail(channel, || {
            format!("-- subscribed with after={:?} changes={changes}", after.map(|after| after.id))
        });
        if let Channel::Chat(id) = channel {
            self.with_views(id, |views| views.socket = View::default());
        }
        self.count_resume(after);
        connection.subscribe(channel, self.user, after, changes).await;
    }

    fn count_resume(&self, last: Option<Head>) {
        if last.is_some_and(|last| last.id > 0) {
            Counters::increment(&self.world.counters.resumes);
        }
    }

    async fn use_connection(&mut self, mut connection: Connection) -> End {
        self.failures = 0;
        let world = self.world.clone();
        let mut act_at = Instant::now() + self.pause(0.0, 0.5);
        let mut pause: Option<(Instant, Instant)> = None;
        loop {
            let is_reading = pause.is_none();
            tokio::select! {
                received = connection.next(), if is_reading => match received {
                    Ok(text) => self.on_frame(&mut connection, &text),
                    Err(closed) => return End::Closed(closed),
                },
                Some(called) = self.calls.join_next(), if !self.calls.is_empty() => {
                    self.on_http_reply(&called.expect("an HTTP call doesn't panic"));
                }
                () = tokio::time::sleep_until(act_at.into()) => {
                    if let Some((began, _)) = pause.filter(|(_, until)| *until <= Instant::now()) {
                        connection.extend_deadlines(began.elapsed());
                        pause = None;
                    }
                    if pause.is_none() {
                        self.report_overdue(&mut connection);
                        let action = self.act(&mut connection).await;
                        match action {
                            Act::Go => {}
                            Act::Pause(length) => pause = Some((Instant::now(), Instant::now() + length)),
                            Act::Drop => return self.disconnect(connection, End::Dropped).await,
                            Act::Leave => return self.disconnect(connection, End::Left).await,
                        }
                    }
                    act_at = Instant::now() + self.pause(0.1, 0.7);
                }
                () = world.until(Phase::Over) => {
                    connection.leave(true).await;
                    return End::Over;
                }
            }
        }
    }

    async fn disconnect(&mut self, connection: Connection, end: End) -> End {
        let gracefully = self.rng.bool();
        connection.leave(gracefully).await;
        end
    }

    fn report_overdue(&self, connection: &mut Connection) {
        for (content, took) in connection.overdue(&self.world) {
            let what = format!(
                "no reply to {} for {:.1} s at gateway {}, on an open socket",
                short(&content),
                took.as_secs_f32(),
                connection.gateway + 1
            );
            self.report_fault(
                self.drafts
                    .iter()
                    .find(|draft| draft.content == content)
                    .map(|draft| Channel::Chat(draft.conversation)),
                Fault::new(Rule::Answer, what),
            );
        }
    }

    /// Performs one random action.
    async fn act(&mut self, connection: &mut Connection) -> Act {
        let now = Instant::now();
        let due: Vec<Channel> =
            self.lost.extract_if(.., |(at, _)| *at <= now).map(|(_, channel)| channel).collect();
        for channel in due {
            self.subscribe(connection, channel).await;
        }
        self.send_drafts(connection).await;
        self.send_change(connection).await;
        if self.world.phase() != Phase::Chatting {
            return Act::Go;
        }
        match self.rng.u8(..100) {
            0..44 => self.write(),
            44..60 => self.begin_change(),
            60..72 => self.read(connection).await,
            72..78 => self.type_or_repeat(connection).await,
            78..80 => return Act::Drop,
            80..83 if self.behaviour.pauses => return Act::Pause(self.pause(2.0, 12.0)),
            83..84 if self.behaviour.leaves => return Act::Leave,
            84..87 => self.load_older(),
            _ => {}
        }
        Act::Go
    }

    fn conversations(&self) -> Vec<i64> {
        let chats = self.channels.keys().filter_map(|channel| match channel {
            Channel::Chat(id) => Some(*id),
            _ => None,
        });
        chats.collect()
    }

    /// Writes a new message.
    fn write(&mut self) {
        let chats = self.conversations();
        let Some(conversation) = self.rng.choice(&chats).copied() else { return };
        if self.drafts.len() >= DRAFTS {
            return;
        }
        self.written += 1;
        let name = format!("{}.{}", self.number, self.written);
        let words = ["bonjour", "héhé", "数", "🙂", "\"x\"", "a\\b", "l'été", "\n"];
        let length = if self.rng.u8(..20) == 0 { 200 } else { 6 };
        let text: Vec<&str> = (0..self.rng.usize(..length)).filter_map(|_| self.rng.choice(words)).collect();
        let content = format!("{name} {}.", text.join(" "));
        let client_id = self.behaviour.resumes.then_some(name);
        Counters::increment(&self.world.counters.messages);
        self.world.ledger().sends(&content, conversation, self.user, client_id.as_deref());
        self.drafts.push(Draft { content, conversation, client_id, tries: 0, due: Some(Instant::now()) });
    }

    async fn send_drafts(&mut self, connection: &mut Connection) {
        let now = Instant::now();
        for index in 0..self.drafts.len() {
            if self.drafts[index].due.is_some_and(|due| due <= now) {
                let draft = &mut self.drafts[index];
                draft.due = None;
                draft.tries += 1;
                let again = draft.tries > 1;
                if again {
                    Counters::increment(&self.world.counters.resent);
                }
                // A repeated message sometimes goes over HTTP, to another gateway.
                let over_http =
                    draft.client_id.is_some() && (self.behaviour.over_http || again && self.rng.u8(..4) == 0);
                self.send(connection, index, over_http).await;
            }
        }
    }

    async fn send(&mut self, connection: &mut Connection, index: usize, over_http: bool) {
        let Draft { content, conversation, client_id, .. } = &self.drafts[index];
        let (command, channel) = (Command::Send(content.clone()), Channel::Chat(*conversation));
        let mut data = json!({"message": content});
        if let Some(client_id) = client_id {
            data["client_id"] = client_id.as_str().into();
        }
        if over_http {
            let path = format!("/api/conversations/{conversation}/messages");
            self.call((Method::POST, path), data, command);
            return;
        }
        if let (Some(client_id), Some(watch)) = (client_id, connection.chats.get_mut(conversation)) {
            watch.sends(client_id);
        }
        let name = short(content).to_owned();
        self.trail(channel, || format!("-> sent {name}"));
        connection.send(channel, command, data).await;
    }

    fn call(&mut self, request: (Method, String), body: Value, command: Command) {
        let gateway = self.rng.usize(..self.world.hosts.len());
        let token = crate::token(self.user);
        self.calls.spawn(call(self.world.clone(), gateway, request, token, body, command));
    }

    /// Chooses one of the user's last messages to edit or delete.
    fn begin_change(&mut self) {
        if self.change.is_some() || !self.behaviour.changes {
            return;
        }
        let Some(conversation) = self.rng.choice(self.conversations()) else { return };
        let Some(state) = self.channels.get(&Channel::Chat(conversation)) else { return };
        let Some((message, name)) = self.rng.choice(&state.own).cloned() else { return };
        let text = (self.rng.u8(..3) > 0).then(|| {
            self.written += 1;
            format!("{name} édité par {}.{}.", self.number, self.written)
        });
        match &text {
            Some(text) => self.world.ledger().edits(conversation, message, text, None),
            None => self.world.ledger().deletes(conversation, message),
        }
        self.world.ledger().open_changes += 1;
        Counters::increment(&self.world.counters.changes);
        let target = Target { conversation, message, text };
        self.change = Some(ChangeDraft { target, tries: 0, due: Some(Instant::now()) });
    }

    async fn send_change(&mut self, connection: &mut Connection) {
        let Some(change) =
            self.change.as_mut().filter(|change| change.due.is_some_and(|due| due <= Instant::now()))
        else {
            return;
        };
        change.tries += 1;
        let again = change.tries > 1;
        let target = change.target.clone();
        let Target { conversation, message, text } = &target;
        let channel = Channel::Chat(*conversation);
        let is_single = connection.own.is_some();
        // On a single-channel socket, a repeat of a change that was made has no answer.
        let over_http = self.behaviour.over_http || again && (is_single || self.rng.u8(..4) == 0);
        change.due = (is_single && !over_http).then(|| Instant::now() + CHANGE_TIMEOUT);
        self.trail(channel, || format!("-> change {message} to {text:?}, over HTTP: {over_http}"));
        let command = Command::Change(target.clone());
        if over_http {
            let path = format!("/api/conversations/{conversation}/messages/{message}");
            match text {
                Some(text) => self.call((Method::PATCH, path), json!({"message": text}), command),
                None => self.call((Method::DELETE, path), Value::Null, command),
            }
            return;
        }
        let data = match text {
            Some(text) => json!({"type": "edit", "message_id": message, "message": text}),
            None => json!({"type": "delete", "message_id": message}),
        };
        connection.send(channel, command, data).await;
    }

    /// Loads a page of earlier messages, at any time and from any gateway. It may show changes that the socket has not
    /// received yet.
    fn load_older(&mut self) {
        let Some(conversation) = self.rng.choice(self.conversations()) else { return };
        let Some(state) = self.channels.get(&Channel::Chat(conversation)) else { return };
        let Some(before) = state.last.filter(|last| self.behaviour.changes && last.id > 0) else { return };
        let path = format!("/api/conversations/{conversation}/messages?limit=30&before={}", before.id);
        self.call((Method::GET, path), Value::Null, Command::Load(conversation, self.renewed));
    }

    async fn read(&mut self, connection: &mut Connection) {
        let channels: Vec<Channel> = self.channels.keys().copied().collect();
        let Some(channel) = self.rng.choice(channels) else { return };
        let recent = &self.channels[&channel].recent;
        // Usually the last entry, sometimes an earlier one.
        let back = if self.rng.u8(..4) == 0 { self.rng.usize(..8) } else { 0 };
        let Some(id) = recent.iter().rev().nth(back).or(recent.front()).copied() else { return };
        Counters::increment(&self.world.counters.reads);
        match channel {
            Channel::Chat(conversation) if self.behaviour.over_http => {
                let path = format!("/api/conversations/{conversation}/read");
                self.call((Method::POST, path), json!({"message_id": id}), Command::Read(conversation, id));
            }
            Channel::Chat(conversation) => {
                let data = json!({"type": "read", "message_id": id});
                connection.send(channel, Command::Read(conversation, id), data).await;
            }
            Channel::Inbox if self.world.is_new && self.rng.u8(..3) == 0 => {
                let data = json!({"type": "seen", "notification_id": id});
                connection.send(channel, Command::InboxSeen(id), data).await;
            }
            Channel::Inbox if self.rng.u8(..4) == 0 => {
                connection.send(channel, Command::InboxRead(None), json!({"type": "read_all"})).await;
            }
            Channel::Inbox => {
                let data = json!({"type": "read", "notification_id": id});
                connection.send(channel, Command::InboxRead(Some(id)), data).await;
            }
            Channel::Typing(_) => {}
        }
    }

    /// Sends a typing state, or repeats a message that was stored long ago.
    async fn type_or_repeat(&mut self, connection: &mut Connection) {
        let typing = self.channels.keys().find(|channel| matches!(channel, Channel::Typing(_))).copied();
        if let Some(channel) = typing.filter(|channel| connection.is_joined(*channel) && self.rng.bool()) {
            let is_typing = self.rng.bool();
            connection.send(channel, Command::Typing, json!({"is_typing": is_typing})).await;
        } else if let Some(draft) = self.done.pop_front() {
            self.drafts.push(Draft { due: Some(Instant::now()), ..draft });
        }
    }

    /// Appends a line to the history of a channel.
    pub(super) fn trail(&mut self, channel: Channel, text: impl FnOnce() -> String) {
        if let Some(state) = self.channels.get_mut(&channel) {
            if state.trail.len() == TRAIL {
                state.trail.pop_front();
            }
            let text: String = text().chars().take(400).collect();
            state.trail.push_back(format!("{:>8.3} {text}", self.world.began.elapsed().as_secs_f64()));
        }
    }

    /// Records a violation, with the history of the channel as evidence.
    pub(super) fn report_fault(&self, channel: Option<Channel>, fault: Fault) {
        let mut evidence = vec![format!("page {} of user {}, {:?}", self.number, self.user, self.behaviour)];
        if let Some(channel) = channel {
            evidence.push(format!("on {}:", channel.name()));
            evidence.extend(
                self.channels.get(&channel).into_iter().flat_map(|state| state.trail.iter().cloned()),
            );
        }
        self.world.violation(fault.with(evidence));
    }
}

/// Next action of a page.
enum Act {
    Go,
    Pause(Duration),
    Drop,
    Leave,
}
