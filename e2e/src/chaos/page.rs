//! A client: a page that someone has open. It chats, comes back when it is cut off, and takes up where it was.

use super::{
    frame::Channel,
    ledger::short,
    line::{Asked, Called, Closed, Line, call},
    rules::{Fault, Rule},
    world::{Counters, Phase, Standing, World},
};
use contract::log::Head;
use fastrand::Rng;
use serde_json::json;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Frames of a channel that are kept as evidence.
const TRAIL: usize = 10;
/// Messages of one page that may be unacknowledged.
const DRAFTS: usize = 3;

/// How a page behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Habits {
    /// One socket for everything; else one channel only.
    pub multiplexed: bool,
    /// Comes back with `after`, and names its messages; else it is a page of the old guide.
    pub resumes: bool,
    /// Asks over HTTP rather than on its socket.
    pub over_http: bool,
    /// Does not read at times.
    pub naps: bool,
    /// Is closed at times, and opened anew.
    pub leaves: bool,
}

/// A channel, as the page knows it.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The last entry that it was told.
    pub told: Option<Head>,
    /// Ids of the last entries.
    pub recent: VecDeque<i64>,
    trail: VecDeque<String>,
}

/// A message that is not acknowledged yet.
pub(super) struct Draft {
    pub content: String,
    pub conversation: i64,
    pub client_id: Option<String>,
    pub tries: u32,
    /// When it is to be sent; `None` while it is under way.
    pub due: Option<Instant>,
}

/// A page that someone has open.
pub struct Page {
    pub(super) world: Arc<World>,
    pub(super) rng: Rng,
    pub(super) number: usize,
    pub(super) user: i64,
    pub(super) habits: Habits,
    pub(super) places: BTreeMap<Channel, Place>,
    pub(super) drafts: Vec<Draft>,
    /// Messages that were acknowledged lately, to be sent again for no reason.
    pub(super) done: VecDeque<Draft>,
    /// Channels of the multiplexed socket to be asked for again, and when.
    pub(super) lost: Vec<(Instant, Channel)>,
    gateway: usize,
    written: u64,
    calls: JoinSet<Called>,
    failures: u32,
}

/// How it came that a page has no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed(Closed),
    /// The page itself broke it off.
    Dropped,
    /// The page was closed, and a new one is opened.
    Left,
    Over,
}

