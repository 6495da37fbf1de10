//! What clients and backends were promised, and what sockets were told. Pure: no I/O and no clock.

use super::rules::{Fault, Rule};
use contract::{
    chat::{Marker, Message},
    notify::Notification,
};
use std::collections::{BTreeMap, HashMap};

/// A message that someone wants to send. Its text is its name: no two are alike.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Where to.
    pub conversation: i64,
    /// Who sends it.
    pub sender: i64,
    /// What the client calls it; without, it is sent once only.
    pub client_id: Option<String>,
    /// How it was acknowledged, if it was.
    pub acked: Option<Acked>,
}

/// How a message was acknowledged.
#[derive(Debug, Clone)]
pub struct Acked {
    /// By what.
    pub by: &'static str,
    /// As which message, where that was said.
    pub message_id: Option<i64>,
}

/// What is promised of an event that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Each user is notified of it once.
    Once,
    /// Published without an acknowledgement: at most once.
    AtMostOnce,
    /// It can't be used: a dead letter.
    DeadLetter,
}

/// An event that a backend has published.
#[derive(Debug, Clone)]
pub struct Published {
    /// Whom it is for.
    pub users: Vec<i64>,
    /// What is promised of it, should it be acknowledged.
    pub promise: Promise,
    /// Whether JetStream acknowledged it.
    pub acked: bool,
}

/// What was promised.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Messages by their text.
    pub sends: BTreeMap<String, Sent>,
    /// By conversation and user: the last message whose reading was acknowledged.
    pub reads: BTreeMap<(i64, i64), i64>,
    /// By user: the last notification up to which all were read, as acknowledged.
    pub inbox_reads: BTreeMap<i64, Vec<i64>>,
    /// Events by their id.
    pub events: BTreeMap<String, Published>,
}

impl Ledger {
    /// A message is about to be sent, perhaps again.
    pub fn sends(&mut self, content: &str, conversation: i64, sender: i64, client_id: Option<&str>) {
        self.sends.entry(content.to_owned()).or_insert_with(|| Sent {
            conversation,
            sender,
            client_id: client_id.map(str::to_owned),
            acked: None,
        });
    }

    /// A message was acknowledged. Says whether that is new.
    ///
    /// # Errors
    /// When it was acknowledged as another message before.
    pub fn acked(&mut self, content: &str, by: &'static str, message_id: Option<i64>) -> Result<bool, Fault> {
        let Some(sent) = self.sends.get_mut(content) else {
            return Err(Fault::new(
                Rule::Same,
                format!("{by} of a message that nobody sent: {}", short(content)),
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

    /// How many messages will be sent again until they are acknowledged, and are not yet.
    pub fn unacknowledged(&self) -> usize {
        self.sends.values().filter(|sent| sent.acked.is_none() && sent.client_id.is_some()).count()
    }

    /// The reading of a message was acknowledged.
    pub fn read(&mut self, conversation: i64, user: i64, message: i64) {
        let read = self.reads.entry((conversation, user)).or_default();
        *read = (*read).max(message);
    }
}

/// What all sockets together were told: each must say the same as the others.
#[derive(Debug, Default)]
pub struct Board {
    /// Messages by conversation and `seq`, without what depends on who looks and when.
    pub messages: BTreeMap<(i64, i64), Message>,
    /// Their texts.
    contents: HashMap<String, (i64, i64)>,
    /// The furthest marker told, by conversation and user.
    pub markers: BTreeMap<(i64, i64), i64>,
    /// Notifications by user and `seq`.
    pub notifications: BTreeMap<(i64, i64), Notification>,
}

impl Board {
    /// A message was told.
    ///
    /// # Errors
    /// When another socket was told otherwise.
    pub fn message(&mut self, message: &Message) -> Result<(), Fault> {
        let plain = plain(message);
        let place = (plain.conversation_id.get(), plain.seq);
        match self.messages.get(&place) {
            Some(told) if *told == plain => return Ok(()),
            Some(told) => {
                let what = format!("two sockets were told different messages as seq {}", plain.seq);
                return Err(Fault::new(Rule::Same, what).with([line(told), line(&plain)]));
            }
            None => {}
        }
        let before = self.contents.insert(plain.content.clone(), place);
        self.messages.insert(place, plain);
        match before {
            Some((conversation, seq)) => {
                let what = format!(
                    "one message stored as seq {seq} of conversation {conversation} and as seq {}",
                    place.1
                );
                let both = [(conversation, seq), place];
                Err(Fault::new(Rule::Twice, what)
                    .with(both.iter().filter_map(|place| self.messages.get(place)).map(line)))
            }
            None => Ok(()),
        }
    }

    /// A marker was told.
    pub fn marker(&mut self, marker: &Marker) {
        let place = (marker.conversation_id.get(), marker.user_id.get());
        let told = self.markers.entry(place).or_default();
        *told = (*told).max(marker.seq);
    }

    /// A notification was told.
    ///
    /// # Errors
    /// When another socket was told otherwise.
    pub fn notification(&mut self, user: i64, shown: &Notification) -> Result<(), Fault> {
        match self.notifications.get(&(user, shown.seq)) {
            Some(told) if same_notification(told, shown) => Ok(()),
            Some(told) => {
                let what =
                    format!("two sockets of user {user} were told different things as seq {}", shown.seq);
                Err(Fault::new(Rule::Same, what).with([format!("{told:?}"), format!("{shown:?}")]))
            }
            None => {
                self.notifications.insert((user, shown.seq), shown.clone());
                Ok(())
            }
        }
    }
}

/// A message without what depends on who looks and when.
pub fn plain(message: &Message) -> Message {
    Message { is_read: false, client_id: None, ..message.clone() }
}

/// Whether two frames or items show one notification, read or not.
pub fn same_notification(one: &Notification, other: &Notification) -> bool {
    one.notification_id == other.notification_id
        && (one.seq, &one.kind, &one.title, &one.message)
            == (other.seq, &other.kind, &other.title, &other.message)
        && (one.data.get(), one.created_at, one.replaces)
            == (other.data.get(), other.created_at, other.replaces)
}

/// A message on one line.
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

/// The beginning of a text, which names it.
pub fn short(content: &str) -> &str {
    content.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
