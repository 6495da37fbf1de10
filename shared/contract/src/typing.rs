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

impl TypingEvent {
    /// The subject of a conversation's events.
    pub fn subject_of(conversation: ConversationId) -> String {
        format!("typing.event.{conversation}")
    }
}

impl Event for TypingEvent {
    const PATTERN: &'static str = "typing.event.*";

    fn subject(&self) -> String {
        Self::subject_of(self.conversation_id)
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
