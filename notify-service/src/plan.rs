//! Computes the changes of a batch to the inboxes that it has locked, without I/O.

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

/// One operation on one user's inbox. Repeating it changes nothing.
#[derive(Debug, Clone)]
pub struct Op {
    pub user: UserId,
    pub kind: OpKind,
    /// Parent span, if the operation is traced.
    pub cause: Option<TraceParent>,
}

/// The kind of an operation.
#[derive(Debug, Clone)]
pub enum OpKind {
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
    pub conversation: ConversationId,
    /// The last message that was read.
    pub message: MessageId,
    /// Its `seq`, if chat-service sent it.
    pub seq: Option<Seq>,
    /// The marker as chat-service published it; `None` if it moved because the user sent the message.
    pub marker: Option<Box<Marker>>,
}

/// A message that a user has received.
#[derive(Debug)]
pub struct Received {
    /// Idempotency key.
    pub key: String,
    pub conversation: ConversationId,
    pub message: MessageId,
    /// Its `seq`, if chat-service sent it.
    pub seq: Option<Seq>,
    pub sender_username: String,
}

impl Op {
    /// The idempotency key; `None` if the operation creates no notification.
    pub fn key(&self) -> Option<&str> {
        match &self.kind {
            OpKind::Notice(notice) => Some(&notice.key),
            OpKind::Message(message) => Some(&message.key),
            OpKind::Read(..) => None,
        }
    }

    /// The conversation that it concerns.
    pub fn conversation(&self) -> Option<ConversationId> {
        match &self.kind {
            OpKind::Notice(_) => None,
            OpKind::Message(message) => Some(message.conversation),
            OpKind::Read(moved) => Some(moved.conversation),
        }
    }
}

/// A user's inbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbox {
    /// The last `seq`; 0 if the inbox is empty.
    pub last_seq: Seq,
    /// The id of the last notification; 0 if the inbox is empty.
    pub last_id: i64,
    pub unread_count: i64,
    /// Number of times that notifications were marked as read.
    pub reads: i64,
    /// Number of the user's marker moves that were published to the user's sockets.
    pub moves: i64,
    /// The last of these markers.
    pub last_moved: Option<Marker>,
    /// The user's last known language.
    pub lang: Option<String>,
    /// The last time that notifications were marked as read.
    pub last_read: Option<LastRead>,
}

/// The last time that notifications of an inbox were marked as read, as published to its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    pub id: NotificationId,
    pub at: Timestamp,
    /// Whether all notifications up to this one were read.
    pub all: bool,
}

impl Inbox {
    /// The frame of the last read, with the current unread count.
    pub fn read(&self) -> Option<InboxRead> {
        let LastRead { id, at, all } = self.last_read?;
        Some(InboxRead { notification_id: id, read_at: at, unread_count: self.unread_count, all })
    }

    /// The position of that frame among the inbox's changes.
    pub const fn read_place(&self) -> ReadPlace {
        ReadPlace { seq: self.last_seq, reads: self.reads }
    }
}

/// How far a user has read a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The last message that was read; 0 if none.
    pub message: i64,
    /// Its `seq`, if known.
    pub seq: Option<Seq>,
}

/// The unread `message_received` of a conversation.
#[derive(Debug, Clone, Copy)]
pub struct UnreadMessages {
    /// The id of the notification.
    pub id: NotificationId,
    /// The newest message.
    pub message: i64,
    /// Its `seq`, if known.
    pub seq: Option<Seq>,
    /// Number of unread messages when the notification was created.
    pub count: i64,
    /// Index in [`Changes::added`], if the notification is new.
    pub added: Option<usize>,
}

/// The state before a batch, read while the inboxes are locked.
#[derive(Default)]
pub struct Known {
    /// The inboxes of all users of the batch.
    pub inboxes: HashMap<UserId, Inbox>,
    /// The unread notifications of the conversations of the batch.
    pub unread: HashMap<(UserId, ConversationId), UnreadMessages>,
    /// The markers of these conversations.
    pub markers: HashMap<(UserId, ConversationId), Reached>,
    /// Notifications that events of the batch have already created.
    pub repeated: HashMap<(UserId, String), Notification>,
}

