//! Reads all events that were published for backends.

use crate::Stack;
use anyhow::Context;
use async_nats::jetstream;
use contract::streams::EVENTS_OUT_STREAM;

/// A published event.
pub struct EventOut {
    /// Subject on which it was published.
    pub subject: String,
    /// Its `Nats-Msg-Id`, which is its `event_id`.
    pub id: String,
    /// Its body.
    pub body: String,
}

/// Reads all events, in the order in which they were published.
///
/// # Errors
/// If NATS doesn't reply, or an event has no id.
pub async fn read(stack: &Stack) -> anyhow::Result<Vec<EventOut>> {
    let jetstream = jetstream::new(stack.backend().await);
    let mut stream = jetstream.get_stream(EVENTS_OUT_STREAM).await.context("open a stream")?;
    let state = stream.info().await.context("read the state of a stream")?.state.clone();
    let mut events = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.context("read an event")?;
        let id = message.headers.get("Nats-Msg-Id").context("an event has no id")?.to_string();
        let body = String::from_utf8(message.payload.to_vec()).context("read the body of an event")?;
        events.push(EventOut { subject: message.subject.to_string(), id, body });
    }
    Ok(events)
}
