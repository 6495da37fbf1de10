//! Topics: what a socket subscribes to, and the names by which NATS and clients know it.

use contract::{ConversationId, UserId, chat::ChatEvent, notify::InboxEvent, typing::channel_subject};

/// What a socket may subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A log.
    Log(LogKey),
    /// Who types in a conversation.
    Typing(ConversationId),
}

/// Where a socket wants to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Now.
    Live,
    /// Now; the client knows more than the old guide's frames.
    Latest,
    /// After this entry.
    After(i64),
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogKey {
    /// A conversation's.
    Conversation(ConversationId),
    /// A user's inbox.
    Inbox(UserId),
    /// The one of a gateway, by which it sees that it works. It has notes and no entries.
    Canary(u64),
}

impl LogKey {
    /// The subject of its events.
    pub fn subject(self) -> String {
        match self {
            Self::Conversation(conversation) => ChatEvent::subject_of(conversation),
            Self::Inbox(user) => InboxEvent::subject_of(user),
            // Where only this gateway's user may publish.
            Self::Canary(id) => format!("_INBOX.gateway.canary.{id:016x}"),
        }
    }

    /// The name of its channel on the socket that carries several.
    pub fn name(self) -> String {
        match self {
            Self::Conversation(conversation) => format!("chat/{conversation}"),
            Self::Inbox(_) => "notifications".to_owned(),
            Self::Canary(_) => "canary".to_owned(),
        }
    }
}

impl Topic {
    /// The name of its channel on the multiplexed socket.
    pub fn name(self) -> String {
        match self {
            Self::Log(key) => key.name(),
            Self::Typing(conversation) => format!("typing/{conversation}"),
        }
    }
}

/// The subject on which events of a topic are published.
pub fn subject(topic: Topic) -> String {
    match topic {
        Topic::Log(key) => key.subject(),
        Topic::Typing(conversation) => channel_subject(conversation),
    }
}

/// The name of a topic's subscription. It names the topic, so that nothing needs to be remembered; one that was
/// ended and begun again may have the same name, as the same is published there.
pub struct Sid(pub Topic);

impl std::fmt::Display for Sid {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Topic::Log(LogKey::Conversation(conversation)) => write!(out, "c{conversation}"),
            Topic::Log(LogKey::Inbox(user)) => write!(out, "n{user}"),
            Topic::Log(LogKey::Canary(id)) => write!(out, "g{id}"),
            Topic::Typing(conversation) => write!(out, "t{conversation}"),
        }
    }
}

impl Topic {
    /// The topic of a subscription, by its name.
    pub fn of_sid(sid: &str) -> Option<Self> {
        let (kind, id) = sid.split_at_checked(1)?;
        Some(match kind {
            "c" => Topic::Log(LogKey::Conversation(id.parse().ok()?)),
            "n" => Topic::Log(LogKey::Inbox(id.parse().ok()?)),
            "g" => Topic::Log(LogKey::Canary(id.parse().ok()?)),
            "t" => Topic::Typing(id.parse().ok()?),
            _ => return None,
        })
    }
}
