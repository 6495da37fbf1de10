//! NATS headers that replicas add to the events of the contract. Only other replicas read them.

use crate::typists::{Announcement, Note};
use anyhow::Context;
use async_nats::{HeaderMap, Message};
use contract::{
    Event, Timestamp,
    typing::{TypingEvent, age},
};
use service::Bus;
use std::time::Duration;

/// The name of the replica that published the event, so that it can ignore its own events.
const REPLICA: &str = "Typing-Replica";
/// [`Note::age`], in milliseconds.
const AGE: &str = "Typing-Age-Ms";
/// [`Note::left`].
const LEFT: &str = "Typing-Left";

/// A unique name for a replica.
pub fn name(bus: &Bus) -> String {
    // The name of an inbox contains a random identifier.
    bus.client().new_inbox().trim_start_matches("_INBOX.").to_owned()
}

/// Publishes an announcement of this replica.
pub async fn publish(bus: &Bus, replica: &str, announcement: &Announcement) -> anyhow::Result<()> {
    anyhow::ensure!(bus.is_connected(), "NATS is disconnected");
    let Announcement { event, note, .. } = announcement;
    let mut headers = HeaderMap::new();
    headers.insert(REPLICA, replica);
    if !note.age.is_zero() {
        headers.insert(AGE, note.age.as_millis().to_string());
    }
    if let Some(left) = note.left.as_deref().filter(|left| !left.contains(['\r', '\n'])) {
        headers.insert(LEFT, left);
    }
    let event = TypingEvent { at_ms: Some(at_ms(note.age)), ..event.clone() };
    let payload = serde_json::to_vec(&event).context("encode an event")?;
    bus.client().publish_with_headers(event.subject(), headers, payload.into()).await.context("publish")
}

/// Whether this replica published the message.
pub fn is_from(message: &Message, replica: &str) -> bool {
    header(message, REPLICA).is_some_and(|name| name == replica)
}

/// The wall-clock time of this age, in Unix milliseconds.
pub fn at_ms(age: Duration) -> i64 {
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    Timestamp::now().unix_millis().saturating_sub(age)
}

/// The note of an event. Invalid headers count as missing.
pub fn note(message: &Message, event: &TypingEvent) -> Note {
    let age_ms: u32 = header(message, AGE).and_then(|age| age.parse().ok()).unwrap_or_default();
    let published_ms = event.at_ms.map(|at| at.saturating_add(age_ms.into()));
    Note {
        age: Duration::from_millis(age_ms.into()),
        left: header(message, LEFT).map(str::to_owned),
        late: age(published_ms, Timestamp::now()),
    }
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str())
}
