//! What a batch does to the inboxes that it holds locked: arithmetic only, no I/O.

use crate::catalogue::{Catalogue, MESSAGE_RECEIVED, Text};
use crate::event::Notice;
use contract::{
    ConversationId, MessageId, NotificationId, Seq, Timestamp, TraceParent, UserId,
    chat::Marker,
    notify::{InboxEvent, InboxRead, Notification, ReadPlace},
};
use serde_json::{Map, Value, json, value::RawValue};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// One thing to do to one user's inbox. Doing it again changes nothing.
#[derive(Debug, Clone)]
pub struct Op {
    /// Whose.
    pub user: UserId,
    /// What.
    pub what: What,
    /// The step that it belongs under, if it is traced.
    pub cause: Option<TraceParent>,
}

/// What is done to an inbox.
#[derive(Debug, Clone)]
pub enum What {
    /// An event of another backend.
    Notice(Arc<Notice>),
    /// A message that the user has received.
    Message(Arc<Received>),
    /// The user has read a conversation up to a message.
    Read(Moved),
}

/// A marker that moved.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Where.
    pub conversation: ConversationId,
    /// Up to this message.
    pub message: MessageId,
    /// Its place in the conversation, where chat-service says it.
    pub seq: Option<Seq>,
    /// The marker as chat-service published it; `None` where it moved because the user sent that message.
    pub marker: Option<Box<Marker>>,
}

/// A message, as its recipients are told of it.
#[derive(Debug)]
pub struct Received {
    /// What it is known by when it comes again.
    pub key: String,
    /// Where.
    pub conversation: ConversationId,
    /// Which.
    pub message: MessageId,
    /// Its place in the conversation, where chat-service says it.
    pub seq: Option<Seq>,
    /// Whose.
    pub sender_username: String,
}

impl Op {
    /// What it is known by when it comes again, unless it makes no notification.
    pub fn key(&self) -> Option<&str> {
        match &self.what {
            What::Notice(notice) => Some(&notice.key),
            What::Message(message) => Some(&message.key),
            What::Read(..) => None,
        }
    }

    /// The conversation that it is about.
    pub fn conversation(&self) -> Option<ConversationId> {
        match &self.what {
            What::Notice(_) => None,
            What::Message(message) => Some(message.conversation),
            What::Read(moved) => Some(moved.conversation),
        }
    }
}

/// A user's inbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbox {
    /// The last `seq`; 0 when it is empty.
    pub last_seq: Seq,
    /// The last notification's id; 0 when it is empty.
    pub last_id: i64,
    /// How many are unread.
    pub unread_count: i64,
    /// How often something in it was read.
    pub reads: i64,
    /// How often a marker of the user moved, as the user's sockets were told.
    pub moves: i64,
    /// The last one of these.
    pub last_moved: Option<Marker>,
    /// The language last seen.
    pub lang: Option<String>,
    /// What was read last.
    pub last_read: Option<LastRead>,
}

/// What was read last in an inbox, as its sockets were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    /// The notification.
    pub id: NotificationId,
    /// When.
    pub at: Timestamp,
    /// Whether all up to it were read.
    pub all: bool,
}

impl Inbox {
    /// The frame for what was read last, with the count of now.
    pub fn read(&self) -> Option<InboxRead> {
        let LastRead { id, at, all } = self.last_read?;
        Some(InboxRead { notification_id: id, read_at: at, unread_count: self.unread_count, all })
    }

    /// Where that frame stands among the inbox's changes.
    pub const fn read_place(&self) -> ReadPlace {
        ReadPlace { seq: self.last_seq, reads: self.reads }
    }
}

/// How far a user has read a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Up to this message; 0: nothing.
    pub message: i64,
    /// Its place in the conversation, where it is known.
    pub seq: Option<Seq>,
}

/// The unread notification that stands for a conversation.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// Its id.
    pub id: NotificationId,
    /// Its newest message.
    pub message: i64,
    /// The place of that in the conversation, where it is known.
    pub seq: Option<Seq>,
    /// How many messages were unread then.
    pub count: i64,
    /// Its place in [`Changes::added`], if it is new.
    pub added: Option<usize>,
}

