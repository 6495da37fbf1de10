//! What is known of watched users, and what each socket shows of them. No I/O.

use crate::{
    channel::{encode, view::View},
    nats::connection::{Link, Mark},
    topic::Subscriber,
};
use contract::{
    ConversationId, UserId,
    chat::Person,
    presence::{BackendPresence, PresenceEvent, UserNews, UserNewsKind, UserPresence},
};
use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    time::Duration,
};
use tokio::time::Instant;

/// How long the time of an event takes precedence over the stored one, which may not be written yet.
const UNSTORED: Duration = Duration::from_secs(30);

pub type WatchId = u64;

/// The users who are watched or who watch, and the sockets that watch.
#[derive(Default)]
pub struct Board {
    people: HashMap<UserId, Watched>,
    watches: HashMap<WatchId, Watch>,
    last_watch: WatchId,
}

/// A user who is watched, or who watches.
struct Watched {
    presence: UserPresence,
    /// Whether the user hides; `None` before it is known.
    hidden: Option<bool>,
    events: EventCounts,
    /// When an event last said that the user has left.
    left_at: Option<Instant>,
    watched_by: HashSet<WatchId>,
    watching: HashSet<WatchId>,
}

/// Numbers of events about a user. What a reply says is older than an event that arrived after the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventCounts {
    presence: u64,
    hiding: u64,
}

/// A socket's view of a conversation.
struct Watch {
    view: View,
    conversation_id: ConversationId,
    people: Vec<Watchee>,
}

/// A user, as a socket shows them.
struct Watchee {
    user_id: UserId,
    /// Whether either of the two blocks the other; `None` before it is known.
    blocked: Option<bool>,
    /// Number of events about such blocks.
    block_events: u64,
    /// What the socket shows; `None` before it has received anything.
    shown: Option<UserPresence>,
}

/// Something to read from a service.
pub enum Part {
    /// From notify-service.
    States(States),
    /// From chat-service.
    Blocks(Vec<Pair>),
}

/// Users whose states are to be read, with the events so far.
pub struct States {
    pub user_ids: Vec<UserId>,
    pub marks: HashMap<UserId, EventCounts>,
}

/// A watching and a watched user, whose blocks are to be read.
pub struct Pair {
    pub users: (UserId, UserId),
    watch: WatchId,
    index: usize,
    /// Number of events about their blocks so far.
    events: u64,
}

/// What a user sees: the same of a user who hides, of a blocked one and of one who was never seen (law P2).
fn masked(presence: &UserPresence, nothing: bool) -> UserPresence {
    if nothing { UserPresence::unknown(presence.user_id) } else { presence.clone() }
}

/// What a user sees of these people, whose states include the user's own.
pub fn seen_by(user: UserId, people: &[Person], states: Vec<BackendPresence>) -> Vec<UserPresence> {
    let states = states.into_iter().filter_map(|state| match state {
        BackendPresence::Hidden { .. } => None,
        BackendPresence::Shown(presence) => Some((presence.user_id, presence)),
    });
    let shown: HashMap<UserId, UserPresence> = states.collect();
    let hides = !shown.contains_key(&user);
    let seen = |person: &Person| match shown.get(&person.user_id) {
        Some(presence) => masked(presence, hides || person.blocked),
        None => UserPresence::unknown(person.user_id),
    };
    people.iter().map(seen).collect()
}

impl Watched {
    fn new(user: UserId) -> Self {
        Self {
            presence: UserPresence::unknown(user),
            hidden: None,
            events: EventCounts::default(),
            left_at: None,
            watched_by: HashSet::new(),
            watching: HashSet::new(),
        }
    }

    fn hides(&self) -> bool {
        self.hidden.unwrap_or(true)
    }

    /// Takes a service's reply, as far as no event has overtaken it.
    fn read(&mut self, reply: BackendPresence, mark: EventCounts) {
        let (hidden, mut presence) = match reply {
            BackendPresence::Hidden { user_id, .. } => (true, UserPresence::unknown(user_id)),
            BackendPresence::Shown(presence) => (false, presence),
        };
        if self.events.hiding == mark.hiding {
            self.hidden = Some(hidden);
        }
        if self.events.presence == mark.presence {
            if !hidden && !presence.online && self.left_at.is_some_and(|at| at.elapsed() < UNSTORED) {
                presence.last_seen = presence.last_seen.max(self.presence.last_seen);
            }
            self.presence = presence;
        }
    }
}

