//! Letting a client onto what it asks for: whether it may, and from where on.

use crate::topic::{LogKey, Start, Topic};
use crate::{
    admission::{tokens::Identity, user_sockets::SocketSlot},
    channel::{
        log_channel::{self, Channel, Membership, Part},
        ordering::View,
        typing_channel::TypingMembership,
    },
    session::multiplex::Reference,
    state::Shared,
};
use contract::{Close, Code, ConversationId, Refusal, chat::JoinRequest};
use futures_util::future::BoxFuture;
use service::bus::RequestError;
use std::sync::Arc;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// One conversation.
    Chat(ConversationId),
    /// The user's notifications.
    Notifications,
    /// Who types in one conversation.
    Typing(ConversationId),
    /// Any of these, by name.
    Multiplexed,
}

impl Dialect {
    /// Its name in metrics.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Chat(_) => "chat",
            Self::Notifications => "notifications",
            Self::Typing(_) => "typing",
            Self::Multiplexed => "multiplexed",
        }
    }
}

/// A socket's subscription to a topic. Dropping it ends it, at any stage: nothing more is sent on its behalf.
pub enum Subscription {
    /// Not there yet.
    Joining(Box<Join>),
    /// On a log.
    Log(Membership),
    /// Where someone may type.
    Typing(Box<TypingMembership>),
}

/// The way onto a topic.
pub struct Join {
    /// What is awaited.
    pub step: BoxFuture<'static, Result<Step, Refusal>>,
    /// What the client calls its subscription, on a multiplexed socket.
    pub reference: Option<Reference>,
    /// From where on.
    pub start: Start,
    /// Whether the client has its answer: it may be there.
    pub is_admitted: bool,
}

/// A step on that way.
pub enum Step {
    /// The client may be there.
    Admitted(Admission),
    /// It is there.
    Joined(Subscription),
}

/// A client that was let in, before its socket is open.
pub struct Opening {
    /// What every session needs.
    pub shared: Arc<Shared>,
    /// Who.
    pub identity: Identity,
    /// For what.
    pub dialect: Dialect,
    /// From where on.
    pub start: Start,
    /// Its place among the user's sockets.
    pub presence: SocketSlot,
    /// Its one topic, unless it names them itself.
    pub first: Option<(Topic, Admission)>,
}

impl Opening {
    /// Lets a client in, if it may be on the one topic that its dialect is about.
    ///
    /// # Errors
    /// What its socket is to be closed with.
    pub async fn new(
        shared: Arc<Shared>,
        identity: Identity,
        presence: SocketSlot,
        dialect: Dialect,
        start: Start,
    ) -> Result<Self, Close> {
        let topic = match dialect {
            Dialect::Chat(conversation) => Some(Topic::Log(LogKey::Conversation(conversation))),
            Dialect::Notifications => Some(Topic::Log(LogKey::Inbox(identity.user_id))),
            Dialect::Typing(conversation) => Some(Topic::Typing(conversation)),
            Dialect::Multiplexed => None,
        };
        let first = match topic {
            Some(topic) => {
                let admission =
                    admission(&shared, &identity, topic).await.map_err(|refusal| closing(&refusal))?;
                Some((topic, admission))
            }
            None => None,
        };
        Ok(Self { shared, identity, dialect, start, presence, first })
    }
}

/// A client that may be on a topic.
pub enum Admission {
    /// On a log, which is as this says.
    Log(Arc<Channel>, Part),
    /// Where someone may type.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// What the others are shown.
        username: String,
        /// Whether the user blocks the other in a conversation of two.
        blocks: bool,
    },
}

/// Asks the service whether a user may be on a topic. For a log, after its subscription began, so that nothing falls
/// between what this reads and what comes live.
pub async fn admission(shared: &Shared, identity: &Identity, topic: Topic) -> Result<Admission, Refusal> {
    let enter = |conversation_id| {
        let (user_id, username, named_at) =
            (identity.user_id, identity.username.clone(), identity.stamp.issued_at);
        shared.joins.join(JoinRequest { conversation_id, user_id, username, named_at })
    };
    match topic {
        Topic::Log(key) => {
            let channel = shared.hub.log(key).await?;
            let part = match key {
                LogKey::Conversation(conversation) => {
                    let entrance = enter(conversation).await?;
                    let (head, markers) = (entrance.head, entrance.markers);
                    Part { entries: Vec::new(), more: false, head, markers, inbox: None }
                }
                // A user's own.
                LogKey::Inbox(_) | LogKey::Canary(_) => log_channel::read(key, shared.hub.bus(), None)
                    .await
                    .map_err(RequestError::into_refusal)?,
            };
            Ok(Admission::Log(channel, part))
        }
        Topic::Typing(conversation) => {
            let entrance = enter(conversation).await?;
            let (username, blocks) = (entrance.username, entrance.blocks);
            Ok(Admission::Typing { conversation, username, blocks })
        }
    }
}

/// Puts a client onto a topic that it may be on.
///
/// # Errors
/// When the service refuses, or can't be asked.
pub async fn join_topic(
    shared: &Shared,
    view: View,
    admission: Admission,
    start: Start,
) -> Result<Subscription, Refusal> {
    match admission {
        Admission::Log(channel, first) => {
            let after = match start {
                Start::After(id) => Some(id),
                Start::Live | Start::Latest => None,
            };
            log_channel::join(&channel, shared.hub.bus(), view, first, after).await.map(Subscription::Log)
        }
        Admission::Typing { conversation, username, blocks } => {
            let typists = shared.hub.typing(conversation).await?;
            let watching = typists.join(shared.hub.bus(), view, username, blocks).await;
            Ok(Subscription::Typing(Box::new(watching)))
        }
    }
}

/// What a single socket that is refused its topic is closed with.
pub fn closing(refusal: &Refusal) -> Close {
    match refusal.code {
        Code::Forbidden | Code::NotFound => Close::Forbidden,
        Code::Unavailable => Close::Overloaded,
        _ => Close::Fault,
    }
}
