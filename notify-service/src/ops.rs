//! Operations on inboxes, which events, messages, markers and mutes become.

use crate::event::Notice;
use contract::{
    ConversationId, MessageId, Seq, TraceParent, UserId,
    chat::{Marker, MutedUntil},
};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

/// A user and a conversation.
pub type Membership = (UserId, ConversationId);

/// One operation on one user's inbox. Repeating it changes nothing.
#[derive(Debug, Clone)]
pub struct Op {
    pub user: UserId,
    pub kind: OpKind,
    /// Parent span, if the operation is traced.
    pub cause: Option<TraceParent>,
}

/// The kind of an operation.
#[derive(Debug, Clone)]
pub enum OpKind {
    /// An event of another backend.
    Notice(Arc<Notice>),
    /// A message that the user has received.
    Message(Arc<Received>),
    /// The user has read a conversation up to a message.
    Read(Moved),
    /// The user has muted a conversation, or ended a mute.
    Mute(Mute),
}

/// A mute or its end.
#[derive(Debug, Clone, Copy)]
pub struct Mute {
    pub conversation: ConversationId,
    /// `None`: the conversation is not muted.
    pub until: Option<MutedUntil>,
    /// Greater in later changes.
    pub change: i64,
}

/// A marker that moved.
#[derive(Debug, Clone)]
pub struct Moved {
    pub conversation: ConversationId,
    /// The last message that was read.
    pub message: MessageId,
    /// Its `seq`, if chat-service sent it.
    pub seq: Option<Seq>,
    /// The marker as chat-service published it; `None` if it moved because the user sent the message.
    pub marker: Option<Box<Marker>>,
}

impl Moved {
    /// The `seq` of the conversation's last message when the marker moved, if known.
    pub fn last_seq(&self) -> Option<Seq> {
        match &self.marker {
            Some(marker) => Some(marker.seq + marker.unread_count?),
            None => self.seq,
        }
    }
}

/// A message that a user has received.
#[derive(Debug)]
pub struct Received {
    /// Idempotency key.
    pub key: String,
    pub conversation: ConversationId,
    pub message: MessageId,
    /// Its `seq`, if chat-service sent it.
    pub seq: Option<Seq>,
    pub sender: UserId,
    pub sender_username: String,
    /// Its kind; `None` for a plain message.
    pub kind: Option<String>,
    /// Whether it causes no notification.
    pub silent: bool,
    /// Users who have muted the conversation.
    pub muted: Vec<UserId>,
}

impl Op {
    /// The idempotency key; `None` if the operation creates no notification.
    pub fn key(&self) -> Option<&str> {
        match &self.kind {
            OpKind::Notice(notice) => Some(&notice.key),
            OpKind::Message(message) => Some(&message.key),
            OpKind::Read(..) | OpKind::Mute(_) => None,
        }
    }

    /// The user and the conversation that it concerns.
    pub fn membership(&self) -> Option<Membership> {
        let conversation = match &self.kind {
            OpKind::Notice(_) => return None,
            OpKind::Message(message) => message.conversation,
            OpKind::Read(moved) => moved.conversation,
            OpKind::Mute(mute) => mute.conversation,
        };
        Some((self.user, conversation))
    }

    /// The user and the conversation of a message that the user has received.
    pub fn received(&self) -> Option<Membership> {
        match &self.kind {
            OpKind::Message(_) => self.membership(),
            OpKind::Notice(_) | OpKind::Read(_) | OpKind::Mute(_) => None,
        }
    }
}

/// An operation of a batch that is carried out.
#[derive(Debug)]
pub struct Step<'a> {
    pub op: &'a Op,
    /// For a message: all messages of the batch with the same user and conversation. It stands for them.
    pub covered: Covered,
}

/// Messages of one conversation.
#[derive(Debug, Default)]
pub struct Covered {
    /// Whether the newest message that notifies exists, and that message; otherwise the newest silent one.
    newest: Option<(bool, MessageId)>,
    /// Sorted, without repeats.
    pub ids: Vec<MessageId>,
    /// Whether the conversation's first message is one of them.
    pub has_first: bool,
}

/// Collapses a batch: of a conversation's messages for a user, only the newest that notifies remains. Markers come
/// first, so that a message that was read in the meantime creates no notification.
pub fn collapse(ops: &[Op]) -> Vec<Step<'_>> {
    let mut messages: HashMap<Membership, Covered> = HashMap::new();
    for op in ops {
        if let (OpKind::Message(received), Some(membership)) = (&op.kind, op.received()) {
            let covered = messages.entry(membership).or_default();
            covered.has_first |= received.seq == Some(1);
            covered.ids.push(received.message);
            // A silent message only stands for itself.
            let rank = (!received.silent, received.message);
            covered.newest = covered.newest.max(Some(rank));
        }
    }
    let (reads, others): (Vec<&Op>, Vec<&Op>) = ops.iter().partition(|op| matches!(op.kind, OpKind::Read(_)));
    let steps = reads.into_iter().chain(others).filter_map(|op| {
        let OpKind::Message(received) = &op.kind else {
            return Some(Step { op, covered: Covered::default() });
        };
        let Entry::Occupied(found) = messages.entry((op.user, received.conversation)) else { return None };
        let is_newest = found.get().newest == Some((!received.silent, received.message));
        is_newest.then(|| {
            let mut covered = found.remove();
            covered.ids.sort_unstable();
            covered.ids.dedup();
            Step { op, covered }
        })
    });
    steps.collect()
}
