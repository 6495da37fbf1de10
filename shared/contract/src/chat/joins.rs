//! Joins: requests that admit users to conversations.

use super::Marker;
use crate::log::Head;
use crate::{ConversationId, Refusal, Request, UserId};
use serde::{Deserialize, Serialize};

/// A user's request to join a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Conversation to join.
    pub conversation_id: ConversationId,
    /// User, who must be a participant.
    pub user_id: UserId,
    /// Name in the user's token, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Issue time of that token, in Unix seconds. The newer of two names is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_at: Option<i64>,
    /// Whether the reply names the other participants.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_people: bool,
}

/// gateway → chat-service: joins collected within a short time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinBatch {
    /// At most [`crate::limits::BATCH_JOINS`] joins.
    pub entries: Vec<JoinRequest>,
}

impl Request for JoinBatch {
    const SUBJECT: &'static str = "chat.conversations.enter";
    /// One reply for each entry, in the same order.
    type Reply = Vec<JoinReply>;
}

/// Reply to a [`JoinRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinReply {
    /// The user is a participant.
    Admitted(Admitted),
    /// The user is not a participant, or the conversation doesn't exist.
    Refused(Refusal),
}

/// State of a conversation at the time of a join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Last message of the conversation.
    pub head: Head,
    /// Marker of each participant who has read anything.
    pub markers: Vec<Marker>,
    /// Display name of the user.
    pub username: String,
    /// In a conversation of two: true if the user blocks the other participant.
    pub blocks: bool,
    /// Number of changes in the conversation. Earlier releases omit it.
    #[serde(default)]
    pub changes: i64,
    /// The other participants, if the request asked for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub people: Vec<UserId>,
}

/// A user who shares a conversation with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The user.
    pub user_id: UserId,
    /// Whether either of the two blocks the other.
    pub blocked: bool,
}

/// gateway → chat-service: which of these users share a conversation with a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindPeople {
    /// The user.
    pub user_id: UserId,
    /// At most [`crate::presence::READ_MAX`] other users.
    pub others: Vec<UserId>,
}

impl Request for FindPeople {
    const SUBJECT: &'static str = "chat.people.find";
    /// Those who do, in ascending order.
    type Reply = Vec<Person>;
}

/// Maximum number of pairs in a [`FindBlocks`].
pub const PAIRS_MAX: usize = 1_000;

/// gateway → chat-service: between which of these pairs of users there is a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindBlocks {
    /// At most [`PAIRS_MAX`] pairs.
    pub pairs: Vec<(UserId, UserId)>,
}

impl Request for FindBlocks {
    const SUBJECT: &'static str = "chat.blocks.find";
    /// Those of which either blocks the other.
    type Reply = Vec<(UserId, UserId)>;
}
