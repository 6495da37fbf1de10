//! Pages of logs, read from their services.

use crate::{
    channel::{
        encode,
        entry::{Change, Entry, InboxState, Position},
    },
    topic::LogKey,
};
use contract::{
    ConversationId, UserId,
    chat::{Marker, PageChanges, PageMessages},
    limits,
    log::{Head, Range},
    notify::PageNotifications,
};
use service::{Bus, bus::RequestError};
use std::time::Duration;

/// How long a service may take to answer.
const ANSWER: Duration = limits::SEND_DEADLINE;

/// A page of a log.
pub struct Page {
    /// Oldest first.
    pub entries: Vec<Entry>,
    /// Whether later entries exist.
    pub more: bool,
    /// The end of the log when the page was read.
    pub head: Head,
    /// The markers of a conversation at that time.
    pub markers: Vec<Marker>,
    /// The number of changes of a conversation at that time.
    pub changes: i64,
    /// The state of an inbox at that time.
    pub inbox: Option<Box<InboxState>>,
}

/// Changed messages of a conversation, in the order of their last change.
pub struct ChangedPage {
    /// The changes.
    pub changes: Vec<Change>,
    /// Whether messages with a later change exist.
    pub more: bool,
    /// The number of changes when the page was read.
    pub number: i64,
}

impl Page {
    /// The end of the log when the page was read.
    pub const fn position(&self) -> Position {
        Position { head: self.head, changes: self.changes }
    }
}

/// Reads the entries after an id. With `None`, reads no entry, only the end of the log.
///
/// # Errors
/// If the service refuses the request or does not answer in time.
pub async fn read(key: LogKey, bus: &Bus, after: Option<i64>) -> Result<Page, RequestError> {
    let range = Range::After(after.unwrap_or_default());
    let limit = if after.is_some() { limits::PAGE_MAX } else { 0 };
    match key {
        LogKey::Conversation(conversation_id) => read_conversation(bus, conversation_id, range, limit).await,
        LogKey::Inbox(user_id) => read_inbox(bus, user_id, range, limit).await,
    }
}

async fn read_conversation(
    bus: &Bus,
    conversation_id: ConversationId,
    range: Range,
    limit: u16,
) -> Result<Page, RequestError> {
    let request =
        PageMessages { conversation_id, user_id: None, username: None, named_at: None, range, limit };
    let page = bus.request_until(&request, ANSWER).await?;
    let entries = page.items.into_iter().map(encode::message).collect();
    Ok(Page {
        entries,
        more: page.more,
        head: page.head,
        markers: page.markers,
        changes: page.changes,
        inbox: None,
    })
}

/// Reads the messages of a conversation whose last change has a greater number.
///
/// # Errors
/// If the service refuses the request or does not answer in time.
pub async fn read_changes(
    conversation_id: ConversationId,
    bus: &Bus,
    after: i64,
) -> Result<ChangedPage, RequestError> {
    let request = PageChanges { conversation_id, user_id: None, after, limit: limits::PAGE_MAX };
    let page = bus.request_until(&request, ANSWER).await?;
    let changes = page.items.into_iter().map(encode::change).collect();
    Ok(ChangedPage { changes, more: page.more, number: page.changes })
}

async fn read_inbox(bus: &Bus, user_id: UserId, range: Range, limit: u16) -> Result<Page, RequestError> {
    let request = PageNotifications { user_id, range, limit, unread: false, hides_archived: false };
    let page = bus.request_until(&request, ANSWER).await?;
    let entries = page.page.items.iter().map(|item| encode::notification(user_id, item)).collect();
    let inbox = InboxState {
        seq: page.head.seq,
        unread: page.unread_count,
        reads: page.reads,
        last_read: page.last_read,
        moves: page.moves,
        last_moved: page.last_moved,
        seen: page.seen,
    };
    let more = page.page.next.is_some();
    Ok(Page { entries, more, head: page.head, markers: Vec::new(), changes: 0, inbox: Some(Box::new(inbox)) })
}
