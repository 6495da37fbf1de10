//! Who is typing, as one replica knows it.
//!
//! No I/O and no clock: what happens is told together with the time at which it does, and what follows from it is
//! returned, to be published. Each replica takes some of the inputs and hears what the others publish:
//!
//! - The replica that took a user's last input owns the typing, and ends it at its deadline. The others wait longer,
//!   by the second that a renewal may take to reach them and a little more, and end it if the owner did not.
//! - Inputs of someone who is already shown renew the typing at once for this replica, and for the others at most
//!   once a second. A renewal says how old the input behind it is, so that whoever took the last one stays the owner.
//! - Whatever waited on its way is as old as it is: an input counts from when it was made, an announcement from when it
//!   was published.
//! - A typist keeps the name of the start until the end: the guide's page knows a typist by name.
//! - A stop and the input before it may be taken by two replicas, whose words then cross: a stop is remembered for a
//!   moment, so that what was said before it and arrives after it is ended again.

use contract::{ConversationId, UserId, limits::TYPING_TTL, typing::*};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// The gateways that one user types at, at most; with more, the first is forgotten.
const GATEWAYS_MAX: usize = 8;
/// How long a stop is remembered: longer than what was said before it can take to arrive.
const REMEMBERED: Duration = Duration::from_secs(1);

/// The times and the bound that a replica keeps to; the same for all replicas.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// From a user's last input until the typing is over.
    pub ttl: Duration,
    /// What is added to it because gateways absorb inputs: the client's last may be later than ours by this much.
    pub absorbed: Duration,
    /// Between two renewals of one user's typing, at least.
    pub renewal: Duration,
    /// What the replicas that do not own a typing wait longer than can be explained otherwise.
    pub grace: Duration,
    /// Two inputs closer than this may look to two replicas as if each were the later one, as announcements travel.
    pub skew: Duration,
    /// Users remembered at once, over all conversations.
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
    /// How long the owner shows someone after an input.
    pub fn owned(&self) -> Duration {
        self.ttl + self.absorbed + self.skew
    }

    /// How long the other replicas show someone after the owner's last word. The owner may have taken one more input
    /// and not have said so yet.
    pub fn heard(&self) -> Duration {
        self.owned() + self.renewal + self.grace
    }
}

/// Something that happened, to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// For gateways and replicas.
    pub event: TypingEvent,
    /// What it is.
    pub kind: Kind,
    /// For the replicas only.
    pub note: Note,
}

/// What gateways need not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// How long ago the input was taken that this tells of.
    pub age: Duration,
    /// A gateway that the user no longer types at, although typing goes on elsewhere.
    pub left: Option<String>,
    /// How long it was on its way.
    pub late: Duration,
}

/// What an [`Announcement`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Someone starts.
    Start,
    /// Someone who is shown already goes on.
    Renewal,
    /// It is over.
    End,
}

type Key = (ConversationId, UserId);

/// Who is typing, as this replica knows it. Every operation takes logarithmic time.
#[derive(Debug)]
pub struct Typists {
    rules: Rules,
    entries: BTreeMap<Key, Entry>,
    /// When something is to be done for an entry: one item for each, always equal to its `wake`.
    wakes: BTreeSet<(Instant, Key)>,
    typing: usize,
    refused: u64,
    /// Until then nothing ends by itself: renewals may have been missed.
    quiet_until: Instant,
    /// Until then someone who is not known may be typing all the same.
    unsure_until: Instant,
}

#[derive(Debug)]
enum Entry {
    Typing(Typist),
    /// Has stopped, but what was said before may come late. With a gateway, only typing there has.
    Stopped {
        gateway: Option<String>,
        stopped: Instant,
        forgotten: Instant,
    },
}

#[derive(Debug)]
struct Typist {
    username: String,
    /// Where they type, oldest first.
    gateways: Vec<String>,
    /// The last input that this replica took or heard of.
    last: Instant,
    /// Whether this replica took it.
    owned: bool,
    /// The last time that anyone told the other replicas.
    announced: Instant,
    /// Whether the last input came after that, and is this replica's to tell.
    untold: bool,
    deadline: Instant,
}

impl Entry {
    fn wake(&self, rules: &Rules) -> Instant {
        match self {
            Self::Typing(typist) if typist.untold => typist.deadline.min(typist.announced + rules.renewal),
            Self::Typing(typist) => typist.deadline,
            Self::Stopped { forgotten, .. } => *forgotten,
        }
    }
}

impl Typist {
    /// Whether this gateway is a new one.
    fn types_at(&mut self, gateway: &str) -> bool {
        if self.gateways.iter().any(|known| known == gateway) {
            return false;
        }
        if self.gateways.len() == GATEWAYS_MAX {
            self.gateways.remove(0);
        }
        self.gateways.push(gateway.to_owned());
        true
    }

    /// Whether it was a known one.
    fn leaves(&mut self, gateway: &str) -> bool {
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
        self.untold = false;
        let note = Note { age: self.age(now), ..Note::default() };
        Announcement { event: self.event(key), kind: Kind::Renewal, note }
    }
}

