//! Typing indicators: soft state, never stored.

use crate::{ConversationId, Event, Request, UserId};
use serde::{Deserialize, Serialize};

/// What a user did at the keyboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keyboard {
    /// Typed.
    Typing,
    /// Stopped.
    Stopped,
    /// Closed the last typing socket on this conversation at this gateway.
    Left,
}

/// gateway → one replica of typing-service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypingInput {
    /// Where.
    pub conversation_id: ConversationId,
    /// Who.
    pub user_id: UserId,
    /// Display name.
    pub username: String,
    /// The gateway that the user types at: typing ends once all of a user's are left.
    pub gateway: String,
    /// What the user did.
    pub keyboard: Keyboard,
}

impl Event for TypingInput {
    const PATTERN: &'static str = "typing.input";

    fn subject(&self) -> String {
        Self::PATTERN.to_owned()
    }
}

/// typing-service → gateways and its other replicas. With `type`, the frame of the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "typing")]
pub struct TypingEvent {
    /// Where.
    pub conversation_id: ConversationId,
    /// Who.
    pub user_id: UserId,
    /// Display name.
    pub username: String,
    /// Whether they type.
    pub is_typing: bool,
    /// The gateway that the user types at; for the other replicas, never shown to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// chat-service → gateways: in a conversation of two, one blocks the other now, or no longer does. What the one who
/// is blocked types is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypingBlock {
    /// Where.
    pub conversation_id: ConversationId,
    /// Who blocks.
    pub user_id: UserId,
    /// Whether.
    pub blocked: bool,
}

impl TypingBlock {
    /// What its subjects begin with.
    pub const PREFIX: &'static str = "typing.block.";
}

impl Event for TypingBlock {
    const PATTERN: &'static str = "typing.block.*";

    fn subject(&self) -> String {
        format!("{}{}", Self::PREFIX, self.conversation_id)
    }
}

/// What a gateway subscribes to for a conversation: [`TypingEvent`] and [`TypingBlock`].
pub fn channel_subject(conversation: ConversationId) -> String {
    format!("typing.*.{conversation}")
}

impl Event for TypingEvent {
    const PATTERN: &'static str = "typing.event.*";

    fn subject(&self) -> String {
        format!("typing.event.{}", self.conversation_id)
    }
}

/// gateway → any replica of typing-service: who is typing there?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoTypes {
    /// Where.
    pub conversation_id: ConversationId,
}

impl Request for WhoTypes {
    const SUBJECT: &'static str = "typing.who";
    /// One event, with `is_typing`, for each who types.
    type Reply = Vec<TypingEvent>;
}
