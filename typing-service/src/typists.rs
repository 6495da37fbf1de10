//! The typists that one replica knows.
//!
//! This module has no I/O and no clock: callers pass each input or event together with the current time, and publish
//! the announcement that is returned. Each replica processes some of the inputs and receives the events of the others:
//!
//! - The replica that processed a user's last input owns the typing and ends it at its deadline. The others wait
//!   longer, by the second that a renewal may take to reach them and a margin, and end it if the owner did not.
//! - Inputs of a user who is already typing renew the typing at once in this replica, and in the others at most once a
//!   second. A renewal contains the age of its input, so that the replica of the last input stays the owner.
//! - Delays count: the age of an input starts when the client made it, that of an announcement when it was published.
//! - A typist keeps its username from start to end, because the guide's page identifies typists by name.
//! - Two replicas may process a stop and the input before it, so that their announcements cross. Therefore a stop is
//!   kept for a moment, and typing that was announced before it but arrives after it is ended again.

use contract::{ConversationId, UserId, limits::TYPING_TTL, typing::*};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// Maximum number of gateways per typist; with more, the oldest is dropped.
const GATEWAYS_MAX: usize = 8;
/// Time for which a stop is kept: longer than the delay of earlier announcements.
const STOP_TTL: Duration = Duration::from_secs(1);

/// Durations and limits, the same for all replicas.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Time from a user's last input until typing ends.
    pub ttl: Duration,
    /// Margin for inputs that gateways absorb: the client's last input may be later than the last received one by this.
    pub absorbed: Duration,
    /// Minimum time between two renewals of one user's typing.
    pub renewal: Duration,
    /// Additional time that replicas wait before they end typing that they do not own.
    pub grace: Duration,
    /// Maximum distance of two inputs whose order two replicas may see differently because of network delays.
    pub skew: Duration,
    /// Maximum number of entries over all conversations.
    pub capacity: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            ttl: TYPING_TTL,
            absorbed: Duration::from_millis(250),
            renewal: Duration::from_secs(1),
            grace: Duration::from_millis(250),
            skew: Duration::from_millis(50),
            capacity: 100_000,
        }
    }
}

impl Rules {
    /// Time after which the owner ends typing, from the last input.
    pub fn owned_ttl(&self) -> Duration {
        self.ttl + self.absorbed + self.skew
    }

    /// Time after which the other replicas end typing, from the owner's last announcement. The owner may have processed
    /// another input that it has not announced yet.
    pub fn remote_ttl(&self) -> Duration {
        self.owned_ttl() + self.renewal + self.grace
    }
}

/// A change to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Event for gateways and replicas.
    pub event: TypingEvent,
    /// Kind of the change.
    pub kind: Kind,
    /// Additional data for the other replicas.
    pub note: Note,
}

/// Data of an announcement that gateways don't need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// Age of the input when the announcement was published.
    pub age: Duration,
    /// Gateway at which the user stopped typing, although typing continues at another one.
    pub left: Option<String>,
    /// Delay since the announcement was published.
    pub late: Duration,
}

/// The kind of an [`Announcement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A user starts typing.
    Start,
    /// A user continues typing.
    Renewal,
    /// A user stops typing.
    End,
}

type Key = (ConversationId, UserId);

/// The typists that this replica knows. Each operation takes logarithmic time.
#[derive(Debug)]
pub struct Typists {
    rules: Rules,
    entries: BTreeMap<Key, Entry>,
    /// Time of the next action for each entry, always equal to the entry's `wake`.
    wakes: BTreeSet<(Instant, Key)>,
    typing: usize,
    refused: u64,
    /// Time until which no typing expires, because renewals may have been missed.
    quiet_until: Instant,
    /// Time until which unknown users may be typing, because starts may have been missed.
    unsure_until: Instant,
}