impl Typists {
    /// Nobody is known to type. As others may know better, see [`Typists::doubt`].
    pub fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            entries: BTreeMap::new(),
            wakes: BTreeSet::new(),
            typing: 0,
            refused: 0,
            quiet_until: now,
            unsure_until: now + rules.heard(),
        }
    }

    /// Announcements may have been missed. Nothing ends by itself until renewals had the time to arrive, and for as
    /// long as a missed start can matter, a stop is passed on although nobody is known to type.
    pub fn doubt(&mut self, now: Instant) {
        self.quiet_until = now + self.rules.renewal + self.rules.grace;
        self.unsure_until = now + self.rules.heard();
    }

    /// Takes what a user did at the keyboard, so long ago.
    pub fn input(&mut self, input: TypingInput, age: Duration, now: Instant) -> Option<Announcement> {
        let key = (input.conversation_id, input.user_id);
        let at = now.checked_sub(age).unwrap_or(now);
        match input.keyboard {
            Keyboard::Typing => self.typed(key, input.username, input.gateway, at, now),
            Keyboard::Stopped => self.stopped(key, input.username, None, at, now),
            Keyboard::Left => self.left(key, input.username, input.gateway, at, now),
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
        let (owned, renewal) = (self.rules.owned(), self.rules.renewal);
        if self.is_typing(key) {
            return self.change(key, |typist| {
                typist.last = at.max(typist.last);
                typist.owned = true;
                typist.deadline = typist.last + owned;
                // The others must know every gateway, or they would take the end at one for the end at all.
                if typist.types_at(&gateway) || now >= typist.announced + renewal {
                    return Some(typist.renewal(key, now));
                }
                typist.untold = true;
                None
            });
        }
        let typist = Typist {
            username,
            gateways: vec![gateway],
            last: at,
            owned: true,
            announced: now,
            untold: false,
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
        let told = self.change(key, |typist| {
            let known = typist.leaves(&gateway);
            over = typist.gateways.is_empty();
            let note = Note { age: typist.age(now), left: Some(gateway.clone()), ..Note::default() };
            (known && !over).then(|| Announcement { event: typist.event(key), kind: Kind::Renewal, note })
        });
        if over { self.stopped(key, username, Some(gateway), at, now) } else { told }
    }

    /// The end of all typing, or of that at the only gateway there is. Of someone who isn't known to type it is news
    /// only where that may be for lack of knowledge.
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
        // Of two, the wider one holds.
        let gateway = match self.entries.get(&key) {
            Some(Entry::Stopped { gateway: None, .. }) => None,
            _ => gateway,
        };
        let news = self.is_typing(key) || now < self.unsure_until;
        self.insert(key, Entry::Stopped { gateway, stopped: at, forgotten: now + REMEMBERED });
        let age = now.saturating_duration_since(at);
        news.then(|| ended(key, username, age))
    }

    /// Takes what another replica published. This replica's own words must not come back to it.
    pub fn heard(&mut self, event: TypingEvent, note: &Note, now: Instant) -> Option<Announcement> {
        let key = (event.conversation_id, event.user_id);
        let published = now.checked_sub(note.late).unwrap_or(now);
        let last = published.checked_sub(note.age).unwrap_or(published);
        let (deadline, skew) = (published + self.rules.heard(), self.rules.skew);
        if !event.is_typing {
            return match self.entries.get(&key) {
                // Whoever ended it did not know of a later input. If we took that one, they are told.
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
                    typist.types_at(gateway);
                }
                if let Some(left) = &note.left {
                    if typist.gateways.len() > 1 {
                        typist.leaves(left);
                    }
                    return None; // It tells of no input.
                }
                typist.announced = now;
                if !typist.owned || last > typist.last + skew {
                    typist.last = last;
                    typist.owned = false;
                    typist.untold = false;
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
            untold: false,
            deadline,
        };
        self.insert(key, Entry::Typing(typist));
        None
    }

    /// When [`Typists::expire`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.wakes.first().map(|(wake, _)| (*wake).max(self.quiet_until))
    }

    /// The next thing that time alone has brought about; to be asked again until there is none.
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

    /// Who types in a conversation, by user, and the age of their last input.
    pub fn who(&self, conversation: ConversationId, now: Instant) -> Vec<(TypingEvent, Duration)> {
        let first = UserId::new(1).expect("1 is an id");
        self.entries
            .range((conversation, first)..)
            .take_while(|((of, _), _)| *of == conversation)
            .filter_map(|(key, entry)| match entry {
                // After a pause, what is over may not have ended yet.
                Entry::Typing(typist) if typist.deadline.max(self.quiet_until) > now => {
                    Some((TypingEvent { gateway: None, ..typist.event(*key) }, typist.age(now)))
                }
                Entry::Typing(_) | Entry::Stopped { .. } => None,
            })
            .collect()
    }

    /// How many people type.
    pub fn typing(&self) -> usize {
        self.typing
    }

    /// How many have not been taken in since this was last asked, as there was no room.
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

    /// Puts in an entry in the place of the one that is there, if any. Says whether there was room.
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

    /// Changes a typist, and keeps the wake in step.
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
