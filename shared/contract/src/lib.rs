//! Types that cross a process boundary: subjects, payloads, ids, frames, limits, close codes.
//!
//! Pure types, no I/O. Subjects and field names are defined only here. The public part of the protocol changes only by
//! addition.

#![warn(missing_docs)]

pub mod chat;
pub mod close;
pub mod deadline;
pub mod erasure;
pub mod event;
pub mod frames;
pub mod ids;
pub mod lang;
pub mod limits;
pub mod log;
pub mod notify;
pub mod preferences;
pub mod presence;
pub mod refusal;
pub mod reminders;
pub mod sessions;
pub mod streams;
pub mod text;
pub mod timestamp;
pub mod trace;
pub mod typing;

pub use close::Close;
pub use deadline::Deadline;
pub use ids::{ConversationId, MessageId, NotificationId, Seq, UserId};
pub use lang::Lang;
pub use refusal::{Code, Refusal};
pub use timestamp::Timestamp;
pub use trace::TraceParent;

use serde::{Serialize, de::DeserializeOwned};

/// A value published on NATS. It may arrive twice, or not at all.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Subject to which a consumer of all these values subscribes.
    const PATTERN: &'static str;
    /// Subject on which this value is published; always matches [`Event::PATTERN`].
    fn subject(&self) -> String;
}

/// A request that one replica of a service answers.
pub trait Request: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Subject of the request.
    const SUBJECT: &'static str;
    /// True if any backend may send the request, not only our own processes.
    const PUBLIC: bool = false;
    /// The reply to a successful request. A failed one is answered with a [`Refusal`] in the NATS service error
    /// headers.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

/// One page of a longer list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// Items, in the requested order.
    pub items: Vec<T>,
    /// Cursor of the next page: pass it as `before` (or `after`). Null on the last page.
    #[schema(required)]
    pub next: Option<i64>,
}

impl<T> Page<T> {
    /// Creates a page of at most `limit` of `items`. One item more than that means that there is a next page.
    pub fn of(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> i64) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(id);
        Self { items, next }
    }
}
