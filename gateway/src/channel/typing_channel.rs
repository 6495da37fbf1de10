//! Typing channels: who types now, as far as this gateway has heard.

use crate::{
    channel::{encode, maintenance::Maintenance, ordering::View},
    nats::{connection::Mark, protocol::Message},
    topic::Topic,
};
use contract::{
    ConversationId, Timestamp, UserId, limits,
    typing::{self, TypingBlock, TypingEvent, WhoTypes},
};
use service::Bus;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// When a typist of whom nothing more is heard is taken to have stopped: after every replica of typing-service would
/// have said so.
const FORGET: Duration = limits::TYPING_TTL.saturating_add(Duration::from_secs(4));
/// How long who joins waits to be told who types.
const ANSWER: Duration = Duration::from_secs(1);

/// A socket on a typing channel.
type MemberId = u64;

/// Who types in a conversation, and the sockets that are told.
pub struct TypingChannel {
    conversation: ConversationId,
    maintenance: Arc<Maintenance>,
    subscribed: Mark,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    typing: HashMap<UserId, (TypingEvent, Instant)>,
    members: HashMap<MemberId, View>,
    next_member: MemberId,
    /// Who is not shown what the other types.
    blocking: HashSet<UserId>,
    /// A task waits for the time at which a typist is taken to have stopped.
    is_watched: bool,
    /// It is to be looked at again, whether anyone is here.
    lingers: bool,
}

/// A socket's place on a typing channel; dropping it takes the socket off.
pub struct TypingMembership {
    typists: Arc<TypingChannel>,
    user_id: UserId,
    username: String,
    id: MemberId,
    /// When the user's last `true` was passed on, unless a `false` followed.
    pub told: Option<Instant>,
}

impl TypingChannel {
    /// Nobody. The subscription is on its way.
    pub fn new(conversation: ConversationId, maintenance: Arc<Maintenance>) -> Self {
        let subscribed = maintenance.events.subscribe(Topic::Typing(conversation));
        maintenance.linger(Topic::Typing(conversation));
        let state = State { lingers: true, ..State::default() };
        Self { conversation, maintenance, subscribed, state: Mutex::new(state) }
    }

    /// When NATS has passed this, what is asked of a service is answered later than the subscription begins.
    pub const fn subscribed(&self) -> Mark {
        self.subscribed
    }

    /// Puts a socket on the channel, and tells it who types.
    pub async fn join(
        self: Arc<Self>,
        bus: &Bus,
        view: View,
        username: String,
        blocks: bool,
    ) -> TypingMembership {
        // Soft state: without an answer the next event tells.
        let ask = WhoTypes { conversation_id: self.conversation };
        let who = bus.request(&ask, ANSWER).await.unwrap_or_default();
        let mut state = self.state();
        for event in who {
            state.event(event);
        }
        state.next_member += 1;
        let (id, user_id) = (state.next_member, view.user_id);
        state.set_block(user_id, blocks);
        for (event, _) in state.typing.values().filter(|(event, _)| state.is_shown(&view, event)) {
            view.outbox.push(view.wrap(encode::typing(event)));
        }
        state.members.insert(id, view);
        self.changed(state);
        TypingMembership { typists: self, user_id, username, id, told: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Whether nobody is here; who is asked has the channel looked at again. Otherwise whoever leaves last does.
    pub fn lingers(&self) -> bool {
        let mut state = self.state();
        state.lingers = state.members.is_empty();
        state.lingers
    }

    /// TypingChannel of whom nothing more is heard are taken to have stopped, in time.
    fn changed(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if !state.is_watched && !state.typing.is_empty() {
            state.is_watched = true;
            drop(state);
            self.maintenance.spawn(self.clone().watch());
        }
    }

    async fn watch(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state();
                state.end_forgotten(Instant::now());
                state.is_watched = !state.typing.is_empty();
                state.next_end()
            };
            let Some(next) = next else { return };
            sleep_until(next).await;
        }
    }

