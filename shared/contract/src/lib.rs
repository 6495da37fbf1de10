//! What crosses a process boundary: subjects, payloads, ids, frames, limits, close codes.
//!
//! Pure types, no I/O. A subject or a field name is spelled here and nowhere else; what is public in it changes
//! only by addition.

pub mod chat;
pub mod close;
pub mod deadline;
pub mod frames;
pub mod ids;
pub mod lang;
pub mod limits;
pub mod log;
pub mod notify;
pub mod refusal;
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

/// A value published on NATS to whoever listens. It may arrive twice, or not at all.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What a consumer of every such value subscribes to.
    const PATTERN: &'static str;
    /// Where this value is published; always matches [`Event::PATTERN`].
    fn subject(&self) -> String;
}

/// A question that one replica of a service answers.
pub trait Request: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Where it is asked.
    const SUBJECT: &'static str;
    /// Whether any backend may ask, not only our own processes.
    const PUBLIC: bool = false;
    /// What the answer is, unless it is a [`Refusal`] (which travels in the NATS service error headers).
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

/// One page of a longer list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The items, in the order that was asked for.
    pub items: Vec<T>,
    /// The cursor of the next page: what to say as `before` (or `after`) to read on; null at the end.
    #[schema(required)]
    pub next: Option<i64>,
}

impl<T> Page<T> {
    /// A page of at most `limit` of `items`, which hold one more than that if there is a next page.
    pub fn of(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> i64) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(id);
        Self { items, next }
    }
}