/// What is known before a batch, all of it read while the inboxes were locked.
#[derive(Default)]
pub struct Known {
    /// The inboxes of all its users.
    pub inboxes: HashMap<UserId, Inbox>,
    /// What stands for the conversations that it is about.
    pub standing: HashMap<(UserId, ConversationId), Standing>,
    /// How far they are read.
    pub markers: HashMap<(UserId, ConversationId), Reached>,
    /// The notifications that some of its events have made before.
    pub repeated: HashMap<(UserId, String), Notification>,
}

/// What a `message_received` stands for.
#[derive(Debug, Clone, Copy)]
pub struct StandsFor {
    /// The conversation.
    pub conversation: ConversationId,
    /// Its newest message.
    pub message: i64,
    /// The place of that in the conversation, where it is known.
    pub seq: Option<Seq>,
    /// How many messages were unread then.
    pub count: i64,
}

/// What a user's sockets receive.
#[derive(Debug)]
pub struct Told {
    /// Whose.
    pub user: UserId,
    /// What.
    pub event: InboxEvent,
    /// Where it stands, for [`InboxEvent::Read`].
    pub place: Option<ReadPlace>,
}

/// A notification to store.
#[derive(Debug)]
pub struct Added {
    /// Whose.
    pub user: UserId,
    /// What the user is shown.
    pub shown: Notification,
    /// [`Op::key`].
    pub key: String,
    /// With a `message_received`.
    pub stands_for: Option<StandsFor>,
    /// Whether something later in the same batch has made it read.
    pub read: bool,
}

/// What a batch changes.
#[derive(Default)]
pub struct Changes {
    /// New notifications, by id.
    pub added: Vec<Added>,
    /// Older ones that become read.
    pub read: Vec<(UserId, NotificationId)>,
    /// Markers that move.
    pub markers: HashMap<(UserId, ConversationId), Reached>,
    /// What becomes of the inboxes that change.
    pub inboxes: HashMap<UserId, Inbox>,
    /// What is told, in this order, once all that is committed.
    pub told: Vec<Told>,
    /// Of those that are traced: each one's index, growing, and the step that it belongs under.
    pub causes: Vec<(usize, TraceParent)>,
    /// How many events had made their notification before.
    pub repeated: usize,
    /// How many notifications were superseded.
    pub superseded: usize,
}

/// Works out a batch.
pub struct Plan<'a> {
    catalogue: &'a Catalogue,
    at: Timestamp,
    ids: std::vec::IntoIter<NotificationId>,
    known: Known,
    seen: HashSet<(UserId, String)>,
    /// Markers that the users' own sockets receive, the last one of each conversation.
    moved: HashMap<(UserId, ConversationId), Marker>,
    changes: Changes,
}

impl<'a> Plan<'a> {
    /// Starts from what is known, with one id for each notification that there may be, in ascending order.
    pub fn new(catalogue: &'a Catalogue, at: Timestamp, ids: Vec<NotificationId>, known: Known) -> Self {
        let (seen, moved, changes) = Default::default();
        Self { catalogue, at, ids: ids.into_iter(), known, seen, moved, changes }
    }

    /// What the operations change, done one after the other.
    pub fn run(mut self, ops: &[Op]) -> Changes {
        for op in ops {
            let before = self.changes.told.len();
            match &op.what {
                What::Notice(notice) => self.notice(op.user, notice),
                What::Message(message) => self.message(op.user, message),
                What::Read(moved) => self.read(op.user, moved),
            }
            if let Some(cause) = op.cause {
                self.changes.causes.extend((before..self.changes.told.len()).map(|told| (told, cause)));
            }
        }
        for ((user, _), marker) in std::mem::take(&mut self.moved) {
            let event = InboxEvent::marker(marker, self.inbox(user).moves);
            self.changes.told.push(Told { user, event, place: None });
        }
        self.changes
    }

    fn notice(&mut self, user: UserId, notice: &Notice) {
        if self.is_repeated(user, &notice.key) {
            return;
        }
        let text = self.notice_text(user, notice);
        let shown = Shown { kind: &notice.kind, text, data: notice.data.clone(), replaces: None };
        self.add(user, shown, notice.key.clone(), None);
    }

    /// In the user's own language, where the event leaves that open.
    fn notice_text(&self, user: UserId, notice: &Notice) -> Text {
        let lang = self.language(user);
        if !notice.translated || lang == notice.lang {
            return notice.text.clone();
        }
        match self.catalogue.text(&notice.kind, lang, &notice.parameters) {
            Ok(text) => notice.own.over(text),
            Err(_) => notice.text.clone(),
        }
    }