impl Page {
    /// A page of a user, on these channels.
    pub fn new(
        world: Arc<World>,
        seed: u64,
        number: usize,
        user: i64,
        habits: Habits,
        channels: &[Channel],
    ) -> Self {
        let mut rng = Rng::with_seed(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let gateway = rng.usize(..world.hosts.len());
        Self {
            world,
            rng,
            number,
            user,
            habits,
            places: channels.iter().map(|channel| (*channel, Place::default())).collect(),
            drafts: Vec::new(),
            done: VecDeque::new(),
            lost: Vec::new(),
            gateway,
            written: 0,
            calls: JoinSet::new(),
            failures: 0,
        }
    }

    /// Lives until everything is over.
    pub async fn run(mut self) {
        self.renew();
        loop {
            let end = match self.open().await {
                Ok(line) => self.talk(line).await,
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
            Counters::one(&self.world.counters.reconnects);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.world.until(Phase::Over) => return,
            }
        }
    }

    /// A new page knows nothing.
    fn renew(&mut self) {
        for (channel, place) in &mut self.places {
            let told = self.habits.resumes.then(Head::default);
            place.told = told;
            place.recent.clear();
            if self.habits.resumes && !matches!(channel, Channel::Typing(_)) {
                self.world.stands(self.number, *channel, Some(Standing { told, user: self.user }));
            }
        }
    }

    /// The connection is gone.
    fn unlink(&mut self) {
        self.lost.clear();
        if !self.habits.resumes {
            for (channel, place) in &mut self.places {
                place.told = None;
                self.world.stands(self.number, *channel, None);
            }
            // A page of the old guide can't send again what may have been stored.
            self.drafts.retain(|draft| draft.due.is_some());
        }
        let now = Instant::now();
        for draft in &mut self.drafts {
            draft.due.get_or_insert(now);
        }
    }

    /// How long to wait before connecting again, and whether that was a proper end at all.
    fn after(&mut self, closed: Closed) -> Duration {
        let accused = match closed {
            Closed::Code(Some(1000 | 1012 | 1013)) | Closed::Code(None) | Closed::Broken => false,
            Closed::Status(status) => ![429, 503].contains(&status),
            Closed::Code(Some(_)) => true,
        };
        if accused {
            let what = format!("a socket of user {} was closed or refused with {closed:?}", self.user);
            self.accuse(None, Fault::new(Rule::Refused, what));
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

    async fn open(&mut self) -> Result<Line, Closed> {
        let token = crate::token(self.user);
        let channels: Vec<Channel> = self.places.keys().copied().collect();
        if self.habits.multiplexed {
            let path = format!("/ws/?token={token}");
            let mut line = Line::open(&self.world, self.gateway, &path, None).await?;
            for channel in channels {
                self.subscribe(&mut line, channel).await;
            }
            return Ok(line);
        }
        let channel = channels[0];
        let told = self.places[&channel].told;
        let after = told.map(|told| format!("after={}&", told.id)).unwrap_or_default();
        let path = format!("/ws/{}/?{after}token={token}", channel.name());
        let mut line = Line::open(&self.world, self.gateway, &path, Some(channel)).await?;
        line.watch(channel, self.user, told);
        self.trail(channel, || format!("-- opened with after={:?}", told.map(|told| told.id)));
        self.count_resume(told);
        Ok(line)
    }

    pub(super) async fn subscribe(&mut self, line: &mut Line, channel: Channel) {
        let after = match channel {
            Channel::Typing(_) => None,
            _ => self.places.get(&channel).and_then(|place| place.told),
        };
        self.trail(channel, || format!("-- subscribed with after={:?}", after.map(|after| after.id)));
        self.count_resume(after);
        line.subscribe(channel, self.user, after).await;
    }

    fn count_resume(&self, told: Option<Head>) {
        if told.is_some_and(|told| told.id > 0) {
            Counters::one(&self.world.counters.resumes);
        }
    }

    async fn talk(&mut self, mut line: Line) -> End {
        self.failures = 0;
        let over = self.world.clone();
        let mut act_at = Instant::now() + self.pause(0.0, 0.5);
        let mut nap: Option<(Instant, Instant)> = None;
        loop {
            let reads = nap.is_none();
            tokio::select! {
                heard = line.next(), if reads => match heard {
                    Ok(text) => self.hear(&mut line, &text),
                    Err(closed) => return End::Closed(closed),
                },
                Some(called) = self.calls.join_next(), if !self.calls.is_empty() => {
                    self.called(&called.expect("a call does not panic"));
                }
                () = tokio::time::sleep_until(act_at.into()) => {
                    if let Some((began, _)) = nap.filter(|(_, until)| *until <= Instant::now()) {
                        line.napped(began.elapsed());
                        nap = None;
                    }
                    if nap.is_none() {
                        self.complain(&mut line);
                        let asleep = self.act(&mut line).await;
                        match asleep {
                            Act::Go => {}
                            Act::Nap(length) => nap = Some((Instant::now(), Instant::now() + length)),
                            Act::Drop => return self.drop_line(line, End::Dropped).await,
                            Act::Leave => return self.drop_line(line, End::Left).await,
                        }
                    }
                    act_at = Instant::now() + self.pause(0.1, 0.7);
                }
                () = over.until(Phase::Over) => {
                    line.leave(true).await;
                    return End::Over;
                }
            }
        }
    }

    async fn drop_line(&mut self, line: Line, end: End) -> End {
        let politely = self.rng.bool();
        line.leave(politely).await;
        end
    }

    fn complain(&self, line: &mut Line) {
        for (content, took) in line.overdue(&self.world) {
            let what = format!(
                "no answer to {} for {:.1} s at gateway {}, on a socket that is open",
                short(&content),
                took.as_secs_f32(),
                line.gateway + 1
            );
            self.accuse(
                self.drafts
                    .iter()
                    .find(|draft| draft.content == content)
                    .map(|draft| Channel::Chat(draft.conversation)),
                Fault::new(Rule::Answer, what),
            );
        }
    }

    /// Does one thing.
    async fn act(&mut self, line: &mut Line) -> Act {
        let now = Instant::now();
        let due: Vec<Channel> =
            self.lost.extract_if(.., |(at, _)| *at <= now).map(|(_, channel)| channel).collect();
        for channel in due {
            self.subscribe(line, channel).await;
        }
        self.send_drafts(line).await;
        if self.world.phase() != Phase::Chatting {
            return Act::Go;
        }
        match self.rng.u8(..100) {
            0..60 => self.write(),
            60..72 => self.read(line).await,
            72..78 => self.type_or_repeat(line).await,
            78..80 => return Act::Drop,
            80..83 if self.habits.naps => return Act::Nap(self.pause(2.0, 12.0)),
            83..84 if self.habits.leaves => return Act::Leave,
            _ => {}
        }
        Act::Go
    }

    fn conversations(&self) -> Vec<i64> {
        let chats = self.places.keys().filter_map(|channel| match channel {
            Channel::Chat(id) => Some(*id),
            _ => None,
        });
        chats.collect()
    }

    /// Has something to say.
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
        let client_id = self.habits.resumes.then_some(name);
        Counters::one(&self.world.counters.messages);
        self.world.ledger().sends(&content, conversation, self.user, client_id.as_deref());
        self.drafts.push(Draft { content, conversation, client_id, tries: 0, due: Some(Instant::now()) });
    }

    async fn send_drafts(&mut self, line: &mut Line) {
        let now = Instant::now();
        for index in 0..self.drafts.len() {
            if self.drafts[index].due.is_some_and(|due| due <= now) {
                let draft = &mut self.drafts[index];
                draft.due = None;
                draft.tries += 1;
                let again = draft.tries > 1;
                if again {
                    Counters::one(&self.world.counters.resent);
                }
                // One that was sent before is at times sent in another way, to another gateway.
                let over_http =
                    draft.client_id.is_some() && (self.habits.over_http || again && self.rng.u8(..4) == 0);
                self.send(line, index, over_http).await;
            }
        }
    }

    async fn send(&mut self, line: &mut Line, index: usize, over_http: bool) {
        let Draft { content, conversation, client_id, .. } = &self.drafts[index];
        let (asked, channel) = (Asked::Send(content.clone()), Channel::Chat(*conversation));
        let mut data = json!({"message": content});
        if let Some(client_id) = client_id {
            data["client_id"] = client_id.as_str().into();
        }
        if over_http {
            let path = format!("/api/conversations/{conversation}/messages");
            self.call(path, data, asked);
            return;
        }
        if let (Some(client_id), Some(watch)) = (client_id, line.chats.get_mut(conversation)) {
            watch.sends(client_id);
        }
        let name = short(content).to_owned();
        self.trail(channel, || format!("-> sends {name}"));
        line.say(channel, asked, data).await;
    }

    fn call(&mut self, path: String, body: serde_json::Value, asked: Asked) {
        let gateway = self.rng.usize(..self.world.hosts.len());
        let token = crate::token(self.user);
        self.calls.spawn(call(self.world.clone(), gateway, path, token, body, asked));
    }

    async fn read(&mut self, line: &mut Line) {
        let places: Vec<Channel> = self.places.keys().copied().collect();
        let Some(channel) = self.rng.choice(places) else { return };
        let recent = &self.places[&channel].recent;
        // Mostly the last, at times one before it.
        let back = if self.rng.u8(..4) == 0 { self.rng.usize(..8) } else { 0 };
        let Some(id) = recent.iter().rev().nth(back).or(recent.front()).copied() else { return };
        Counters::one(&self.world.counters.reads);
        match channel {
            Channel::Chat(conversation) if self.habits.over_http => {
                let path = format!("/api/conversations/{conversation}/read");
                self.call(path, json!({"message_id": id}), Asked::Read(conversation, id));
            }
            Channel::Chat(conversation) => {
                let data = json!({"type": "read", "message_id": id});
                line.say(channel, Asked::Read(conversation, id), data).await;
            }
            Channel::Inbox if self.rng.u8(..4) == 0 => {
                line.say(channel, Asked::InboxRead(None), json!({"type": "read_all"})).await;
            }
            Channel::Inbox => {
                let data = json!({"type": "read", "notification_id": id});
                line.say(channel, Asked::InboxRead(Some(id)), data).await;
            }
            Channel::Typing(_) => {}
        }
    }

    /// Types, or sends something again that was stored long ago.
    async fn type_or_repeat(&mut self, line: &mut Line) {
        let typing = self.places.keys().find(|channel| matches!(channel, Channel::Typing(_))).copied();
        if let Some(channel) = typing.filter(|channel| line.is_on(*channel) && self.rng.bool()) {
            let is_typing = self.rng.bool();
            line.say(channel, Asked::Typing, json!({"is_typing": is_typing})).await;
        } else if let Some(draft) = self.done.pop_front() {
            self.drafts.push(Draft { due: Some(Instant::now()), ..draft });
        }
    }

    /// Keeps a line of what happened on a channel.
    pub(super) fn trail(&mut self, channel: Channel, line: impl FnOnce() -> String) {
        if let Some(place) = self.places.get_mut(&channel) {
            if place.trail.len() == TRAIL {
                place.trail.pop_front();
            }
            let text: String = line().chars().take(400).collect();
            place.trail.push_back(format!("{:>8.3} {text}", self.world.began.elapsed().as_secs_f64()));
        }
    }

    /// Notes what is wrong, with what was told on the channel before it.
    pub(super) fn accuse(&self, channel: Option<Channel>, fault: Fault) {
        let mut evidence = vec![format!("page {} of user {}, {:?}", self.number, self.user, self.habits)];
        if let Some(channel) = channel {
            evidence.push(format!("on {}:", channel.name()));
            evidence
                .extend(self.places.get(&channel).into_iter().flat_map(|place| place.trail.iter().cloned()));
        }
        self.world.violation(fault.with(evidence));
    }
}

/// What a page does next.
enum Act {
    Go,
    Nap(Duration),
    Drop,
    Leave,
}
