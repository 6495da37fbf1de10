//! What a client shows of a conversation. Pure: no I/O and no clock.

use contract::chat::{DeletedBy, Message};
use std::collections::BTreeMap;

/// A state of a message, as far as changes alter it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Number of the last change; 0 if there was none.
    pub change: i64,
    /// Text; empty if the message is deleted.
    pub content: String,
    /// Who deleted it.
    pub deleted_by: Option<DeletedBy>,
}

impl Shown {
    /// The state that a frame or an item of a page shows.
    pub fn of(message: &Message) -> Self {
        let deleted_by = message.deleted_by.filter(|_| message.deleted_at.is_some());
        Self { change: message.change.unwrap_or_default(), content: message.content.clone(), deleted_by }
    }
}

/// The states of messages that a client shows, by `seq`.
#[derive(Debug, Clone, Default)]
pub struct View(pub BTreeMap<i64, Shown>);

impl View {
    /// Shows a message, unless the view has a later state of it.
    pub fn show(&mut self, message: &Message) {
        let shown = Shown::of(message);
        if self.0.get(&message.seq).is_none_or(|known| known.change <= shown.change) {
            self.0.insert(message.seq, shown);
        }
    }
}

/// Views of one client on one conversation.
#[derive(Debug, Clone, Default)]
pub struct Views {
    /// Built from the frames of its open socket alone.
    pub socket: View,
    /// Built from the frames of all its sockets and the pages that it loaded; empty for a client that
    /// does not resume with `changes`.
    pub page: View,
}
