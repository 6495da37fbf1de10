//! Topics, and their names for NATS and for clients. Imports no other module of the gateway.

use contract::{
    ConversationId, UserId, chat::ChatEvent, notify::InboxEvent, presence::UserNews, typing::channel_subject,
};

/// A topic that a socket may subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A log.
    Log(LogKey),
    /// Typing in a conversation.
    Typing(ConversationId),
    /// The presence of the participants of a conversation.
    Presence(ConversationId),
}

/// The position at which a socket starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the next entry, for a client of the old guide.
    Live,
    /// With the next entry, for a client that understands extensions.
    Latest,
    /// After the entry with this id; of earlier entries, with the changes after this number.
    After(i64, Option<i64>),
}

/// A log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogKey {
    /// The messages of a conversation.
    Conversation(ConversationId),
    /// The notifications of a user.
    Inbox(UserId),
}

/// A subscriber of a NATS subject on the gateway's own connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscriber {
    /// The channel of a log.
    Log(LogKey),
    /// The typing channel of a conversation.
    Typing(ConversationId),
    /// The watchers of a user's presence.
    Person(UserId),
    /// The readiness probe of a gateway.
    Probe(u64),
}

impl LogKey {
    /// The channel's name for clients.
    pub fn name(self) -> String {
        match self {
            Self::Conversation(conversation) => format!("chat/{conversation}"),
            Self::Inbox(_) => "notifications".to_owned(),
        }
    }
}

impl Topic {
    /// The channel's name for clients.
    pub fn name(self) -> String {
        match self {
            Self::Log(key) => key.name(),
            Self::Typing(conversation) => format!("typing/{conversation}"),
            Self::Presence(conversation) => format!("presence/{conversation}"),
        }
    }
}

impl Subscriber {
    /// The NATS subject of its events.
    pub fn subject(self) -> String {
        match self {
            Self::Log(LogKey::Conversation(conversation)) => ChatEvent::subject_of(conversation),
            Self::Log(LogKey::Inbox(user)) => InboxEvent::subject_of(user),
            Self::Typing(conversation) => channel_subject(conversation),
            Self::Person(user) => UserNews::subject_of(user),
            // A subject that only the gateway's NATS user may publish.
            Self::Probe(id) => format!("_INBOX.gateway.probe.{id:016x}"),
        }
    }

    /// The id of its NATS subscription. The id names the subscriber, so the gateway keeps no table of ids. A
    /// subscription that ends and begins again has the same id: both receive the same events.
    pub fn sid(self) -> String {
        match self {
            Self::Log(LogKey::Conversation(conversation)) => format!("c{conversation}"),
            Self::Log(LogKey::Inbox(user)) => format!("n{user}"),
            Self::Typing(conversation) => format!("t{conversation}"),
            Self::Person(user) => format!("p{user}"),
            Self::Probe(id) => format!("g{id}"),
        }
    }

    /// The subscriber of a subscription id.
    pub fn of_sid(sid: &str) -> Option<Self> {
        let (kind, id) = sid.split_at_checked(1)?;
        Some(match kind {
            "c" => Self::Log(LogKey::Conversation(id.parse().ok()?)),
            "n" => Self::Log(LogKey::Inbox(id.parse().ok()?)),
            "t" => Self::Typing(id.parse().ok()?),
            "p" => Self::Person(id.parse().ok()?),
            "g" => Self::Probe(id.parse().ok()?),
            _ => return None,
        })
    }
}
