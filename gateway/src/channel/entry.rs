//! The entries and notes of a log, encoded for sockets.

use crate::websocket::Frame;
use contract::{
    Seq, UserId,
    chat::{Marker, Mine},
    log::Head,
    notify::{InboxRead, InboxSeen, ReadPlace},
};

/// An encoded entry of a log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The entry's position in the log.
    pub at: Head,
    /// The user who sees the private frame: the sender of a message, the recipient of a notification.
    pub owner: UserId,
    /// Whether the entry marks everything before it as read by its owner, as a message does for its sender.
    pub moves_marker: bool,
    /// The frame for every other user.
    pub public: Frame,
    /// The owner's frame, if it differs.
    pub private: Option<Frame>,
    /// The counts after a notification.
    pub counts: Option<Counts>,
}

/// The counts of an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Number of unread notifications.
    pub unread: i64,
    /// Number of them after the last one that the user has seen; `None` if that was never said.
    pub unseen: Option<i64>,
}

/// A change of an entry that was delivered before.
#[derive(Debug, Clone)]
pub struct Change {
    /// Number of the change in its conversation.
    pub number: i64,
    /// The frames of the change, and the position of the entry.
    pub entry: Entry,
}

/// How much of a log a socket has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The last entry.
    pub head: Head,
    /// Number of the last change.
    pub changes: i64,
}

impl From<Head> for Position {
    fn from(head: Head) -> Self {
        Self { head, changes: 0 }
    }
}

/// News of earlier entries. A note has no `seq`.
#[derive(Debug, Clone)]
pub enum Note {
    /// A marker of a conversation moved.
    Marker(Marker),
    /// A read in an inbox, with the inbox's position at that time if the service sent it. Sent only to clients that
    /// understand extensions.
    Inbox(InboxRead, Option<ReadPlace>),
    /// The inbox's user read a conversation; with the number of such moves. Sent only to clients that understand
    /// extensions.
    OwnMarker(Marker, i64),
    /// The inbox's user changed the settings of a conversation. Sent only to clients that understand extensions.
    Mine(Mine),
    /// What the inbox's user has seen, with the inbox's position at that time. Sent only to clients that understand
    /// extensions.
    Seen(InboxSeen, Option<ReadPlace>),
}

/// The state of an inbox, from its service.
#[derive(Debug, Clone, Copy)]
pub struct InboxState {
    /// The last `seq`.
    pub seq: Seq,
    /// The unread count.
    pub unread: i64,
    /// The number of reads; `None` from an earlier release.
    pub reads: Option<i64>,
    /// The last read, with the current unread count.
    pub last_read: Option<InboxRead>,
    /// The number of times that a marker of the user moved; `None` from an earlier release.
    pub moves: Option<i64>,
    /// The last of these moves.
    pub last_moved: Option<Marker>,
    /// What the user has seen, if that was ever said.
    pub seen: Option<InboxSeen>,
}