/// The messages that a `message_received` covers.
#[derive(Debug, Clone, Copy)]
pub struct MessageSummary {
    pub conversation: ConversationId,
    /// The newest message.
    pub message: i64,
    /// Its `seq`, if known.
    pub seq: Option<Seq>,
    /// Number of unread messages when the notification was created.
    pub count: i64,
}

/// An event for a user's sockets.
#[derive(Debug)]
pub struct InboxUpdate {
    pub user: UserId,
    pub event: InboxEvent,
    /// Position of an [`InboxEvent::Read`] among the inbox's changes.
    pub place: Option<ReadPlace>,
}

/// A notification to store.
#[derive(Debug)]
pub struct Added {
    pub user: UserId,
    /// The notification as clients receive it.
    pub shown: Notification,
    /// [`Op::key`].
    pub key: String,
    /// The messages that a `message_received` covers.
    pub summary: Option<MessageSummary>,
    /// Whether a later operation of the same batch has marked it as read.
    pub read: bool,
}

/// The changes of a batch.
#[derive(Default)]
pub struct Changes {
    /// New notifications, by id.
    pub added: Vec<Added>,
    /// Older notifications that become read.
    pub read: Vec<(UserId, NotificationId)>,
    /// Markers that move.
    pub markers: HashMap<(UserId, ConversationId), Reached>,
    /// New states of the inboxes that change.
    pub inboxes: HashMap<UserId, Inbox>,
    /// Events to publish after the commit, in this order.
    pub updates: Vec<InboxUpdate>,
    /// For each traced event: its index in `updates`, ascending, and its parent span.
    pub causes: Vec<(usize, TraceParent)>,
    /// Number of operations whose notification already existed.
    pub repeated: usize,
    /// Number of superseded notifications.
    pub superseded: usize,
}

/// Computes the changes of a batch.
pub struct Plan<'a> {
    catalogue: &'a Catalogue,
    at: Timestamp,
    ids: std::vec::IntoIter<NotificationId>,
    known: Known,
    seen: HashSet<(UserId, String)>,
    /// Markers for the users' own sockets, the last one of each conversation.
    moved: HashMap<(UserId, ConversationId), Marker>,
    changes: Changes,
}

impl<'a> Plan<'a> {
    /// Creates a plan from the state before the batch. There is one id for each possible notification, in ascending
    /// order.
    pub fn new(catalogue: &'a Catalogue, at: Timestamp, ids: Vec<NotificationId>, known: Known) -> Self {
        let (seen, moved, changes) = Default::default();
        Self { catalogue, at, ids: ids.into_iter(), known, seen, moved, changes }
    }

    /// Returns the changes of these operations, applied in order.
    pub fn run(mut self, ops: &[Op]) -> Changes {
        for op in ops {
            let before = self.changes.updates.len();
            match &op.kind {
                OpKind::Notice(notice) => self.notice(op.user, notice),
                OpKind::Message(message) => self.message(op.user, message),
                OpKind::Read(moved) => self.read(op.user, moved),
            }
            if let Some(cause) = op.cause {
                self.changes
                    .causes
                    .extend((before..self.changes.updates.len()).map(|update| (update, cause)));
            }
        }
        for ((user, _), marker) in std::mem::take(&mut self.moved) {
            let event = InboxEvent::marker(marker, self.inbox(user).moves);
            self.changes.updates.push(InboxUpdate { user, event, place: None });
        }
        self.changes
    }

    fn notice(&mut self, user: UserId, notice: &Notice) {
        if self.is_repeated(user, &notice.key) {
            return;
        }
        let text = self.notice_text(user, notice);
        let content = Content { kind: &notice.kind, text, data: notice.data.clone(), replaces: None };
        self.add(user, content, notice.key.clone(), None);
    }

