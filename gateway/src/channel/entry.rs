//! What a log consists of, encoded for sockets.

use crate::websocket::Frame;
use contract::{
    Seq, UserId,
    chat::Marker,
    log::Head,
    notify::{InboxRead, ReadPlace},
};

/// One entry of a log, encoded.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place in the log.
    pub at: Head,
    /// Whose it is: for a message, the sender.
    pub owner: UserId,
    /// What everyone may see.
    pub public: Frame,
    /// What the owner sees, where that is more.
    pub private: Option<Frame>,
    /// Of a notification: how many were unread then.
    pub unread: Option<i64>,
}

/// What is sent besides entries: it changes what was sent before, and has no place of its own.
#[derive(Debug, Clone)]
pub enum Note {
    /// A marker of a conversation moved.
    Marker(Marker),
    /// Something in an inbox was read, and where that stands, if its service says so; only for clients that know such
    /// frames.
    Inbox(InboxRead, Option<ReadPlace>),
    /// The inbox's user has read a conversation, and how often that has happened by then; only for clients that know such
    /// frames.
    OwnMarker(Marker, i64),
    /// A frame that has no place at all; only for clients that know such frames.
    Extra(Frame),
}

/// An inbox as its service says it is.
#[derive(Debug, Clone, Copy)]
pub struct InboxState {
    /// Where it ends.
    pub seq: Seq,
    /// How many are unread.
    pub unread: i64,
    /// How often something in it was read; `None` from an earlier release.
    pub reads: Option<i64>,
    /// What was read last, with the count of now.
    pub last_read: Option<InboxRead>,
    /// How often a marker of the user moved; `None` from an earlier release.
    pub moves: Option<i64>,
    /// The last one of these.
    pub last_moved: Option<Marker>,
}