#[derive(Debug)]
enum Entry {
    Typing(Typist),
    /// A user who has stopped, kept because earlier announcements may arrive late. With a gateway, the user has stopped
    /// typing only there.
    Stopped {
        gateway: Option<String>,
        stopped: Instant,
        expires: Instant,
    },
}

#[derive(Debug)]
struct Typist {
    username: String,
    /// Gateways at which the user types, oldest first.
    gateways: Vec<String>,
    /// Time of the last input that any replica processed.
    last: Instant,
    /// Whether this replica processed it.
    owned: bool,
    /// Time of the last announcement by any replica.
    announced: Instant,
    /// Whether this replica must still announce the last input.
    unannounced: bool,
    deadline: Instant,
}

impl Entry {
    fn wake(&self, rules: &Rules) -> Instant {
        match self {
            Self::Typing(typist) if typist.unannounced => {
                typist.deadline.min(typist.announced + rules.renewal)
            }
            Self::Typing(typist) => typist.deadline,
            Self::Stopped { expires, .. } => *expires,
        }
    }
}

impl Typist {
    /// Adds a gateway. Returns whether it is new.
    fn add_gateway(&mut self, gateway: &str) -> bool {
        if self.gateways.iter().any(|known| known == gateway) {
            return false;
        }
        if self.gateways.len() == GATEWAYS_MAX {
            self.gateways.remove(0);
        }
        self.gateways.push(gateway.to_owned());
        true
    }

    /// Removes a gateway. Returns whether it was known.
    fn remove_gateway(&mut self, gateway: &str) -> bool {
        let before = self.gateways.len();
        self.gateways.retain(|known| known != gateway);
        self.gateways.len() < before
    }

    fn event(&self, (conversation_id, user_id): Key) -> TypingEvent {
        TypingEvent {
            conversation_id,
            user_id,
            username: self.username.clone(),
            is_typing: true,
            gateway: self.gateways.last().cloned(),
            at_ms: None,
        }
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }

    fn renewal(&mut self, key: Key, now: Instant) -> Announcement {
        self.announced = now;
        self.unannounced = false;
        let note = Note { age: self.age(now), ..Note::default() };
        Announcement { event: self.event(key), kind: Kind::Renewal, note }
    }
}

