//! The kinds of sockets.

use crate::topic::{LogKey, Topic};
use contract::{ConversationId, UserId};

/// The kind of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// One conversation.
    Chat(ConversationId),
    /// The user's notifications.
    Notifications,
    /// Typing in one conversation.
    Typing(ConversationId),
    /// The presence of the participants of one conversation.
    Presence(ConversationId),
    /// Several channels, by name.
    Multiplexed,
}

impl Dialect {
    /// The label of this kind in metrics.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Chat(_) => "chat",
            Self::Notifications => "notifications",
            Self::Typing(_) => "typing",
            Self::Presence(_) => "presence",
            Self::Multiplexed => "multiplexed",
        }
    }

    /// The only topic of a user's socket, unless it is multiplexed.
    pub const fn topic(self, user: UserId) -> Option<Topic> {
        match self {
            Self::Chat(conversation) => Some(Topic::Log(LogKey::Conversation(conversation))),
            Self::Notifications => Some(Topic::Log(LogKey::Inbox(user))),
            Self::Typing(conversation) => Some(Topic::Typing(conversation)),
            Self::Presence(conversation) => Some(Topic::Presence(conversation)),
            Self::Multiplexed => None,
        }
    }
}