    fn message(&mut self, user: UserId, received: &Received) {
        let place = (user, received.conversation);
        if self.is_repeated(user, &received.key) || self.marker(place) >= received.message.get() {
            return;
        }
        let old = self.known.standing.get(&place).copied();
        if let Some(old) = old {
            self.mark(user, old);
            self.changes.superseded += 1;
        }
        // Replicas may take entries of the log out of turn: a notification never goes back to an older message.
        let (message, seq) = match old {
            Some(old) if old.message > received.message.get() => (old.message, old.seq),
            _ => (received.message.get(), received.seq),
        };
        let count = self.unread(place, received, seq, old);
        let sender = &received.sender_username;
        let parameters: Map<String, Value> = Map::from_iter([
            ("sender_username".to_owned(), json!(sender)),
            ("count".to_owned(), json!(count)),
            ("conversation_id".to_owned(), json!(received.conversation)),
            ("message_id".to_owned(), json!(message)),
        ]);
        // The catalogue was not taken unless it has this text.
        let text = self
            .catalogue
            .text(MESSAGE_RECEIVED, self.language(user), &parameters)
            .unwrap_or_else(|_| Text { title: MESSAGE_RECEIVED.to_owned(), message: sender.clone() });
        let data = format!(
            r#"{{"conversation_id":{},"message_id":{message},"count":{count}}}"#,
            received.conversation
        );
        let data = RawValue::from_string(data).unwrap_or_else(|_| crate::event::empty_object());
        let shown = Shown { kind: MESSAGE_RECEIVED, text, data, replaces: old.map(|old| old.id) };
        let added = self.changes.added.len();
        let stands_for = StandsFor { conversation: received.conversation, message, seq, count };
        if let Some(id) = self.add(user, shown, received.key.clone(), Some(stands_for)) {
            self.known.standing.insert(place, Standing { id, message, seq, count, added: Some(added) });
        }
        if let (Some(marker), Some(seq)) = (self.moved.get_mut(&place), received.seq) {
            marker.unread_count = marker.unread_count.max(Some(seq - marker.seq));
        }
    }

    /// How many of a conversation's messages a user has not read, with the newest one at `seq`: the messages after the
    /// user's marker. Where that isn't known (it was set by an earlier release, or by an import), they are counted from
    /// what stands for them.
    fn unread(
        &mut self,
        place: (UserId, ConversationId),
        received: &Received,
        seq: Option<Seq>,
        old: Option<Standing>,
    ) -> i64 {
        if received.seq == Some(1) && !self.known.markers.contains_key(&place) {
            // Nobody has read anything before the first message: from now on it is known.
            let nothing = Reached { message: 0, seq: Some(0) };
            self.known.markers.insert(place, nothing);
            self.changes.markers.insert(place, nothing);
        }
        let read = self.known.markers.get(&place).and_then(|reached| reached.seq);
        match (seq, read) {
            (Some(seq), Some(read)) if seq > read => seq - read,
            _ => old.map_or(0, |old| old.count) + 1,
        }
    }

    fn read(&mut self, user: UserId, moved: &Moved) {
        let place = (user, moved.conversation);
        let (before, message) = (self.marker(place), moved.message.get());
        if before <= message {
            // Also where it is there already: who stored it may have ended before it told anyone.
            self.tell_marker(place, moved);
        }
        if before >= message {
            return;
        }
        let reached = Reached { message, seq: moved.seq };
        self.known.markers.insert(place, reached);
        self.changes.markers.insert(place, reached);
        let Some(standing) = self.known.standing.get(&place).copied() else { return };
        if standing.message > message {
            return;
        }
        self.known.standing.remove(&place);
        self.mark(user, standing);
        let at = self.at;
        let inbox = self.inbox_mut(user);
        inbox.last_read = Some(LastRead { id: standing.id, at, all: false });
        inbox.reads += 1;
        let (read, place) = (inbox.read(), Some(inbox.read_place()));
        let told = read.map(|read| Told { user, event: InboxEvent::Read(read), place });
        self.changes.told.extend(told);
    }