    /// Something was published.
    pub fn take(self: &Arc<Self>, message: &Message<'_>) {
        let mut state = self.state();
        let taken = if message.subject.starts_with(TypingBlock::PREFIX) {
            serde_json::from_slice(message.payload)
                .map(|block: TypingBlock| state.set_block(block.user_id, block.blocked))
        } else {
            serde_json::from_slice(message.payload).map(|event| state.event(event))
        };
        self.changed(state);
        if let Err(error) = taken {
            metrics::counter!("gateway_undecodable_total").increment(1);
            tracing::error!(%error, "a typing event can't be read");
        }
    }
}

impl State {
    /// Tells the others when someone starts and when they end; what is known already only renews it. Typing that is
    /// over by now is no news.
    ///
    /// A typist keeps the name of the start until the end: the guide's page knows a typist by name.
    fn event(&mut self, mut event: TypingEvent) {
        let age = typing::age(event.at_ms, Timestamp::now());
        if event.is_typing && age >= limits::TYPING_TTL {
            metrics::counter!("gateway_typing_stale_total").increment(1);
            return;
        }
        let known = self.typing.remove(&event.user_id);
        let is_known = known.is_some();
        if let Some((known, _)) = known {
            event.username = known.username;
        }
        if is_known != event.is_typing {
            self.tell(&event);
        }
        if event.is_typing {
            self.typing.insert(event.user_id, (event, Instant::now() + FORGET.saturating_sub(age)));
        }
    }

    fn tell(&self, event: &TypingEvent) {
        let frame = encode::typing(event);
        for view in self.members.values().filter(|view| self.is_shown(view, event)) {
            view.outbox.push(view.wrap(frame.clone()));
        }
    }

    fn is_shown(&self, view: &View, event: &TypingEvent) -> bool {
        view.user_id != event.user_id && !self.blocking.contains(&view.user_id)
    }

    /// From now on a user is shown what the other types, or isn't; what is shown already ends.
    fn set_block(&mut self, user: UserId, blocked: bool) {
        if !blocked {
            self.blocking.remove(&user);
        } else if self.blocking.insert(user) {
            let others = self.typing.values().map(|(event, _)| event).filter(|event| event.user_id != user);
            for event in others {
                let frame = encode::typing(&TypingEvent { is_typing: false, ..event.clone() });
                for view in self.members.values().filter(|view| view.user_id == user) {
                    view.outbox.push(view.wrap(frame.clone()));
                }
            }
        }
    }

    fn next_end(&self) -> Option<Instant> {
        self.typing.values().map(|(_, at)| *at).min()
    }

    fn end_forgotten(&mut self, now: Instant) {
        let ended: Vec<TypingEvent> =
            self.typing.values().filter(|(_, at)| *at <= now).map(|(event, _)| event.clone()).collect();
        for event in ended {
            self.event(TypingEvent { is_typing: false, ..event });
        }
    }
}

impl TypingMembership {
    /// What the others are shown.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The user has a new name: the others are shown it from the next start on.
    pub fn rename(&mut self, username: &str) {
        username.clone_into(&mut self.username);
    }

    /// Whether this is the user's only socket here.
    pub fn is_last(&self) -> bool {
        let state = self.typists.state();
        !state.members.iter().any(|(id, view)| *id != self.id && view.user_id == self.user_id)
    }

    /// Whether the user is shown as typing.
    pub fn is_typing(&self) -> bool {
        self.typists.state().typing.contains_key(&self.user_id)
    }
}

impl Drop for TypingMembership {
    fn drop(&mut self) {
        let mut state = self.typists.state();
        state.members.remove(&self.id);
        if state.members.is_empty() && !state.lingers {
            state.lingers = true;
            self.typists.maintenance.linger(Topic::Typing(self.typists.conversation));
        }
    }
}
