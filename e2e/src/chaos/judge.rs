//! Compares what was promised and told with what is there at the end. Pure: no I/O and no clock.

use super::{
    ledger::{Board, Ledger, line, plain, same_notification, short},
    rules::{Fault, Rule},
};
use contract::{chat::Message, log::Head, notify::Notification};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A row of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The conversation.
    pub conversation: i64,
    /// Its place.
    pub seq: i64,
    /// Its id.
    pub message_id: i64,
    /// Whose.
    pub sender: i64,
    /// The text.
    pub content: String,
    /// The key of idempotency.
    pub client_id: String,
}

impl Row {
    /// On one line.
    pub fn show(&self) -> String {
        format!(
            "row: conversation {} seq {} message {} of user {} client_id {:?}: {}",
            self.conversation,
            self.seq,
            self.message_id,
            self.sender,
            self.client_id,
            short(&self.content)
        )
    }
}

/// A row of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeRow {
    /// Whose.
    pub user: i64,
    /// Its place.
    pub seq: i64,
    /// Its id.
    pub id: i64,
    /// The event's id, of a backend's event.
    pub event: Option<String>,
    /// The conversation, newest message, and how many it stands for.
    pub stands_for: Option<(i64, i64, i64)>,
    /// Whether it is read.
    pub is_read: bool,
}

impl NoticeRow {
    /// On one line.
    pub fn show(&self) -> String {
        let Self { user, seq, id, event, stands_for, is_read } = self;
        format!(
            "row: user {user} seq {seq} notification {id} event {event:?} stands for {stands_for:?} read {is_read}"
        )
    }
}

/// What the HTTP API says of a user.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Conversations with something unread.
    pub conversations: i64,
    /// Unread messages.
    pub messages: i64,
    /// Unread notifications.
    pub notifications: i64,
    /// By conversation: `unread_count` of the list.
    pub listed: HashMap<i64, i64>,
}

/// What is there at the end.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// Every message, by conversation and `seq`.
    pub messages: Vec<Row>,
    /// The end of each conversation.
    pub heads: BTreeMap<i64, Head>,
    /// By conversation and user: `seq` and id of the marker.
    pub markers: BTreeMap<(i64, i64), (i64, i64)>,
    /// Entries that are left in the outbox.
    pub outbox: Vec<String>,
    /// Every notification, by user and `seq`.
    pub notifications: Vec<NoticeRow>,
    /// By user: the last `seq`, and how many are unread.
    pub inboxes: BTreeMap<i64, (i64, i64)>,
    /// The bodies of dead letters.
    pub deadletters: Vec<String>,
    /// Histories as the HTTP API has them.
    pub histories: BTreeMap<i64, Vec<Message>>,
    /// Inboxes as the HTTP API has them, oldest first.
    pub pages: BTreeMap<i64, Vec<Notification>>,
    /// Counts as the HTTP API has them.
    pub counts: BTreeMap<i64, Counts>,
}

/// Everything that is wrong.
pub fn judge(ledger: &Ledger, board: &Board, truth: &Truth) -> Vec<Fault> {
    let mut faults = Vec::new();
    numbering(truth, &mut faults);
    acknowledged(ledger, truth, &mut faults);
    told(board, truth, &mut faults);
    markers(ledger, board, truth, &mut faults);
    super::inbox::judge(ledger, board, truth, &mut faults);
    if !truth.outbox.is_empty() {
        let what = format!("{} entries are left in the outbox", truth.outbox.len());
        faults.push(Fault::new(Rule::Outbox, what).with(truth.outbox.iter().take(3).cloned()));
    }
    faults
}

/// `seq` counts from 1 without a hole, and ids grow with it; heads say so, too.
fn numbering(truth: &Truth, faults: &mut Vec<Fault>) {
    let mut last: HashMap<i64, &Row> = HashMap::new();
    for row in &truth.messages {
        let before = last.insert(row.conversation, row);
        let (seq, id) = before.map_or((0, 0), |before| (before.seq, before.message_id));
        let evidence = || before.into_iter().chain([row]).map(Row::show);
        if row.seq != seq + 1 {
            let what = format!("conversation {}: seq {} after seq {seq}", row.conversation, row.seq);
            faults.push(Fault::new(Rule::Hole, what).with(evidence()));
        }
        if row.message_id <= id {
            let what = format!("conversation {}: ids don't grow with seq", row.conversation);
            faults.push(Fault::new(Rule::Order, what).with(evidence()));
        }
    }
    for (conversation, head) in &truth.heads {
        let (seq, id) = last.get(conversation).map_or((0, 0), |row| (row.seq, row.message_id));
        if (head.seq, head.id) != (seq, id) {
            let what = format!("conversation {conversation} ends at {head:?}, its messages at seq {seq}");
            faults.push(Fault::new(Rule::Hole, what));
        }
    }
}

