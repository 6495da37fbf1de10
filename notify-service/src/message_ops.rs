//! The operations that a message of a stream performs on inboxes, and its permanent identifier.

use crate::{
    catalogue::Catalogue,
    event::{self, Delivery, Unusable},
    inboxes::{StoreError, chat_ops},
    plan::{Op, OpKind},
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

/// Returns the operations of a message, and the spans of its traced parts.
///
/// # Errors
/// The reason why the message is invalid.
pub fn ops(
    source: Source,
    delivery: Delivery<'_>,
    catalogue: &Catalogue,
    cause: Option<TraceParent>,
) -> Result<(Vec<Op>, Vec<Span>), Unusable> {
    match source {
        Source::Events => {
            let (users, notice) = event::parse(delivery, catalogue)?;
            let notice = Arc::new(notice);
            let op = |user| Op { user, kind: OpKind::Notice(notice.clone()), cause };
            Ok((users.into_iter().map(op).collect(), vec![]))
        }
        Source::Chat => serde_json::from_slice(delivery.payload)
            .map(chat_ops)
            .map_err(|error| Unusable(format!("not an entry of the chat's log: {error}"))),
    }
}
