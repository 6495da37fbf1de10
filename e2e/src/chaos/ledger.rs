//! Promises to clients and backends, and the frames delivered to sockets. Pure: no I/O and no clock.

use super::{
    rules::{Fault, Rule},
    view::Shown,
};
use contract::{
    chat::{Marker, Message},
    notify::Notification,
};
use std::collections::{BTreeMap, HashMap};

/// A message to send. Its name, the first word of its text, identifies it: all names are different, and an edit keeps
/// the name.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Text, which is unique, too.
    pub content: String,
    /// Target conversation.
    pub conversation: i64,
    /// Author.
    pub sender: i64,
    /// `client_id`; without one, the message is sent only once.
    pub client_id: Option<String>,
    /// Acknowledgement, if there was one.
    pub acked: Option<Acked>,
}

/// Acknowledgement of a message.
#[derive(Debug, Clone)]
pub struct Acked {
    /// Kind of the acknowledgement.
    pub by: &'static str,
    /// Id of the message, if the acknowledgement contained it.
    pub message_id: Option<i64>,
}

/// The changes that clients and backends requested of one message.
#[derive(Debug, Clone, Default)]
pub struct Requested {
    /// Conversation of the message.
    pub conversation: i64,
    pub edits: Vec<Edit>,
    /// Whether its deletion was requested.
    pub deletion: bool,
    /// Kind of the deletion's acknowledgement, if there was one.
    pub deletion_acked: Option<&'static str>,
}

/// A requested edit. All texts are different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The new text.
    pub text: String,
    /// The edit is made only if this is the number of the message's last change.
    pub if_change: Option<i64>,
    /// Kind of the acknowledgement, if there was one.
    pub acked: Option<&'static str>,
}

/// Promise for a published event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Each user is notified exactly once.
    Once,
    /// Published without an ack: each user is notified at most once.
    AtMostOnce,
    /// The event is unusable: it becomes a dead letter.
    DeadLetter,
}

/// An event published by a backend.
#[derive(Debug, Clone)]
pub struct Published {
    /// Recipients.
    pub users: Vec<i64>,
    /// Promise that holds if the event is acknowledged.
    pub promise: Promise,
    /// True if JetStream acknowledged it.
    pub acked: bool,
}

/// A user whose erasure was requested and acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    pub user: i64,
    /// The part of all of the user's names and texts that nothing else has.
    pub secret: String,
    /// Ids of the erasure, from each reply.
    pub erasures: Vec<i64>,
}

/// All promises.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Messages by name.
    pub sends: BTreeMap<String, Sent>,
    /// Last message marked as read with an acknowledgement, by conversation and user.
    pub reads: BTreeMap<(i64, i64), i64>,
    /// Notifications marked as read with an acknowledgement, by user.
    pub inbox_reads: BTreeMap<i64, Vec<i64>>,
    /// Last notification marked as seen with an acknowledgement, by user.
    pub inbox_seen: BTreeMap<i64, i64>,
    pub events: BTreeMap<String, Published>,
    /// Requested changes by message.
    pub changes: BTreeMap<i64, Requested>,
    /// Number of changes that are repeated until they are acknowledged or refused, and are not yet.
    pub open_changes: usize,
    /// Users whose erasure was acknowledged.
    pub erased: Vec<Erased>,
}

impl Ledger {
    /// Records a message that is about to be sent, perhaps again.
    pub fn sends(&mut self, content: &str, conversation: i64, sender: i64, client_id: Option<&str>) {
        self.sends.entry(short(content).to_owned()).or_insert_with(|| Sent {
            content: content.to_owned(),
            conversation,
            sender,
            client_id: client_id.map(str::to_owned),
            acked: None,
        });
    }