/// Every acknowledged message is there once, as it was sent; nothing is there twice, or that nobody sent.
fn acknowledged(ledger: &Ledger, truth: &Truth, faults: &mut Vec<Fault>) {
    let mut rows: HashMap<&str, Vec<&Row>> = HashMap::new();
    let mut keys = HashSet::new();
    for row in &truth.messages {
        rows.entry(&row.content).or_default().push(row);
        if !keys.insert((row.conversation, row.sender, &row.client_id)) {
            let what = format!("client_id {:?} of user {} twice", row.client_id, row.sender);
            faults.push(Fault::new(Rule::Twice, what).with([row.show()]));
        }
        if !ledger.sends.contains_key(&row.content) {
            faults.push(Fault::new(Rule::Same, "a message that nobody sent").with([row.show()]));
        }
    }
    for (content, sent) in &ledger.sends {
        let found = rows.get(content.as_str()).map_or(&[][..], Vec::as_slice);
        let shown = || found.iter().map(|row| row.show());
        match (found, &sent.acked) {
            ([], None) => {}
            ([], Some(acked)) => {
                let what = format!(
                    "{} of user {} in conversation {} was acknowledged by {} and is not in the history",
                    short(content),
                    sent.sender,
                    sent.conversation,
                    acked.by
                );
                faults.push(Fault::new(Rule::Lost, what));
            }
            ([row], acked) => {
                let as_sent = row.conversation == sent.conversation
                    && row.sender == sent.sender
                    && sent.client_id.as_ref().is_none_or(|client_id| *client_id == row.client_id);
                let as_acked = acked.as_ref().and_then(|acked| acked.message_id);
                if !as_sent || as_acked.is_some_and(|id| id != row.message_id) {
                    let what = format!("{} is not stored as it was sent: {sent:?}", short(content));
                    faults.push(Fault::new(Rule::Same, what).with(shown()));
                }
            }
            _ => {
                let what = format!("{} is stored {} times", short(content), found.len());
                faults.push(Fault::new(Rule::Twice, what).with(shown()));
            }
        }
    }
}

/// What sockets were told is what the history says, by SQL and by HTTP.
fn told(board: &Board, truth: &Truth, faults: &mut Vec<Fault>) {
    let mut rows = HashMap::new();
    for row in &truth.messages {
        rows.insert((row.conversation, row.seq), row);
    }
    for (place, message) in &board.messages {
        let row = rows.get(place);
        let same = row.is_some_and(|row| is_row(message, row));
        if !same {
            let what = format!("conversation {} seq {} was told and is not so", place.0, place.1);
            let row = row.map_or("no such row".to_owned(), |row| row.show());
            faults.push(Fault::new(Rule::Same, what).with([line(message), row]));
        }
    }
    for (conversation, items) in &truth.histories {
        let stored = truth.messages.iter().filter(|row| row.conversation == *conversation);
        let same = stored.clone().count() == items.len()
            && stored.zip(items).all(|(row, item)| is_row(item, row))
            && items.iter().all(|item| {
                board.messages.get(&(*conversation, item.seq)).is_none_or(|told| *told == plain(item))
            });
        if !same {
            let what = format!("conversation {conversation}: its pages over HTTP differ from its messages");
            faults.push(Fault::new(Rule::Same, what));
        }
    }
}

fn is_row(message: &Message, row: &Row) -> bool {
    message.message_id.get() == row.message_id
        && message.seq == row.seq
        && message.sender_id.get() == row.sender
        && message.content == row.content
}

/// Markers are where they were said to be, or further; unread counts follow from them.
fn markers(ledger: &Ledger, board: &Board, truth: &Truth, faults: &mut Vec<Fault>) {
    let marker = |conversation, user| truth.markers.get(&(conversation, user)).copied().unwrap_or_default();
    for ((conversation, user), message) in &ledger.reads {
        if marker(*conversation, *user).1 < *message {
            let what = format!(
                "user {user} has read message {message} of conversation {conversation}; the marker is at {:?}",
                marker(*conversation, *user)
            );
            faults.push(Fault::new(Rule::Marker, what));
        }
    }
    for ((conversation, user), seq) in &board.markers {
        if marker(*conversation, *user).0 < *seq {
            let what = format!(
                "conversation {conversation}: user {user}'s marker was told at seq {seq}; it is at {:?}",
                marker(*conversation, *user)
            );
            faults.push(Fault::new(Rule::Marker, what));
        }
    }
    let mut own: HashMap<(i64, i64), i64> = HashMap::new();
    for row in &truth.messages {
        own.insert((row.conversation, row.sender), row.seq);
    }
    for ((conversation, user), seq) in own {
        if marker(conversation, user).0 < seq {
            let what = format!(
                "conversation {conversation}: user {user} sent seq {seq}; the marker is at {:?}",
                marker(conversation, user)
            );
            faults.push(Fault::new(Rule::Marker, what));
        }
    }
    let mut unread: BTreeMap<i64, HashMap<i64, i64>> = BTreeMap::new();
    for ((conversation, user), (seq, _)) in &truth.markers {
        let last = truth.heads.get(conversation).map_or(0, |head| head.seq);
        unread.entry(*user).or_default().insert(*conversation, last - seq);
    }
    for (user, counts) in &truth.counts {
        let mine = unread.remove(user).unwrap_or_default();
        let some = mine.values().filter(|count| **count > 0).count();
        let sum: i64 = mine.values().sum();
        let as_said = usize::try_from(counts.conversations).ok() == Some(some)
            && counts.messages == sum
            && counts.listed == mine;
        if !as_said {
            let what =
                format!("user {user} has {sum} unread in {some} conversations; the API says {counts:?}");
            faults.push(Fault::new(Rule::Unread, what).with([format!("{mine:?}")]));
        }
    }
}

/// Whether what a socket was told is what a page of the inbox has.
pub fn is_item(told: &Notification, item: Option<&&Notification>) -> bool {
    item.is_some_and(|item| same_notification(told, item))
}

#[cfg(test)]
mod tests;