impl Typists {
    /// Creates an empty state. Other replicas may know typists: at first, stops of unknown users are announced, as
    /// after [`Typists::doubt`].
    pub fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            entries: BTreeMap::new(),
            wakes: BTreeSet::new(),
            typing: 0,
            refused: 0,
            quiet_until: now,
            unsure_until: now + rules.remote_ttl(),
        }
    }

    /// Records that announcements may have been missed. No typing expires until renewals had time to arrive, and as
    /// long as a missed start can matter, stops of unknown users are announced too.
    pub fn doubt(&mut self, now: Instant) {
        self.quiet_until = now + self.rules.renewal + self.rules.grace;
        self.unsure_until = now + self.rules.remote_ttl();
    }

    /// Processes a user's input of a given age.
    pub fn input(&mut self, input: TypingInput, age: Duration, now: Instant) -> Option<Announcement> {
        let key = (input.conversation_id, input.user_id);
        let at = now.checked_sub(age).unwrap_or(now);
        match input.action {
            TypingAction::Typing => self.typed(key, input.username, input.gateway, at, now),
            TypingAction::Stopped => self.stopped(key, input.username, None, at, now),
            TypingAction::Left => self.left(key, input.username, input.gateway, at, now),
        }
    }

    fn typed(
        &mut self,
        key: Key,
        username: String,
        gateway: String,
        at: Instant,
        now: Instant,
    ) -> Option<Announcement> {
        let (owned, renewal) = (self.rules.owned_ttl(), self.rules.renewal);
        if self.is_typing(key) {
            return self.change(key, |typist| {
                typist.last = at.max(typist.last);
                typist.owned = true;
                typist.deadline = typist.last + owned;
                // The other replicas must know every gateway, or they would take the end at one for the end of all
                // typing.
                if typist.add_gateway(&gateway) || now >= typist.announced + renewal {
                    return Some(typist.renewal(key, now));
                }
                typist.unannounced = true;
                None
            });
        }
        let typist = Typist {
            username,
            gateways: vec![gateway],
            last: at,
            owned: true,
            announced: now,
            unannounced: false,
            deadline: at + owned,
        };
        let (event, note) = (typist.event(key), Note { age: typist.age(now), ..Note::default() });
        let fits = self.insert(key, Entry::Typing(typist));
        fits.then_some(Announcement { event, kind: Kind::Start, note })
    }

    fn left(
        &mut self,
        key: Key,
        username: String,
        gateway: String,
        at: Instant,
        now: Instant,
    ) -> Option<Announcement> {
        if !self.is_typing(key) {
            return self.stopped(key, username, Some(gateway), at, now);
        }
        let mut over = false;
        let announcement = self.change(key, |typist| {
            let known = typist.remove_gateway(&gateway);
            over = typist.gateways.is_empty();
            let note = Note { age: typist.age(now), left: Some(gateway.clone()), ..Note::default() };
            (known && !over).then(|| Announcement { event: typist.event(key), kind: Kind::Renewal, note })
        });
        if over { self.stopped(key, username, Some(gateway), at, now) } else { announcement }
    }

    /// Ends all typing of a user, or that at the only gateway. For an unknown user, it is announced only if a start may
    /// have been missed.
    fn stopped(
        &mut self,
        key: Key,
        username: String,
        gateway: Option<String>,
        at: Instant,
        now: Instant,
    ) -> Option<Announcement> {
        let username = match self.entries.get(&key) {
            Some(Entry::Typing(typist)) => typist.username.clone(),
            _ => username,
        };
        // A stop at all gateways takes precedence over a stop at one.
        let gateway = match self.entries.get(&key) {
            Some(Entry::Stopped { gateway: None, .. }) => None,
            _ => gateway,
        };
        let must_announce = self.is_typing(key) || now < self.unsure_until;
        self.insert(key, Entry::Stopped { gateway, stopped: at, expires: now + STOP_TTL });
        let age = now.saturating_duration_since(at);
        must_announce.then(|| ended(key, username, age))
    }

    /// Processes an event of another replica. The caller must filter out this replica's own events.
    pub fn apply_remote(&mut self, event: TypingEvent, note: &Note, now: Instant) -> Option<Announcement> {
        let key = (event.conversation_id, event.user_id);
        let published = now.checked_sub(note.late).unwrap_or(now);
        let last = published.checked_sub(note.age).unwrap_or(published);
        let (deadline, skew) = (published + self.rules.remote_ttl(), self.rules.skew);
        if !event.is_typing {
            return match self.entries.get(&key) {
                // The other replica did not know of a later input. If this replica processed it, announces it.
                Some(Entry::Typing(typist)) if typist.last > last + skew => {
                    self.change(key, |typist| typist.owned.then(|| typist.renewal(key, now)))
                }
                Some(Entry::Typing(_)) => self.end(key, now).and(None),
                Some(Entry::Stopped { .. }) | None => None,
            };
        }
        if self.is_typing(key) {
            return self.change(key, |typist| {
                if let Some(gateway) = &event.gateway {
                    typist.add_gateway(gateway);
                }
                if let Some(left) = &note.left {
                    if typist.gateways.len() > 1 {
                        typist.remove_gateway(left);
                    }
                    return None; // The announcement has no input.
                }
                typist.announced = now;
                if !typist.owned || last > typist.last + skew {
                    typist.last = last;
                    typist.owned = false;
                    typist.unannounced = false;
                    typist.deadline = deadline;
                }
                None
            });
        }
        if let Some(Entry::Stopped { gateway, stopped, .. }) = self.entries.get(&key)
            && last <= *stopped + skew
            && (gateway.is_none() || *gateway == event.gateway)
        {
            return Some(ended(key, event.username, Duration::ZERO));
        }
        let typist = Typist {
            username: event.username,
            gateways: event.gateway.into_iter().collect(),
            last,
            owned: false,
            announced: now,
            unannounced: false,
            deadline,
        };
        self.insert(key, Entry::Typing(typist));
        None
    }

    /// Time at which [`Typists::expire`] should be called next.
    pub fn due(&self) -> Option<Instant> {
        self.wakes.first().map(|(wake, _)| (*wake).max(self.quiet_until))
    }

    /// Processes the next deadline that has passed. To be called until it returns `None`.
    pub fn expire(&mut self, now: Instant) -> Option<Announcement> {
        while self.due().is_some_and(|due| due <= now) {
            let (_, key) = *self.wakes.first()?;
            match self.entries.get(&key)? {
                Entry::Typing(typist) if typist.deadline <= now => return self.end(key, now),
                Entry::Typing(_) => {
                    return self.change(key, |typist| Some(typist.renewal(key, now)));
                }
                Entry::Stopped { .. } => self.remove(key),
            };
        }
        None
    }

    /// The typists of a conversation, by user, with the age of their last input.
    pub fn typing_in(&self, conversation: ConversationId, now: Instant) -> Vec<(TypingEvent, Duration)> {
        let first = UserId::new(1).expect("1 is an id");
        self.entries
            .range((conversation, first)..)
            .take_while(|((of, _), _)| *of == conversation)
            .filter_map(|(key, entry)| match entry {
                // After a pause, typing whose deadline has passed may not have ended yet.
                Entry::Typing(typist) if typist.deadline.max(self.quiet_until) > now => {
                    Some((TypingEvent { gateway: None, ..typist.event(*key) }, typist.age(now)))
                }
                Entry::Typing(_) | Entry::Stopped { .. } => None,
            })
            .collect()
    }

    /// Number of typists.
    pub fn typing(&self) -> usize {
        self.typing
    }

    /// Number of typists refused since the last call because the capacity was reached.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    fn is_typing(&self, key: Key) -> bool {
        matches!(self.entries.get(&key), Some(Entry::Typing(_)))
    }

    fn end(&mut self, key: Key, now: Instant) -> Option<Announcement> {
        match self.remove(key)? {
            Entry::Typing(typist) => {
                let age = typist.age(now);
                Some(ended(key, typist.username, age))
            }
            Entry::Stopped { .. } => None,
        }
    }

    /// Inserts or replaces an entry. Returns whether the capacity allowed it.
    fn insert(&mut self, key: Key, entry: Entry) -> bool {
        let old = self.remove(key);
        let typing = matches!(entry, Entry::Typing(_));
        if old.is_none() && self.entries.len() >= self.rules.capacity {
            self.refused += u64::from(typing);
            return false;
        }
        self.typing += usize::from(typing);
        self.wakes.insert((entry.wake(&self.rules), key));
        self.entries.insert(key, entry);
        true
    }

    fn remove(&mut self, key: Key) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.wakes.remove(&(entry.wake(&self.rules), key));
        self.typing -= usize::from(matches!(entry, Entry::Typing(_)));
        Some(entry)
    }

    /// Changes a typist and updates its wake.
    fn change<T>(&mut self, key: Key, change: impl FnOnce(&mut Typist) -> Option<T>) -> Option<T> {
        let entry = self.entries.get_mut(&key)?;
        let before = entry.wake(&self.rules);
        let Entry::Typing(typist) = entry else { return None };
        let changed = change(typist);
        let after = entry.wake(&self.rules);
        if after != before {
            self.wakes.remove(&(before, key));
            self.wakes.insert((after, key));
        }
        changed
    }
}

fn ended((conversation_id, user_id): Key, username: String, age: Duration) -> Announcement {
    let event =
        TypingEvent { conversation_id, user_id, username, is_typing: false, gateway: None, at_ms: None };
    Announcement { event, kind: Kind::End, note: Note { age, ..Note::default() } }
}
