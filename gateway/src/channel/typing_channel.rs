//! The typing channel of a conversation on one gateway: the users who are typing, and the sockets that receive it.

use crate::{
    channel::{
        encode,
        lifecycle::{ChannelState, Lifecycle, Tracked},
        maintenance::Maintenance,
        view::View,
    },
    nats::{connection::Mark, protocol::Message},
    topic::Subscriber,
};
use contract::{
    ConversationId, Timestamp, UserId, limits,
    typing::{self, TypingBlock, TypingEvent, WhoTypes},
};
use service::Bus;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, MutexGuard},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// How long a user without a further event counts as typing: until every replica of typing-service has ended it.
const FORGET: Duration = limits::TYPING_TTL.saturating_add(Duration::from_secs(4));
/// How long a join waits for typing-service to name the users who are typing.
const ANSWER: Duration = Duration::from_secs(1);

/// A socket on a typing channel.
type MemberId = u64;

/// The typing channel of a conversation.
pub struct TypingChannel {
    conversation: ConversationId,
    lifecycle: Lifecycle<Typing>,
}

#[derive(Default)]
struct Typing {
    /// The users who are typing, with the time at which each is forgotten.
    typing: HashMap<UserId, (TypingEvent, Instant)>,
    members: HashMap<MemberId, View>,
    next_member: MemberId,
    /// The users who block the other user: they do not see the other's typing.
    blocking: HashSet<UserId>,
}

/// A socket's membership of a typing channel. Dropping it removes the socket.
pub struct TypingMembership {
    channel: Arc<TypingChannel>,
    user_id: UserId,
    username: String,
    id: MemberId,
    /// When the user's last `true` was published, unless a `false` followed.
    pub published: Option<Instant>,
}

impl ChannelState for Typing {
    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl TypingChannel {
    /// Subscribes to the conversation's typing events.
    pub fn new(conversation: ConversationId, maintenance: Arc<Maintenance>) -> Self {
        Self { conversation, lifecycle: Lifecycle::begin(Subscriber::Typing(conversation), maintenance) }
    }

    /// See [`Lifecycle::subscribed`].
    pub const fn subscribed(&self) -> Mark {
        self.lifecycle.subscribed()
    }

    /// See [`Lifecycle::lingers`].
    pub fn lingers(&self) -> bool {
        self.lifecycle.lingers()
    }

    /// Adds a socket, and sends it the users who are typing.
    pub async fn join(
        self: Arc<Self>,
        bus: &Bus,
        view: View,
        username: String,
        blocks: bool,
    ) -> TypingMembership {
        // Without an answer, the next event of each user shows them.
        let request = WhoTypes { conversation_id: self.conversation };
        let events = bus.request(&request, ANSWER).await.unwrap_or_default();
        let mut state = self.lifecycle.lock();
        for event in events {
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
        TypingMembership { channel: self, user_id, username, id, published: None }
    }

    /// Takes an event that NATS delivered.
    pub fn take(self: &Arc<Self>, message: &Message<'_>) {
        let mut state = self.lifecycle.lock();
        let taken = if message.subject.starts_with(TypingBlock::PREFIX) {
            serde_json::from_slice(message.payload)
                .map(|block: TypingBlock| state.set_block(block.user_id, block.blocked))
        } else {
            serde_json::from_slice(message.payload).map(|event| state.event(event))
        };
        self.changed(state);
        if let Err(error) = taken {
            metrics::counter!("gateway_undecodable_total").increment(1);
            tracing::error!(%error, "cannot decode a typing event");
        }
    }

    /// Starts the task that ends typing without further events, if anyone is typing.
    fn changed(self: &Arc<Self>, state: MutexGuard<'_, Tracked<Typing>>) {
        if !state.typing.is_empty() {
            self.lifecycle.start_task(state, || self.clone().end_forgotten());
        }
    }

    async fn end_forgotten(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lifecycle.lock();
                state.end_forgotten(Instant::now());
                let next = state.next_end();
                if next.is_none() {
                    state.end_task();
                }
                next
            };
            let Some(next) = next else { return };
            sleep_until(next).await;
        }
    }
}

impl Typing {
    /// Publishes the start or the end of typing to the members; a renewal only moves the end. An event that is too old
    /// is dropped.
    ///
    /// A user keeps the name of the start until the end, because the guide's page identifies a user by name.
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
            self.deliver(&event);
        }
        if event.is_typing {
            self.typing.insert(event.user_id, (event, Instant::now() + FORGET.saturating_sub(age)));
        }
    }

    fn deliver(&self, event: &TypingEvent) {
        let frame = encode::typing(event);
        for view in self.members.values().filter(|view| self.is_shown(view, event)) {
            view.outbox.push(view.wrap(frame.clone()));
        }
    }

    fn is_shown(&self, view: &View, event: &TypingEvent) -> bool {
        view.user_id != event.user_id && !self.blocking.contains(&view.user_id)
    }

    /// Sets whether a user blocks the other. A new block ends the typing that the user's sockets show.
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
    /// The name that the others see.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Sets the name that the others see from the next start of typing.
    pub fn rename(&mut self, username: &str) {
        username.clone_into(&mut self.username);
    }

    /// Whether this is the user's only socket on the channel.
    pub fn is_last(&self) -> bool {
        let state = self.channel.lifecycle.lock();
        !state.members.iter().any(|(id, view)| *id != self.id && view.user_id == self.user_id)
    }

    /// Whether the user is shown as typing.
    pub fn is_typing(&self) -> bool {
        self.channel.lifecycle.lock().typing.contains_key(&self.user_id)
    }
}

impl Drop for TypingMembership {
    fn drop(&mut self) {
        self.channel.lifecycle.leave(|state| drop(state.members.remove(&self.id)));
    }
}