impl Board {
    /// Adds a socket, which receives nothing until [`Board::begin`]. Returns the mark of its subscriptions.
    pub fn add(
        &mut self,
        view: View,
        conversation_id: ConversationId,
        people: &[UserId],
        link: &Link,
    ) -> (WatchId, Mark) {
        self.last_watch += 1;
        let id = self.last_watch;
        self.person(view.user_id, link, |own| _ = own.watching.insert(id));
        for user in people {
            self.person(*user, link, |person| _ = person.watched_by.insert(id));
        }
        let people = people.iter().map(|user_id| Watchee {
            user_id: *user_id,
            blocked: None,
            block_events: 0,
            shown: None,
        });
        self.watches.insert(id, Watch { view, conversation_id, people: people.collect() });
        // Covers the subscriptions that others began, too.
        (id, link.mark())
    }

    fn person(&mut self, user: UserId, link: &Link, change: impl FnOnce(&mut Watched)) {
        change(self.people.entry(user).or_insert_with(|| {
            link.subscribe(Subscriber::Person(user));
            Watched::new(user)
        }));
    }

    /// Removes a socket.
    pub fn remove(&mut self, id: WatchId, link: &Link) {
        let Some(watch) = self.watches.remove(&id) else { return };
        for user in watch.users() {
            if let Entry::Occupied(mut person) = self.people.entry(user) {
                person.get_mut().watched_by.remove(&id);
                person.get_mut().watching.remove(&id);
                if person.get().watched_by.is_empty() && person.get().watching.is_empty() {
                    person.remove();
                    link.unsubscribe(Subscriber::Person(user));
                }
            }
        }
    }

    /// Everybody who is watched or watches, in no order.
    pub fn users(&self) -> impl Iterator<Item = UserId> {
        self.people.keys().copied()
    }

    /// Number of sockets.
    pub fn watches(&self) -> usize {
        self.watches.len()
    }

    /// Sends a new socket the presence of everybody it watches. Returns false if something is not known yet.
    pub fn begin(&mut self, id: WatchId) -> bool {
        let Some(watch) = self.watches.get_mut(&id) else { return false };
        let is_known = |user: UserId| self.people.get(&user).is_some_and(|person| person.hidden.is_some());
        if !watch.users().all(is_known) || watch.people.iter().any(|watchee| watchee.blocked.is_none()) {
            return false;
        }
        let hides = self.people.get(&watch.view.user_id).is_none_or(Watched::hides);
        for index in 0..watch.people.len() {
            if let Some(person) = self.people.get(&watch.people[index].user_id) {
                let seen = watch.people[index].sees(person, hides);
                watch.push(index, seen);
            }
        }
        true
    }

    /// Takes an event.
    pub fn news(&mut self, UserNews { user_id, kind }: &UserNews) {
        let Some(person) = self.people.get_mut(user_id) else { return };
        match kind {
            UserNewsKind::State { online, last_seen } => {
                person.events.presence += 1;
                person.left_at = (!online).then(Instant::now);
                let last_seen = (*last_seen).max(person.presence.last_seen);
                let last_seen = last_seen.filter(|_| !online && person.hidden != Some(true));
                person.presence = UserPresence { user_id: *user_id, online: *online, last_seen };
            }
            UserNewsKind::Hidden { hidden, online } => {
                person.events.presence += 1;
                person.events.hiding += 1;
                // A stored time was removed.
                person.left_at = None;
                person.presence = UserPresence { online: *online, ..UserPresence::unknown(*user_id) };
                person.hidden = Some(*hidden);
            }
            UserNewsKind::Block { other_id, blocked } => {
                for id in &person.watched_by {
                    let watch = self.watches.get_mut(id).filter(|watch| watch.view.user_id == *other_id);
                    for watchee in watch.into_iter().flat_map(|watch| &mut watch.people) {
                        if watchee.user_id == *user_id {
                            watchee.block_events += 1;
                            watchee.blocked = Some(*blocked);
                        }
                    }
                }
            }
        }
        self.show(*user_id);
    }

    /// What one socket needs: states and blocks.
    pub fn parts_of(&self, id: WatchId) -> [Part; 2] {
        let watch = self.watches.get(&id);
        let users = watch.map(|watch| watch.users().collect()).unwrap_or_default();
        let pairs = watch.map(|watch| watch.pairs(id).collect()).unwrap_or_default();
        [Part::States(self.states(users)), Part::Blocks(pairs)]
    }

