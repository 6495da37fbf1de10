//! Typing channels: who types now, as far as this gateway has heard.

use crate::{
    frames,
    log::{MemberId, View},
};
use contract::{
    ConversationId, UserId, limits,
    typing::{TypingBlock, TypingEvent, WhoTypes, channel_subject},
};
use futures_util::StreamExt;
use service::Bus;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, SetOnce},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// When a typist of whom nothing more is heard is taken to have stopped: after every replica of typing-service would
/// have said so.
const FORGET: Duration = limits::TYPING_TTL.saturating_add(Duration::from_secs(4));
/// How long a channel outlives its last member.
const LINGER: Duration = Duration::from_secs(5);
/// How long who joins waits to be told who types.
const ANSWER: Duration = Duration::from_secs(1);

/// Who types in a conversation, and the sockets that are told.
pub struct Typists {
    conversation: ConversationId,
    state: Mutex<State>,
    changed: Notify,
    subscribed: SetOnce<()>,
}

#[derive(Default)]
struct State {
    typing: HashMap<UserId, (TypingEvent, Instant)>,
    members: HashMap<MemberId, View>,
    next_member: MemberId,
    /// Who is not shown what the other types.
    blocking: HashSet<UserId>,
}

/// A socket's place on a typing channel; dropping it takes the socket off.
pub struct Watching {
    typists: Arc<Typists>,
    user_id: UserId,
    username: String,
    id: MemberId,
    /// When the user's last `true` was passed on, unless a `false` followed.
    pub told: Option<Instant>,
}

impl Typists {
    /// Nobody, and no task running yet.
    pub fn new(conversation: ConversationId) -> Self {
        Self { conversation, state: Mutex::default(), changed: Notify::new(), subscribed: SetOnce::new() }
    }

    /// Where.
    pub const fn conversation(&self) -> ConversationId {
        self.conversation
    }

    /// Waits until the subscription is on its way to NATS.
    pub async fn subscribed(&self) {
        self.subscribed.wait().await;
    }

    /// Puts a socket on the channel, and tells it who types.
    pub async fn join(self: Arc<Self>, bus: &Bus, view: View, username: String, blocks: bool) -> Watching {
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
            view.outbox.push(view.wrap(frames::typing(event)));
        }
        state.members.insert(id, view);
        drop(state);
        self.changed.notify_one();
        Watching { typists: self, user_id, username, id, told: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Listens until nobody is here any more, and `leave` agrees.
    pub async fn run(
        self: Arc<Self>,
        bus: Bus,
        shutdown: CancellationToken,
        leave: impl Fn(&Arc<Self>) -> bool,
    ) {
        let mut subscriber = match bus.subscribe(channel_subject(self.conversation)).await {
            Ok(subscriber) => subscriber,
            Err(error) => {
                return tracing::error!(error = format!("{error:#}"), "subscribe to a typing channel");
            }
        };
        self.subscribed.set(()).ok();
        let mut empty_at: Option<Instant> = None;
        loop {
            let due = self.state().next_end().into_iter().chain(empty_at).min();
            tokio::select! {
                message = subscriber.next() => match message {
                    Some(message) => self.take(message.subject.as_str(), &message.payload),
                    None => return,
                },
                () = self.changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = shutdown.cancelled() => return,
            }
            let now = Instant::now();
            self.state().end_forgotten(now);
            if !self.state().members.is_empty() {
                empty_at = None;
            } else if now < *empty_at.get_or_insert(now + LINGER) {
                continue;
            } else if leave(&self) {
                return;
            } else {
                empty_at = Some(now + LINGER);
            }
        }
    }

    fn take(&self, subject: &str, payload: &[u8]) {
        let taken = if subject.starts_with(TypingBlock::PREFIX) {
            serde_json::from_slice(payload)
                .map(|block: TypingBlock| self.state().set_block(block.user_id, block.blocked))
        } else {
            serde_json::from_slice(payload).map(|event| self.state().event(event))
        };
        if let Err(error) = taken {
            metrics::counter!("gateway_undecodable_total").increment(1);
            tracing::error!(%error, "a typing event can't be read");
        }
    }
}

impl State {
    /// Tells the others when someone starts and when they end; what is known already only renews it.
    fn event(&mut self, event: TypingEvent) {
        let known = self.typing.remove(&event.user_id).is_some();
        if known != event.is_typing {
            self.tell(&event);
        }
        if event.is_typing {
            self.typing.insert(event.user_id, (event, Instant::now() + FORGET));
        }
    }

    fn tell(&self, event: &TypingEvent) {
        let frame = frames::typing(event);
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
                let frame = frames::typing(&TypingEvent { is_typing: false, ..event.clone() });
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

impl Watching {
    /// What the others are shown.
    pub fn username(&self) -> &str {
        &self.username
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

impl Drop for Watching {
    fn drop(&mut self) {
        self.typists.state().members.remove(&self.id);
        self.typists.changed.notify_one();
    }
}
