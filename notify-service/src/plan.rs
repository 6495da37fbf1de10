//! Computes the changes of a batch to the inboxes that it has locked, without I/O.

use crate::catalogue::{Catalogue, MESSAGE_RECEIVED, PLAIN, Text};
use crate::event::Notice;
use crate::ops::{Covered, Membership, Moved, Mute, Op, OpKind, Received, Step};
use contract::{
    ConversationId, NotificationId, Seq, Timestamp, TraceParent, UserId,
    chat::Marker,
    notify::{InboxEvent, InboxRead, InboxSeen, Notification, ReadPlace},
};
use serde_json::{Map, Value, json, value::RawValue};
use std::collections::{HashMap, HashSet, hash_map::Entry};
use std::time::Duration;
use time::OffsetDateTime;

/// Minimum age of an unread notification of a conversation before another one supersedes it (contract, 1.4).
pub const SUPERSEDE_INTERVAL: Duration = Duration::from_secs(1);

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
    /// What the user has seen, if a device ever said so.
    pub seen: Option<InboxSeen>,
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
        let unseen_count = self.seen.map(|seen| seen.unseen_count);
        Some(InboxRead {
            notification_id: id,
            read_at: at,
            unread_count: self.unread_count,
            unseen_count,
            all,
        })
    }

    /// Counts an unread notification that was marked as read.
    pub fn count_read(&mut self, id: NotificationId) {
        self.unread_count -= 1;
        if let Some(seen) = self.seen.as_mut().filter(|seen| id > seen.notification_id) {
            seen.unseen_count -= 1;
        }
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
#[derive(Debug, Clone)]
pub struct UnreadMessages {
    /// The id of the notification.
    pub id: NotificationId,
    /// The messages that it covers.
    pub summary: MessageSummary,
    /// The time at which it was created.
    pub created_at: Timestamp,
    /// Since when its first message is unread, if that may cause a reminder.
    pub since: Option<OffsetDateTime>,
}

/// The state before a batch, read while the inboxes are locked.
#[derive(Default)]
pub struct Known {
    /// The inboxes of all users of the batch.
    pub inboxes: HashMap<UserId, Inbox>,
    /// The unread notifications of the conversations of the batch.
    pub unread: HashMap<Membership, UnreadMessages>,
    /// The markers of these conversations.
    pub markers: HashMap<Membership, Reached>,
    /// The newest messages of these conversations that notifications covered which were read without the marker.
    pub notified: HashMap<Membership, i64>,
    /// Notifications that events of the batch have already created.
    pub repeated: HashMap<(UserId, String), Notification>,
}

impl Known {
    /// Whether an operation may create a notification.
    pub fn may_add(&self, op: &Op) -> bool {
        match (&op.kind, op.membership()) {
            (OpKind::Read(moved), Some(membership)) => {
                self.unread.get(&membership).is_some_and(|unread| corrected(unread, moved).is_some())
            }
            (OpKind::Mute(_), _) => false,
            _ => true,
        }
    }
}

/// The messages that a `message_received` covers.
#[derive(Debug, Clone)]
pub struct MessageSummary {
    pub conversation: ConversationId,
    /// The newest message.
    pub message: i64,
    /// Its `seq`, if known.
    pub seq: Option<Seq>,
    /// The sender of the newest message; `None` if an earlier release stored the notification, or the sender is erased.
    pub sender: Option<UserId>,
    /// Its sender; `None` if an earlier release stored the notification.
    pub sender_username: Option<String>,
    /// Its kind; `None` for a plain message.
    pub kind: Option<String>,
    /// Number of unread messages when the notification was created.
    pub count: i64,
    /// Whether the user had muted the conversation at the newest message.
    pub muted: bool,
}

impl MessageSummary {
    /// The summary of a message for a user, before the unread messages are counted.
    fn of(received: &Received, user: UserId) -> Self {
        Self {
            conversation: received.conversation,
            message: received.message.get(),
            seq: received.seq,
            sender: Some(received.sender),
            sender_username: Some(received.sender_username.clone()),
            kind: received.kind.clone(),
            count: 0,
            muted: received.muted.contains(&user),
        }
    }
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
    /// Since when it, or what it supersedes, is unread; `None` if that is its own time.
    pub since: Option<OffsetDateTime>,
}

/// The changes of a batch.
#[derive(Default)]
pub struct Changes {
    /// New notifications, by id.
    pub added: Vec<Added>,
    /// Older notifications that become read.
    pub read: Vec<(UserId, NotificationId)>,
    /// Conversations that are read.
    pub ended: Vec<Membership>,
    /// Conversations that are read in part: the unread notification, and since when the rest of it is unread.
    pub shortened: HashMap<Membership, (NotificationId, OffsetDateTime)>,
    /// Mutes, the last one of each conversation.
    pub mutes: HashMap<Membership, Mute>,
    /// Markers that move.
    pub markers: HashMap<Membership, Reached>,
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
    /// Conversations in which a notification is still to come, because the unread one that it would supersede is
    /// younger than [`SUPERSEDE_INTERVAL`], and the time after which it can: their operations are to be repeated then.
    pub early: HashMap<Membership, Duration>,
}

/// Computes the changes of a batch.
pub struct Plan<'a> {
    catalogue: &'a Catalogue,
    at: Timestamp,
    ids: std::vec::IntoIter<NotificationId>,
    known: Known,
    seen: HashSet<(UserId, String)>,
    /// Markers for the users' own sockets, the last one of each conversation.
    moved: HashMap<Membership, Marker>,
    /// The new messages and idempotency keys of unread notifications with a count that a late marker corrects. A
    /// message of the batch may supersede such a notification before.
    late: HashMap<Membership, (MessageSummary, String)>,
    changes: Changes,
}

