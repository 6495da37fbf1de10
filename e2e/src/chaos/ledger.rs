//! Promises to clients and backends, and the frames delivered to sockets. Pure: no I/O and no clock.

use super::rules::{Fault, Rule};
use contract::{
    chat::{Marker, Message},
    notify::Notification,
};
use std::collections::{BTreeMap, HashMap};

/// A message to send. Its text identifies it: all texts are different.
#[derive(Debug, Clone)]
pub struct Sent {
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

/// All promises.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Messages by text.
    pub sends: BTreeMap<String, Sent>,
    /// Last message marked as read with an acknowledgement, by conversation and user.
    pub reads: BTreeMap<(i64, i64), i64>,
    /// Notifications marked as read with an acknowledgement, by user.
    pub inbox_reads: BTreeMap<i64, Vec<i64>>,
    pub events: BTreeMap<String, Published>,
}

impl Ledger {
    /// Records a message that is about to be sent, perhaps again.
    pub fn sends(&mut self, content: &str, conversation: i64, sender: i64, client_id: Option<&str>) {
        self.sends.entry(content.to_owned()).or_insert_with(|| Sent {
            conversation,
            sender,
            client_id: client_id.map(str::to_owned),
            acked: None,
        });
    }

    /// Records the acknowledgement of a message. Returns whether it is the first one.
    ///
    /// # Errors
    /// If an earlier acknowledgement named another message.
    pub fn acked(&mut self, content: &str, by: &'static str, message_id: Option<i64>) -> Result<bool, Fault> {
        let Some(sent) = self.sends.get_mut(content) else {
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

    /// Number of messages that are repeated until they are acknowledged, and are not yet.
    pub fn unacknowledged(&self) -> usize {
        self.sends.values().filter(|sent| sent.acked.is_none() && sent.client_id.is_some()).count()
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
    /// Messages by conversation and `seq`, without the fields that depend on the receiver or the time.
    pub messages: BTreeMap<(i64, i64), Message>,
    /// Positions of the messages by text.
    contents: HashMap<String, (i64, i64)>,
    /// Furthest delivered marker, by conversation and user.
    pub markers: BTreeMap<(i64, i64), i64>,
    /// Notifications by user and `seq`.
    pub notifications: BTreeMap<(i64, i64), Notification>,
}

impl Deliveries {
    /// Records a delivered message.
    ///
    /// # Errors
    /// If another socket received a different message at this position.
    pub fn message(&mut self, message: &Message) -> Result<(), Fault> {
        let plain = plain(message);
        let key = (plain.conversation_id.get(), plain.seq);
        match self.messages.get(&key) {
            Some(delivered) if *delivered == plain => return Ok(()),
            Some(delivered) => {
                let what = format!("two sockets received different messages with seq {}", plain.seq);
                return Err(Fault::new(Rule::Same, what).with([line(delivered), line(&plain)]));
            }
            None => {}
        }
        let before = self.contents.insert(plain.content.clone(), key);
        self.messages.insert(key, plain);
        match before {
            Some((conversation, seq)) => {
                let what = format!(
                    "one message is stored twice: as seq {seq} of conversation {conversation} and as seq {}",
                    key.1
                );
                let both = [(conversation, seq), key];
                Err(Fault::new(Rule::Twice, what)
                    .with(both.iter().filter_map(|key| self.messages.get(key)).map(line)))
            }
            None => Ok(()),
        }
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

/// A message without the fields that depend on the receiver or the time.
pub fn plain(message: &Message) -> Message {
    Message { is_read: false, client_id: None, ..message.clone() }
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