    /// Records the acknowledgement of a message, which may have another text by now. Returns whether it is the first one.
    ///
    /// # Errors
    /// If an earlier acknowledgement named another message.
    pub fn acked(&mut self, content: &str, by: &'static str, message_id: Option<i64>) -> Result<bool, Fault> {
        let Some(sent) = self.sends.get_mut(short(content)) else {
            return Err(Fault::new(
                Rule::Same,
                format!("{by} for a message that nobody sent: {}", short(content)),
            ));
        };
        let Some(acked) = &mut sent.acked else {
            sent.acked = Some(Acked { by, message_id });
            return Ok(true);
        };
        match (acked.message_id, message_id) {
            (Some(before), Some(now)) if before != now => {
                let name = sent.client_id.as_deref().unwrap_or("none");
                let what = format!(
                    "client_id {name} of user {} acknowledged as message {before}, then as {now}",
                    sent.sender
                );
                Err(Fault::new(Rule::Twice, what))
            }
            (None, Some(now)) => {
                acked.message_id = Some(now);
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Records an edit that is about to be requested, perhaps again.
    pub fn edits(&mut self, conversation: i64, message: i64, text: &str, if_change: Option<i64>) {
        let edits = &mut self.requested(conversation, message).edits;
        if edits.iter().all(|edit| edit.text != text) {
            edits.push(Edit { text: text.to_owned(), if_change, acked: None });
        }
    }

    /// Records a deletion that is about to be requested, perhaps again.
    pub fn deletes(&mut self, conversation: i64, message: i64) {
        self.requested(conversation, message).deletion = true;
    }

    fn requested(&mut self, conversation: i64, message: i64) -> &mut Requested {
        self.changes.entry(message).or_insert_with(|| Requested { conversation, ..Requested::default() })
    }

    /// Records the acknowledgement of an edit, or of a deletion (`None`).
    pub fn changed(&mut self, message: i64, text: Option<&str>, by: &'static str) {
        let Some(requested) = self.changes.get_mut(&message) else { return };
        let acked = match text {
            Some(text) => {
                requested.edits.iter_mut().find(|edit| edit.text == text).map(|edit| &mut edit.acked)
            }
            None => Some(&mut requested.deletion_acked),
        };
        if let Some(acked) = acked {
            acked.get_or_insert(by);
        }
    }

    /// Whether somebody requested the deletion of a message.
    pub fn is_deletion_requested(&self, message: i64) -> bool {
        self.changes.get(&message).is_some_and(|requested| requested.deletion)
    }

    /// Number of messages that are repeated until they are acknowledged, and are not yet.
    pub fn unacknowledged(&self) -> usize {
        self.sends.values().filter(|sent| sent.acked.is_none() && sent.client_id.is_some()).count()
    }

    /// Records the acknowledgement that a user has seen the notifications up to this one.
    pub fn seen(&mut self, user: i64, notification: i64) {
        let seen = self.inbox_seen.entry(user).or_default();
        *seen = (*seen).max(notification);
    }

    /// Records the acknowledgement of a read.
    pub fn read(&mut self, conversation: i64, user: i64, message: i64) {
        let read = self.reads.entry((conversation, user)).or_default();
        *read = (*read).max(message);
    }
}

/// Frames delivered to all sockets, which must agree with each other.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// Messages by conversation and `seq`, as [`plain`] returns them.
    pub messages: BTreeMap<(i64, i64), Message>,
    /// States of the messages by conversation, `seq` and `change`.
    pub states: BTreeMap<(i64, i64, i64), Shown>,
    /// Positions of the messages by name.
    names: HashMap<String, (i64, i64)>,
    /// Furthest delivered marker, by conversation and user.
    pub markers: BTreeMap<(i64, i64), i64>,
    /// Notifications by user and `seq`.
    pub notifications: BTreeMap<(i64, i64), Notification>,
}

impl Deliveries {
    /// Records a delivered message.
    ///
    /// # Errors
    /// If another socket received a different message at this position, or another state of it with the same `change`.
    pub fn message(&mut self, message: &Message) -> Result<(), Fault> {
        let plain = plain(message);
        let key = (plain.conversation_id.get(), plain.seq);
        let name = plain.content.clone();
        match self.messages.get_mut(&key) {
            Some(delivered) if is_same(delivered, &plain) => {
                // A message that was deleted before its first delivery has no name until an earlier state is delivered.
                if delivered.content.is_empty() {
                    delivered.content.clone_from(&name);
                }
            }
            Some(delivered) => {
                let what = format!("two sockets received different messages with seq {}", plain.seq);
                return Err(Fault::new(Rule::Same, what).with([line(delivered), line(&plain)]));
            }
            None => {
                self.messages.insert(key, plain);
            }
        }
        self.state(message)?;
        if name.is_empty() {
            return Ok(());
        }
        match self.names.insert(name, key) {
            Some((conversation, seq)) if (conversation, seq) != key => {
                let what = format!(
                    "one message is stored twice: as seq {seq} of conversation {conversation} and as seq {}",
                    key.1
                );
                let both = [(conversation, seq), key];
                Err(Fault::new(Rule::Twice, what)
                    .with(both.iter().filter_map(|key| self.messages.get(key)).map(line)))
            }
            _ => Ok(()),
        }
    }

    fn state(&mut self, message: &Message) -> Result<(), Fault> {
        let shown = Shown::of(message);
        let key = (message.conversation_id.get(), message.seq, shown.change);
        let delivered = self.states.entry(key).or_insert_with(|| shown.clone());
        if *delivered == shown {
            return Ok(());
        }
        let what = format!("two sockets received different states of seq {} after change {}", key.1, key.2);
        Err(Fault::new(Rule::Same, what).with([format!("{delivered:?}"), format!("{shown:?}")]))
    }

    /// Name of a message; `None` if it was deleted before anything showed its text.
    pub fn name(&self, message: &Message) -> Option<String> {
        let key = (message.conversation_id.get(), message.seq);
        let known = || self.messages.get(&key).map(|delivered| delivered.content.clone());
        let name = Some(short(&message.content).to_owned()).filter(|name| !name.is_empty());
        name.or_else(|| message.client_id.clone()).or_else(known).filter(|name| !name.is_empty())
    }

    /// The latest delivered messages of a conversation that have a name.
    pub fn latest(&self, conversation: i64, count: usize) -> Vec<Message> {
        let all = self.messages.range((conversation, 0)..=(conversation, i64::MAX)).rev();
        all.map(|(_, message)| message)
            .filter(|message| !message.content.is_empty())
            .take(count)
            .cloned()
            .collect()
    }

    /// Records a delivered marker.
    pub fn marker(&mut self, marker: &Marker) {
        let key = (marker.conversation_id.get(), marker.user_id.get());
        let delivered = self.markers.entry(key).or_default();
        *delivered = (*delivered).max(marker.seq);
    }

    /// Records a delivered notification.
    ///
    /// # Errors
    /// If another socket received a different notification at this position.
    pub fn notification(&mut self, user: i64, shown: &Notification) -> Result<(), Fault> {
        match self.notifications.get(&(user, shown.seq)) {
            Some(delivered) if same_notification(delivered, shown) => Ok(()),
            Some(delivered) => {
                let what = format!(
                    "two sockets of user {user} received different notifications with seq {}",
                    shown.seq
                );
                Err(Fault::new(Rule::Same, what).with([format!("{delivered:?}"), format!("{shown:?}")]))
            }
            None => {
                self.notifications.insert((user, shown.seq), shown.clone());
                Ok(())
            }
        }
    }
}

/// A message without the fields that depend on the receiver or the time, or that a change alters. The content is the
/// message's name, or empty if the message is deleted.
pub fn plain(message: &Message) -> Message {
    Message {
        content: short(&message.content).to_owned(),
        is_read: false,
        client_id: None,
        data: None,
        change: None,
        edited_at: None,
        deleted_at: None,
        deleted_by: None,
        ..message.clone()
    }
}

/// Whether two plain messages are states of the same message.
pub fn is_same(one: &Message, other: &Message) -> bool {
    let names = [&one.content, &other.content];
    let content = one.content.clone();
    Message { content, ..other.clone() } == *one
        && (names[0] == names[1] || names.iter().any(|name| name.is_empty()))
}

/// Whether two frames or items show the same notification, read or not.
pub fn same_notification(one: &Notification, other: &Notification) -> bool {
    one.notification_id == other.notification_id
        && (one.seq, &one.kind, &one.title, &one.message)
            == (other.seq, &other.kind, &other.title, &other.message)
        && (one.data.get(), one.created_at, one.replaces)
            == (other.data.get(), other.created_at, other.replaces)
}

/// A message as one line of text.
pub fn line(message: &Message) -> String {
    format!(
        "conversation {} seq {} message {} of user {} at {}: {}",
        message.conversation_id,
        message.seq,
        message.message_id,
        message.sender_id,
        message.created_at,
        short(&message.content)
    )
}

/// The first word of a text, which identifies it.
pub fn short(content: &str) -> &str {
    content.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
