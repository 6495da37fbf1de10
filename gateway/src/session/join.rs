//! Joins a socket to a topic: first the admission by the service, then the replay.

use crate::{
    admission::{tokens::Identity, user_sockets::SocketSlot},
    channel::{
        log_channel::{LogChannel, LogMembership},
        page::{self, Page},
        presence::Watching,
        replay,
        typing_channel::TypingMembership,
        view::View,
    },
    session::{dialect::Dialect, multiplex::Reference},
    state::Shared,
    topic::{LogKey, Start, Topic},
};
use contract::{
    Close, Code, ConversationId, Refusal, UserId,
    chat::{Admitted, JoinRequest},
};
use futures_util::future::BoxFuture;
use service::bus::RequestError;
use std::sync::Arc;

/// A socket's subscription to a topic. Dropping it ends it at any stage: nothing more is sent for it.
pub enum Subscription {
    /// The join is in progress.
    Joining(Box<Join>),
    /// A member of a log channel.
    Log(LogMembership),
    /// A member of a typing channel.
    Typing(Box<TypingMembership>),
    /// A watcher of presence.
    Presence(#[expect(dead_code, reason = "held, not read")] Watching),
}

/// A join in progress.
pub struct Join {
    /// The step in progress.
    pub step: BoxFuture<'static, Result<Step, Refusal>>,
    /// The client's reference of the subscription, on a multiplexed socket.
    pub reference: Option<Reference>,
    /// The position at which the subscription starts.
    pub start: Start,
    /// Whether the service has admitted the user, and the client has its answer.
    pub is_admitted: bool,
}

/// A completed step of a join.
pub enum Step {
    /// The service has admitted the user.
    Admitted(Admission),
    /// The socket is a member of the channel.
    Joined(Subscription),
}

/// A client that was admitted, before its socket is open.
pub struct Opening {
    /// The state that sessions share.
    pub shared: Arc<Shared>,
    /// The user.
    pub identity: Identity,
    /// The kind of socket.
    pub dialect: Dialect,
    /// The position at which the socket starts.
    pub start: Start,
    /// The socket's slot among the user's sockets.
    pub slot: SocketSlot,
    /// The topic of a single socket.
    pub first: Option<(Topic, Admission)>,
}

impl Opening {
    /// Admits a client to the topic of its socket; a multiplexed socket has none yet.
    ///
    /// # Errors
    /// The close code of the socket.
    pub async fn new(
        shared: Arc<Shared>,
        identity: Identity,
        slot: SocketSlot,
        dialect: Dialect,
        start: Start,
    ) -> Result<Self, Close> {
        let first = match dialect.topic(identity.user_id) {
            Some(topic) => {
                let admission =
                    admit(&shared, &identity, topic).await.map_err(|refusal| close_code(&refusal))?;
                Some((topic, admission))
            }
            None => None,
        };
        Ok(Self { shared, identity, dialect, start, slot, first })
    }
}

/// The admission of a user to a topic.
pub enum Admission {
    /// To a log: its channel, and the end of the log.
    Log(Arc<LogChannel>, Page),
    /// To a typing channel.
    Typing {
        /// The conversation.
        conversation: ConversationId,
        /// The name that the others see.
        username: String,
        /// Whether the user blocks the other user of the conversation.
        blocks: bool,
    },
    /// To the presence of a conversation's other participants.
    Presence(ConversationId, Vec<UserId>),
}

/// Asks the service to admit a user to a topic. For a log, this happens after the channel has subscribed, so nothing is
/// lost between the end of the log that the service returns and the first live event.
///
/// # Errors
/// If the service refuses or does not answer.
pub async fn admit(shared: &Shared, identity: &Identity, topic: Topic) -> Result<Admission, Refusal> {
    match topic {
        Topic::Log(key) => Ok(match key {
            LogKey::Conversation(conversation) => {
                let channel = shared.hub.log(key);
                let Admitted { head, markers, changes, .. } =
                    admit_to(shared, identity, conversation, false).await?;
                let head = Page { entries: Vec::new(), more: false, head, markers, changes, inbox: None };
                Admission::Log(channel, head)
            }
            LogKey::Inbox(_) => {
                let channel = shared.hub.confirmed_log(key).await?;
                let head = page::read(key, shared.hub.bus(), None).await;
                Admission::Log(channel, head.map_err(RequestError::into_refusal)?)
            }
        }),
        Topic::Typing(conversation) => {
            let Admitted { username, blocks, .. } = admit_to(shared, identity, conversation, false).await?;
            Ok(Admission::Typing { conversation, username, blocks })
        }
        Topic::Presence(conversation) => {
            let limit = shared.presence_people.ok_or_else(presence_is_off)?;
            let Admitted { people, .. } = admit_to(shared, identity, conversation, true).await?;
            if people.len() >= limit {
                let detail = format!("presence is shown in conversations of at most {limit} people");
                return Err(Refusal::new(Code::InvalidRequest, detail));
            }
            Ok(Admission::Presence(conversation, people))
        }
    }
}

async fn admit_to(
    shared: &Shared,
    identity: &Identity,
    conversation_id: ConversationId,
    with_people: bool,
) -> Result<Admitted, Refusal> {
    let (user_id, username, named_at) =
        (identity.user_id, identity.username.clone(), identity.stamp.issued_at);
    shared.joins.join(JoinRequest { conversation_id, user_id, username, named_at, with_people }).await
}

/// Joins an admitted socket to its topic.
///
/// # Errors
/// If the service refuses a page or does not answer.
pub async fn join_topic(
    shared: &Shared,
    view: View,
    admission: Admission,
    start: Start,
) -> Result<Subscription, Refusal> {
    match admission {
        Admission::Log(channel, head) => {
            let after = match start {
                Start::After(id, changes) => Some((id, changes)),
                Start::Live | Start::Latest => None,
            };
            replay::join(&channel, shared.hub.bus(), view, head, after).await.map(Subscription::Log)
        }
        Admission::Typing { conversation, username, blocks } => {
            let channel = shared.hub.typing(conversation).await?;
            let membership = channel.join(shared.hub.bus(), view, username, blocks).await;
            Ok(Subscription::Typing(Box::new(membership)))
        }
        Admission::Presence(conversation, people) => {
            let watching = shared.hub.presence().clone().watch(view, conversation, &people).await?;
            Ok(Subscription::Presence(watching))
        }
    }
}

/// The refusal of everything about presence while the operator has switched it off.
pub fn presence_is_off() -> Refusal {
    Refusal::new(Code::InvalidRequest, "presence is switched off")
}

/// The close code of a single socket whose join is refused.
pub fn close_code(refusal: &Refusal) -> Close {
    match refusal.code {
        Code::Forbidden | Code::NotFound => Close::Forbidden,
        Code::Unavailable => Close::Overloaded,
        Code::InvalidRequest => Close::BadAddress,
        _ => Close::Fault,
    }
}
