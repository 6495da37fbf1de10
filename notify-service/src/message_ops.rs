//! What a message of a stream causes: operations on inboxes, and events for backends; and its permanent identifier.

use crate::{
    catalogue::Catalogue,
    chat_events::Wanted,
    event::{self, Delivery, Unusable},
    inboxes::{StoreError, chat_ops},
    ops::{Op, OpKind},
    store::telling::Outgoing,
    streams::Source,
};
use contract::TraceParent;
use service::{Span, bus::chain, trace::Kind};
use std::sync::Arc;
use time::OffsetDateTime;

/// The reason why a message was not processed.
pub enum ProcessingError {
    /// The message is invalid.
    Unusable(Unusable),
    /// Storing failed; to be retried.
    Retry(StoreError),
}

impl From<StoreError> for ProcessingError {
    fn from(error: StoreError) -> Self {
        if error.is_data() {
            return Self::Unusable(Unusable(format!("it can't be stored: {}", chain(&error))));
        }
        Self::Retry(error)
    }
}

/// The permanent identifier of a message. The time keeps it unique even if the stream is recreated and counts from 1.
pub fn place(stream: &str, seq: u64, stored_at: OffsetDateTime) -> String {
    format!("{stream}:{seq}:{}", stored_at.unix_timestamp_nanos())
}

impl Source {
    /// The span of consuming an event. A log entry of the chat has no span, because each of its messages has its own.
    pub fn span(self, delivery: Delivery<'_>) -> Span {
        match self {
            Self::Events => {
                let span = Span::caused_by(delivery.headers, "consume", Kind::Consumer);
                if span.is_recorded() {
                    span.set("messaging.destination.name", delivery.subject.to_owned());
                }
                span
            }
            Self::Chat => Span::none(),
        }
    }
}

/// What a message causes.
pub struct Parsed {
    pub ops: Vec<Op>,
    /// The events for backends that the operator wants.
    pub events: Vec<Outgoing>,
    /// The spans of the traced parts of the message.
    pub spans: Vec<Span>,
}

/// Reads a message.
///
/// # Errors
/// The reason why the message is invalid.
pub fn parse(
    source: Source,
    delivery: Delivery<'_>,
    catalogue: &Catalogue,
    wanted: Wanted,
    cause: Option<TraceParent>,
) -> Result<Parsed, Unusable> {
    match source {
        Source::Events => {
            let (users, notice) = event::parse(delivery, catalogue)?;
            let notice = Arc::new(notice);
            let op = |user| Op { user, kind: OpKind::Notice(notice.clone()), cause };
            let ops = users.into_iter().map(op).collect();
            Ok(Parsed { ops, events: Vec::new(), spans: Vec::new() })
        }
        Source::Chat => {
            let unusable = |error| Unusable(format!("not an entry of the chat's log: {error}"));
            let entry = serde_json::from_slice(delivery.payload).map_err(unusable)?;
            let events = wanted.events(&entry).map_err(unusable)?;
            let (ops, spans) = chat_ops(entry);
            Ok(Parsed { ops, events, spans })
        }
    }
}