    /// The user's own sockets receive the new marker: the others' devices show how much is unread. One that moved by
    /// sending only where something was unread before: it changes nothing else.
    fn tell_marker(&mut self, place: (UserId, ConversationId), moved: &Moved) {
        let (user_id, conversation_id) = place;
        let marker = match (&moved.marker, moved.seq) {
            (Some(marker), _) => Marker { by_sending: false, ..**marker },
            (None, Some(seq)) if self.had_unread(place, moved.message.get(), seq) => Marker {
                conversation_id,
                user_id,
                message_id: moved.message,
                seq,
                read_at: self.at,
                unread_count: Some(0),
                by_sending: false,
            },
            _ => return,
        };
        self.moved.insert(place, marker);
        if self.marker(place) < moved.message.get() {
            let inbox = self.inbox_mut(user_id);
            inbox.moves += 1;
            // What is unread when a gateway asks is not known here.
            inbox.last_moved = Some(Marker { unread_count: None, ..marker });
        }
    }

    /// Whether something was unread right before the user's own message.
    fn had_unread(&self, place: (UserId, ConversationId), message: i64, seq: Seq) -> bool {
        match self.known.markers.get(&place) {
            Some(reached) if reached.message >= message => false,
            Some(Reached { seq: Some(read), .. }) => *read < seq - 1,
            _ => self.known.standing.contains_key(&place),
        }
    }

    /// Whether an event has made its notification before. One of an earlier batch is told again, as that batch may
    /// have been committed by a process that ended before it told anyone; who knows it drops it.
    fn is_repeated(&mut self, user: UserId, key: &str) -> bool {
        let named = (user, key.to_owned());
        if let Some(mut shown) = self.known.repeated.remove(&named) {
            shown.unread_count = self.inbox(user).unread_count;
            self.changes.told.push(Told { user, event: InboxEvent::Notification(shown), place: None });
            self.changes.repeated += 1;
            self.seen.insert(named);
            return true;
        }
        !self.seen.insert(named)
    }

    fn add(
        &mut self,
        user: UserId,
        shown: Shown<'_>,
        key: String,
        stands_for: Option<StandsFor>,
    ) -> Option<NotificationId> {
        let id = self.ids.next()?;
        let at = self.at;
        let inbox = self.inbox_mut(user);
        inbox.last_seq += 1;
        inbox.last_id = id.get();
        inbox.unread_count += 1;
        let shown = Notification {
            kind: shown.kind.to_owned(),
            notification_id: id,
            seq: inbox.last_seq,
            title: shown.text.title,
            message: shown.text.message,
            data: shown.data,
            created_at: at,
            is_read: false,
            unread_count: inbox.unread_count,
            replaces: shown.replaces,
        };
        let event = InboxEvent::Notification(shown.clone());
        self.changes.told.push(Told { user, event, place: None });
        self.changes.added.push(Added { user, shown, key, stands_for, read: false });
        Some(id)
    }

    /// An unread notification becomes read.
    fn mark(&mut self, user: UserId, standing: Standing) {
        match standing.added.and_then(|index| self.changes.added.get_mut(index)) {
            Some(added) => added.read = true,
            None => self.changes.read.push((user, standing.id)),
        }
        self.inbox_mut(user).unread_count -= 1;
    }

    fn marker(&self, place: (UserId, ConversationId)) -> i64 {
        self.known.markers.get(&place).map_or(0, |reached| reached.message)
    }

    fn language(&self, user: UserId) -> &'a str {
        let lang = self.known.inboxes.get(&user).and_then(|inbox| inbox.lang.as_deref());
        self.catalogue.language(lang)
    }

    fn inbox(&self, user: UserId) -> Inbox {
        let changed = self.changes.inboxes.get(&user);
        changed.or_else(|| self.known.inboxes.get(&user)).cloned().unwrap_or_default()
    }

    fn inbox_mut(&mut self, user: UserId) -> &mut Inbox {
        let known = &self.known.inboxes;
        self.changes.inboxes.entry(user).or_insert_with(|| known.get(&user).cloned().unwrap_or_default())
    }
}

/// What a notification is made of, but for its place in the inbox.
struct Shown<'a> {
    kind: &'a str,
    text: Text,
    data: Box<RawValue>,
    replaces: Option<NotificationId>,
}

#[cfg(test)]
mod tests;