    /// The text in the user's language, unless the event determines the language.
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
        let membership = (user, received.conversation);
        if self.is_repeated(user, &received.key) || self.marker(membership) >= received.message.get() {
            return;
        }
        let old = self.known.unread.get(&membership).copied();
        if let Some(old) = old {
            self.mark(user, old);
            self.changes.superseded += 1;
        }
        // Replicas may process log entries out of order: a notification never returns to an older message.
        let (message, seq) = match old {
            Some(old) if old.message > received.message.get() => (old.message, old.seq),
            _ => (received.message.get(), received.seq),
        };
        let count = self.count_unread(membership, received, seq, old);
        let sender = &received.sender_username;
        let parameters: Map<String, Value> = Map::from_iter([
            ("sender_username".to_owned(), json!(sender)),
            ("count".to_owned(), json!(count)),
            ("conversation_id".to_owned(), json!(received.conversation)),
            ("message_id".to_owned(), json!(message)),
        ]);
        // Loading a catalogue fails if it can't render this text.
        let text = self
            .catalogue
            .text(MESSAGE_RECEIVED, self.language(user), &parameters)
            .unwrap_or_else(|_| Text { title: MESSAGE_RECEIVED.to_owned(), message: sender.clone() });
        let data = format!(
            r#"{{"conversation_id":{},"message_id":{message},"count":{count}}}"#,
            received.conversation
        );
        let data = RawValue::from_string(data).unwrap_or_else(|_| crate::event::empty_object());
        let content = Content { kind: MESSAGE_RECEIVED, text, data, replaces: old.map(|old| old.id) };
        let added = self.changes.added.len();
        let summary = MessageSummary { conversation: received.conversation, message, seq, count };
        if let Some(id) = self.add(user, content, received.key.clone(), Some(summary)) {
            self.known
                .unread
                .insert(membership, UnreadMessages { id, message, seq, count, added: Some(added) });
        }
        if let (Some(marker), Some(seq)) = (self.moved.get_mut(&membership), received.seq) {
            marker.unread_count = marker.unread_count.max(Some(seq - marker.seq));
        }
    }

    /// Counts a conversation's unread messages up to `seq`: those after the user's marker. If the `seq` of the marker
    /// isn't known, because an earlier release or an import set it, adds 1 to the count of the unread notification.
    fn count_unread(
        &mut self,
        membership: (UserId, ConversationId),
        received: &Received,
        seq: Option<Seq>,
        old: Option<UnreadMessages>,
    ) -> i64 {
        if received.seq == Some(1) && !self.known.markers.contains_key(&membership) {
            // Before the first message, nothing was read. From now on, the seq of the marker is known.
            let nothing = Reached { message: 0, seq: Some(0) };
            self.known.markers.insert(membership, nothing);
            self.changes.markers.insert(membership, nothing);
        }
        let read = self.known.markers.get(&membership).and_then(|reached| reached.seq);
        match (seq, read) {
            (Some(seq), Some(read)) if seq > read => seq - read,
            _ => old.map_or(0, |old| old.count) + 1,
        }
    }

    fn read(&mut self, user: UserId, moved: &Moved) {
        let membership = (user, moved.conversation);
        let (before, message) = (self.marker(membership), moved.message.get());
        if before <= message {
            // Also if it is already there: the replica that stored it may have ended before it published the marker.
            self.publish_marker(membership, moved);
        }
        if before >= message {
            return;
        }
        let reached = Reached { message, seq: moved.seq };
        self.known.markers.insert(membership, reached);
        self.changes.markers.insert(membership, reached);
        let Some(unread) = self.known.unread.get(&membership).copied() else { return };
        if unread.message > message {
            return;
        }
        self.known.unread.remove(&membership);
        self.mark(user, unread);
        let at = self.at;
        let inbox = self.inbox_mut(user);
        inbox.last_read = Some(LastRead { id: unread.id, at, all: false });
        inbox.reads += 1;
        let (read, place) = (inbox.read(), Some(inbox.read_place()));
        let update = read.map(|read| InboxUpdate { user, event: InboxEvent::Read(read), place });
        self.changes.updates.extend(update);
    }

    /// Publishes a new marker to the user's own sockets, so that the user's other devices show the unread count. A
    /// marker that moved by sending is published only if there were unread messages; otherwise it changes nothing.
    fn publish_marker(&mut self, membership: (UserId, ConversationId), moved: &Moved) {
        let (user_id, conversation_id) = membership;
        let marker = match (&moved.marker, moved.seq) {
            (Some(marker), _) => Marker { by_sending: false, ..**marker },
            (None, Some(seq)) if self.had_unread(membership, moved.message.get(), seq) => Marker {
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
        self.moved.insert(membership, marker);
        if self.marker(membership) < moved.message.get() {
            let inbox = self.inbox_mut(user_id);
            inbox.moves += 1;
            // The unread count at the time of a gateway's request is not known here.
            inbox.last_moved = Some(Marker { unread_count: None, ..marker });
        }
    }

    /// Whether there were unread messages right before the user's own message.
    fn had_unread(&self, membership: (UserId, ConversationId), message: i64, seq: Seq) -> bool {
        match self.known.markers.get(&membership) {
            Some(reached) if reached.message >= message => false,
            Some(Reached { seq: Some(read), .. }) => *read < seq - 1,
            _ => self.known.unread.contains_key(&membership),
        }
    }

    /// Whether an event has already created its notification. A notification of an earlier batch is published again,
    /// because the process that committed the batch may have ended before it published. Receivers drop repeats.
    fn is_repeated(&mut self, user: UserId, key: &str) -> bool {
        let named = (user, key.to_owned());
        if let Some(mut shown) = self.known.repeated.remove(&named) {
            shown.unread_count = self.inbox(user).unread_count;
            self.changes.updates.push(InboxUpdate {
                user,
                event: InboxEvent::Notification(shown),
                place: None,
            });
            self.changes.repeated += 1;
            self.seen.insert(named);
            return true;
        }
        !self.seen.insert(named)
    }

    fn add(
        &mut self,
        user: UserId,
        content: Content<'_>,
        key: String,
        summary: Option<MessageSummary>,
    ) -> Option<NotificationId> {
        let id = self.ids.next()?;
        let at = self.at;
        let inbox = self.inbox_mut(user);
        inbox.last_seq += 1;
        inbox.last_id = id.get();
        inbox.unread_count += 1;
        let shown = Notification {
            kind: content.kind.to_owned(),
            notification_id: id,
            seq: inbox.last_seq,
            title: content.text.title,
            message: content.text.message,
            data: content.data,
            created_at: at,
            is_read: false,
            unread_count: inbox.unread_count,
            replaces: content.replaces,
        };
        let event = InboxEvent::Notification(shown.clone());
        self.changes.updates.push(InboxUpdate { user, event, place: None });
        self.changes.added.push(Added { user, shown, key, summary, read: false });
        Some(id)
    }

    /// Marks an unread notification as read.
    fn mark(&mut self, user: UserId, unread: UnreadMessages) {
        match unread.added.and_then(|index| self.changes.added.get_mut(index)) {
            Some(added) => added.read = true,
            None => self.changes.read.push((user, unread.id)),
        }
        self.inbox_mut(user).unread_count -= 1;
    }

    fn marker(&self, membership: (UserId, ConversationId)) -> i64 {
        self.known.markers.get(&membership).map_or(0, |reached| reached.message)
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

/// The content of a notification, without its position in the inbox.
struct Content<'a> {
    kind: &'a str,
    text: Text,
    data: Box<RawValue>,
    replaces: Option<NotificationId>,
}

#[cfg(test)]
mod tests;
