//! The data that the services have stored at the end of a run.

use super::{
    ledger::{same_notification, short},
    view::Shown,
};
use contract::{
    chat::{DeletedBy, Message},
    log::Head,
    notify::Notification,
};
use std::collections::{BTreeMap, HashMap};

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Conversation of the message.
    pub conversation: i64,
    /// Position in the conversation.
    pub seq: i64,
    /// Id of the message.
    pub message_id: i64,
    /// Author.
    pub sender: i64,
    /// Text.
    pub content: String,
    /// Idempotency key.
    pub client_id: String,
    /// Number of the last change; 0 if there was none.
    pub change: i64,
    /// Who deleted it.
    pub deleted_by: Option<DeletedBy>,
    /// Former texts, each with the number of the change that replaced it, in order.
    pub former: Vec<(i64, String)>,
}

impl Row {
    /// The text that was sent.
    pub fn original(&self) -> &str {
        self.former.first().map_or(&self.content, |(_, content)| content)
    }

    /// All texts, each with the number of the change that made it; an empty text is the deletion.
    pub fn states(&self) -> impl Iterator<Item = (i64, &str)> {
        let made = [0].into_iter().chain(self.former.iter().map(|(change, _)| *change));
        let texts = self.former.iter().map(|(_, content)| content.as_str());
        made.zip(texts.chain([self.content.as_str()]))
    }

    /// The state that clients must show.
    pub fn shown(&self) -> Shown {
        Shown { change: self.change, content: self.content.clone(), deleted_by: self.deleted_by }
    }

    /// Formats the row as one line of text.
    pub fn show(&self) -> String {
        format!(
            "row: conversation {} seq {} message {} of user {} client_id {:?} change {} deleted by {:?}: {}",
            self.conversation,
            self.seq,
            self.message_id,
            self.sender,
            self.client_id,
            self.change,
            self.deleted_by,
            short(self.original())
        )
    }
}

/// A stored notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeRow {
    /// Owner of the inbox.
    pub user: i64,
    /// Position in the inbox.
    pub seq: i64,
    /// Id of the notification.
    pub id: i64,
    /// Id of the event, for an event of a backend.
    pub event: Option<String>,
    /// Conversation, newest message and number of messages that it stands for.
    pub stands_for: Option<(i64, i64, i64)>,
    /// True if it is read.
    pub is_read: bool,
}

impl NoticeRow {
    /// Formats the row as one line of text.
    pub fn show(&self) -> String {
        let Self { user, seq, id, event, stands_for, is_read } = self;
        format!(
            "row: user {user} seq {seq} notification {id} event {event:?} stands for {stands_for:?} read {is_read}"
        )
    }
}

/// A stored inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InboxRow {
    /// Last `seq`.
    pub last_seq: i64,
    /// Number of unread notifications.
    pub unread_count: i64,
    /// Last notification that the user has seen; 0 if no page of the user ever said that.
    pub seen_id: i64,
    /// Number of unread notifications after it.
    pub unseen_count: i64,
}

/// Unread counts of a user, from the HTTP API.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Number of conversations with unread messages.
    pub conversations: i64,
    /// Number of unread messages.
    pub messages: i64,
    /// Number of unread notifications.
    pub notifications: i64,
    /// `unread_count` in the list, by conversation.
    pub listed: HashMap<i64, i64>,
}

/// The final state.
#[derive(Debug, Clone, Default)]
pub struct FinalState {
    /// All messages, sorted by conversation and `seq`.
    pub messages: Vec<Row>,
    /// Head of each conversation.
    pub heads: BTreeMap<i64, Head>,
    /// Number of changes of each conversation.
    pub changes: BTreeMap<i64, i64>,
    /// `seq` and message id of each marker, by conversation and user.
    pub markers: BTreeMap<(i64, i64), (i64, i64)>,
    /// Messages and former texts that disagree with their data.
    pub mismatches: Vec<String>,
    /// Remaining entries of the outbox.
    pub outbox: Vec<String>,
    /// All notifications, sorted by user and `seq`.
    pub notifications: Vec<NoticeRow>,
    /// Inboxes by user.
    pub inboxes: BTreeMap<i64, InboxRow>,
    /// Bodies of the dead letters.
    pub deadletters: Vec<String>,
    /// Histories, from the HTTP API.
    pub histories: BTreeMap<i64, Vec<Message>>,
    /// Changed messages in the order of their changes, from the HTTP API.
    pub changed: BTreeMap<i64, Vec<Message>>,
    /// All that users see at the end, as JSON.
    pub texts: Vec<String>,
    /// Inboxes, from the HTTP API, oldest first.
    pub pages: BTreeMap<i64, Vec<Notification>>,
    /// Unread counts, from the HTTP API.
    pub counts: BTreeMap<i64, Counts>,
}

/// Whether a delivered notification equals an item of the inbox.
pub fn is_item(delivered: &Notification, item: Option<&&Notification>) -> bool {
    item.is_some_and(|item| same_notification(delivered, item))
}
