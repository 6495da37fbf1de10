//! What a message of a stream does to inboxes, and the name by which it is known for ever.

use crate::{
    catalogue::Catalogue,
    event::{self, Delivery, Unusable},
    inboxes::{StoreError, chat_ops},
    plan::{Op, What},
    streams::Source,
};
use contract::TraceParent;
use service::{Span, bus::chain, trace::Kind};
use std::sync::Arc;
use time::OffsetDateTime;

/// Why a message is not done.
pub enum Undone {
    /// It can't be used.
    Unusable(Unusable),
    /// For reasons of ours: it will be.
    Waits(StoreError),
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        if error.is_data() {
            return Self::Unusable(Unusable(format!("it can't be stored: {}", chain(&error))));
        }
        Self::Waits(error)
    }
}

/// What names a message for ever: also when its stream is made anew and counts from 1 again.
pub fn place(stream: &str, seq: u64, stored_at: OffsetDateTime) -> String {
    format!("{stream}:{seq}:{}", stored_at.unix_timestamp_nanos())
}

impl Source {
    /// The step of consuming an event; what a chat's entry holds has steps of its own.
    pub fn step(self, delivery: Delivery<'_>) -> Span {
        match self {
            Self::Events => {
                let step = Span::caused_by(delivery.headers, "consume", Kind::Consumer);
                if step.is_recorded() {
                    step.set("messaging.destination.name", delivery.subject.to_owned());
                }
                step
            }
            Self::Chat => Span::none(),
        }
    }
}

/// What a message does to inboxes, with the steps of what is traced in it.
///
/// # Errors
/// Why it can't be used.
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
            let op = |user| Op { user, what: What::Notice(notice.clone()), cause };
            Ok((users.into_iter().map(op).collect(), vec![]))
        }
        Source::Chat => serde_json::from_slice(delivery.payload)
            .map(chat_ops)
            .map_err(|error| Unusable(format!("not an entry of the chat's log: {error}"))),
    }
}