impl<'a> Plan<'a> {
    /// Creates a plan from the state before the batch. There is one id for each possible notification, in ascending
    /// order.
    pub fn new(catalogue: &'a Catalogue, at: Timestamp, ids: Vec<NotificationId>, known: Known) -> Self {
        let (seen, moved, late, changes) = Default::default();
        Self { catalogue, at, ids: ids.into_iter(), known, seen, moved, late, changes }
    }

    /// Returns the changes of these operations, applied in order.
    pub fn run(mut self, steps: &[Step<'_>]) -> Changes {
        for Step { op, covered } in steps {
            let before = self.changes.updates.len();
            match &op.kind {
                OpKind::Notice(notice) => self.notice(op.user, notice),
                OpKind::Message(message) => self.message(op.user, message, covered),
                OpKind::Read(moved) => self.read(op.user, moved),
                OpKind::Mute(mute) => self.mute(op.user, *mute),
            }
            if let Some(cause) = op.cause {
                self.changes
                    .causes
                    .extend((before..self.changes.updates.len()).map(|update| (update, cause)));
            }
        }
        for (membership, (summary, key)) in std::mem::take(&mut self.late) {
            let old = self.known.unread.get(&membership).cloned();
            self.show_messages(membership.0, summary, old.as_ref(), key);
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
        self.add(user, content, notice.key.clone(), Source::default());
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

    /// Applies a message, which stands for all that it covers.
    fn message(&mut self, user: UserId, received: &Received, covered: &Covered) {
        let membership = (user, received.conversation);
        let notified = self.known.notified.get(&membership).copied().unwrap_or_default();
        let read = self.marker(membership).max(notified);
        if self.is_repeated(user, &received.key) || read >= received.message.get() {
            return;
        }
        if covered.has_first {
            self.learn_marker(membership);
        }
        if received.silent {
            return;
        }
        if let (Some(marker), Some(seq)) = (self.moved.get_mut(&membership), received.seq) {
            marker.unread_count = marker.unread_count.max(Some(seq - marker.seq));
        }
        let old = self.known.unread.get(&membership).cloned();
        // Replicas may process log entries out of order: a notification never returns to an older message.
        let newest = match &old {
            Some(UnreadMessages { summary: old, .. }) if old.message > received.message.get() => old.clone(),
            _ => MessageSummary::of(received, user),
        };
        let after = old.as_ref().map_or(read, |old| old.summary.message.max(read));
        let fresh = covered.ids.iter().filter(|message| message.get() > after).count();
        let old_count = old.as_ref().map_or(0, |old| old.summary.count);
        let count =
            self.count_unread(membership, newest.seq, old_count, i64::try_from(fresh).unwrap_or(i64::MAX));
        if old.is_some() && fresh == 0 && count <= old_count {
            return;
        }
        let summary = MessageSummary { count, ..newest };
        self.show_messages(user, summary, old.as_ref(), received.key.clone());
    }

    /// Adds the `message_received` of these messages, which supersedes the `old` one, unless that one is too young.
    fn show_messages(
        &mut self,
        user: UserId,
        summary: MessageSummary,
        old: Option<&UnreadMessages>,
        key: String,
    ) {
        let MessageSummary { conversation, message, count, .. } = summary;
        if let Some(old) = old {
            let age = OffsetDateTime::from(self.at) - OffsetDateTime::from(old.created_at);
            let wait = SUPERSEDE_INTERVAL.saturating_sub(age.try_into().unwrap_or_default());
            if !wait.is_zero() {
                self.changes.early.insert((user, conversation), wait);
                return;
            }
            self.mark(user, old.id);
            self.late.remove(&(user, conversation));
            self.changes.superseded += 1;
        }
        let text = message_text(self.catalogue, self.language(user), &summary);
        let kind = summary.kind.as_ref().map(|kind| format!(r#","kind":"{kind}""#)).unwrap_or_default();
        let muted = if summary.muted { r#","muted":true"# } else { "" };
        let data = format!(
            r#"{{"conversation_id":{conversation},"message_id":{message},"count":{count}{kind}{muted}}}"#
        );
        let data = RawValue::from_string(data).unwrap_or_else(|_| contract::event::empty_object());
        let content = Content { kind: MESSAGE_RECEIVED, text, data, replaces: old.map(|old| old.id) };
        let since = old.and_then(|old| old.since);
        self.add(user, content, key, Source { summary: Some(summary), since });
    }

    /// Before the first message of a conversation, nothing was read: from then on, the seq of the marker is known.
    fn learn_marker(&mut self, membership: Membership) {
        if let Entry::Vacant(unknown) = self.known.markers.entry(membership) {
            let nothing = Reached { message: 0, seq: Some(0) };
            unknown.insert(nothing);
            self.changes.markers.insert(membership, nothing);
        }
    }

    /// Counts a conversation's unread messages up to `seq`: those after the user's marker. If the `seq` of the marker
    /// isn't known, because an earlier release or an import set it, adds the `fresh` ones to the count of the unread
    /// notification.
    fn count_unread(&self, membership: Membership, seq: Option<Seq>, old_count: i64, fresh: i64) -> i64 {
        let read = self.known.markers.get(&membership).and_then(|reached| reached.seq);
        match (seq, read) {
            (Some(seq), Some(read)) if seq > read => seq - read,
            _ => old_count + fresh,
        }
    }

    fn read(&mut self, user: UserId, moved: &Moved) {
        let membership = (user, moved.conversation);
        let (before, message) = (self.marker(membership), moved.message.get());
        if before <= message {
            // Also if it is already there: the replica that stored it may have ended before it published the marker.
            self.publish_marker(membership, moved);
        }
        if before > message {
            return;
        }
        if before < message {
            let reached = Reached { message, seq: moved.seq };
            self.known.markers.insert(membership, reached);
            self.changes.markers.insert(membership, reached);
        }
        let Some(unread) = self.known.unread.get(&membership).cloned() else { return };
        if unread.summary.message > message {
            if before < message {
                self.shorten(membership, &unread, moved);
            }
            if let Some(summary) = corrected(&unread, moved) {
                self.late.insert(membership, (summary, format!("read:{message}:{}", unread.id)));
            }
            return;
        }
        self.known.unread.remove(&membership);
        self.late.remove(&membership);
        self.changes.shortened.remove(&membership);
        self.mark(user, unread.id);
        self.changes.ended.push(membership);
        let at = self.at;
        let inbox = self.inbox_mut(user);
        inbox.last_read = Some(LastRead { id: unread.id, at, all: false });
        inbox.reads += 1;
        let (read, place) = (inbox.read(), Some(inbox.read_place()));
        let update = read.map(|read| InboxUpdate { user, event: InboxEvent::Read(read), place });
        self.changes.updates.extend(update);
    }

    /// Starts the episode of the messages after a marker. If there is only one, that is its time; otherwise that of the
    /// first one is not known, but it came before now.
    fn shorten(&mut self, membership: Membership, unread: &UnreadMessages, moved: &Moved) {
        if unread.since.is_none() {
            return;
        }
        let rest = unread.summary.seq.zip(moved.seq).map(|(newest, read)| newest - read);
        let since = if rest == Some(1) { unread.created_at } else { self.at };
        self.changes.shortened.insert(membership, (unread.id, since.into()));
        if let Some(unread) = self.known.unread.get_mut(&membership) {
            unread.since = Some(since.into());
        }
    }

    fn mute(&mut self, user: UserId, mute: Mute) {
        let last = self.changes.mutes.entry((user, mute.conversation)).or_insert(mute);
        if last.change < mute.change {
            *last = mute;
        }
    }

    /// Publishes a new marker to the user's own sockets, so that the user's other devices show the unread count, and
    /// after a message of the user, that message in their lists of conversations.
    fn publish_marker(&mut self, membership: Membership, moved: &Moved) {
        let (user_id, conversation_id) = membership;
        // The marker may come after messages that were sent after the move.
        let newest = self.known.unread.get(&membership).and_then(|unread| unread.summary.seq);
        let unread_after = |seq: Seq| newest.map(|newest| (newest - seq).max(0));
        let marker = match (&moved.marker, moved.seq) {
            (Some(marker), _) => {
                let unread_count = marker.unread_count.max(unread_after(marker.seq));
                Marker { by_sending: false, unread_count, ..**marker }
            }
            (None, Some(seq)) if self.marker(membership) < moved.message.get() => Marker {
                conversation_id,
                user_id,
                message_id: moved.message,
                seq,
                read_at: self.at,
                unread_count: unread_after(seq).or(Some(0)),
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

    /// Whether an event has already created its notification. A notification of an earlier batch is published again,
    /// because the process that committed the batch may have ended before it published. Receivers drop repeats.
    fn is_repeated(&mut self, user: UserId, key: &str) -> bool {
        let named = (user, key.to_owned());
        if let Some(mut shown) = self.known.repeated.remove(&named) {
            let inbox = self.inbox(user);
            shown.unread_count = inbox.unread_count;
            shown.unseen_count = inbox.seen.map(|seen| seen.unseen_count);
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

    fn add(&mut self, user: UserId, content: Content<'_>, key: String, source: Source) {
        let Some(id) = self.ids.next() else { return };
        let at = self.at;
        let inbox = self.inbox_mut(user);
        inbox.last_seq += 1;
        inbox.last_id = id.get();
        inbox.unread_count += 1;
        if let Some(seen) = &mut inbox.seen {
            seen.unseen_count += 1;
        }
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
            unseen_count: inbox.seen.map(|seen| seen.unseen_count),
            replaces: content.replaces,
            archived_at: None,
        };
        let event = InboxEvent::Notification(shown.clone());
        self.changes.updates.push(InboxUpdate { user, event, place: None });
        let Source { summary, since } = source;
        self.changes.added.push(Added { user, shown, key, summary, since });
    }

    /// Marks an unread notification as read.
    fn mark(&mut self, user: UserId, unread: NotificationId) {
        self.changes.read.push((user, unread));
        self.inbox_mut(user).count_read(unread);
    }

    fn marker(&self, membership: Membership) -> i64 {
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

/// The text of a `message_received`.
pub fn message_text(catalogue: &Catalogue, lang: &str, summary: &MessageSummary) -> Text {
    let MessageSummary { conversation, message, sender_username, kind, count, .. } = summary;
    let sender = sender_username.as_deref().unwrap_or_default();
    let parameters: Map<String, Value> = Map::from_iter([
        ("sender_username".to_owned(), json!(sender)),
        ("count".to_owned(), json!(count)),
        ("conversation_id".to_owned(), json!(conversation)),
        ("message_id".to_owned(), json!(message)),
        ("kind".to_owned(), json!(kind.as_deref().unwrap_or(PLAIN))),
    ]);
    // Loading a catalogue fails if it can't render this text.
    catalogue
        .text(MESSAGE_RECEIVED, lang, &parameters)
        .unwrap_or_else(|_| Text { title: MESSAGE_RECEIVED.to_owned(), message: sender.to_owned() })
}

/// The messages of an unread notification, counted from a marker that came late: the replica that processed it was
/// killed or slower than the one that processed a later message. `None` if the notification is right. If the marker
/// moved after the newest of these messages, it is: all of them were unread then.
fn corrected(unread: &UnreadMessages, moved: &Moved) -> Option<MessageSummary> {
    let UnreadMessages { summary, .. } = unread;
    let (newest, read, last) = (summary.seq?, moved.seq?, moved.last_seq()?);
    summary.sender_username.as_ref()?;
    let count = newest - read;
    (last < newest && count < summary.count).then(|| MessageSummary { count, ..summary.clone() })
}

/// What a notification is made from, besides its content.
#[derive(Default)]
struct Source {
    /// [`Added::summary`].
    summary: Option<MessageSummary>,
    /// [`Added::since`].
    since: Option<OffsetDateTime>,
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