    /// What all sockets need, in parts of at most so many users or pairs, always in about the same order.
    pub fn parts(&self, users_max: usize, pairs_max: usize) -> Vec<Part> {
        let mut users: Vec<UserId> = self.users().collect();
        users.sort_unstable();
        let states = users.chunks(users_max).map(|users| Part::States(self.states(users.to_vec())));
        let mut ids: Vec<WatchId> = self.watches.keys().copied().collect();
        ids.sort_unstable();
        let mut pairs = ids.iter().flat_map(|id| self.watches.get(id).into_iter().flat_map(|w| w.pairs(*id)));
        let blocks = std::iter::from_fn(|| {
            let pairs: Vec<Pair> = pairs.by_ref().take(pairs_max).collect();
            (!pairs.is_empty()).then_some(Part::Blocks(pairs))
        });
        states.chain(blocks).collect()
    }

    pub fn states(&self, user_ids: Vec<UserId>) -> States {
        let mark = |user: &UserId| Some((*user, self.people.get(user)?.events));
        States { marks: user_ids.iter().filter_map(mark).collect(), user_ids }
    }

    /// Takes the states of users, and shows what has changed.
    pub fn read(&mut self, replies: Vec<BackendPresence>, marks: &HashMap<UserId, EventCounts>) {
        for reply in replies {
            let user = match &reply {
                BackendPresence::Hidden { user_id, .. } => *user_id,
                BackendPresence::Shown(presence) => presence.user_id,
            };
            if let (Some(person), Some(mark)) = (self.people.get_mut(&user), marks.get(&user)) {
                person.read(reply, *mark);
                self.show(user);
            }
        }
    }

    /// Takes which of the pairs are blocked, and shows what has changed.
    pub fn read_blocks(&mut self, pairs: &[Pair], blocked: &[(UserId, UserId)]) {
        let blocked: HashSet<(UserId, UserId)> = blocked.iter().copied().collect();
        for pair in pairs {
            let watch = self.watches.get_mut(&pair.watch);
            let Some(watchee) = watch.and_then(|watch| watch.people.get_mut(pair.index)) else { continue };
            if watchee.block_events == pair.events {
                let is_blocked = Some(blocked.contains(&pair.users));
                if std::mem::replace(&mut watchee.blocked, is_blocked) != is_blocked {
                    self.show(pair.users.1);
                }
            }
        }
    }

    /// Shows a user's state to those who watch the user, and to the user what follows from hiding.
    fn show(&mut self, user: UserId) {
        let Some(person) = self.people.get(&user) else { return };
        for id in person.watched_by.iter().chain(&person.watching) {
            let Some(watch) = self.watches.get_mut(id) else { continue };
            let hides = self.people.get(&watch.view.user_id).is_none_or(Watched::hides);
            for index in 0..watch.people.len() {
                let watchee = &watch.people[index];
                let (Some(shown), Some(person)) = (&watchee.shown, self.people.get(&watchee.user_id)) else {
                    continue;
                };
                let seen = watchee.sees(person, hides);
                if seen != *shown {
                    watch.push(index, seen);
                }
            }
        }
    }
}

impl Watchee {
    fn sees(&self, person: &Watched, watcher_hides: bool) -> UserPresence {
        masked(&person.presence, watcher_hides || person.hides() || self.blocked.unwrap_or(true))
    }
}

impl Watch {
    /// Those whose states matter to the socket.
    fn users(&self) -> impl Iterator<Item = UserId> {
        self.people.iter().map(|watchee| watchee.user_id).chain([self.view.user_id])
    }

    fn pairs(&self, id: WatchId) -> impl Iterator<Item = Pair> {
        self.people.iter().enumerate().map(move |(index, watchee)| Pair {
            users: (self.view.user_id, watchee.user_id),
            watch: id,
            index,
            events: watchee.block_events,
        })
    }

    fn push(&mut self, index: usize, presence: UserPresence) {
        let frame = PresenceEvent { conversation_id: self.conversation_id, presence: presence.clone() };
        self.view.outbox.push(self.view.wrap(encode::encode(&frame)));
        self.people[index].shown = Some(presence);
    }
}
