//! The outcomes of commands, with the names that their answers carry.

use crate::{
    admission::tokens::{Identity, Rejected},
    session::multiplex::Reference,
    topic::Topic,
};
use contract::{Refusal, chat::Sent};

/// The names that a client gave to a command; its answer carries them.
pub struct Reply {
    /// The `ref`, on a multiplexed socket.
    pub reference: Option<Reference>,
    /// The `client_id` of a send.
    pub client_id: Option<String>,
}

/// The effect of a command on its log.
#[expect(
    clippy::large_enum_variant,
    reason = "the largest variant is the frequent one; it needs no allocation"
)]
pub enum Effect {
    /// A message was sent.
    Sent(Sent),
    /// A message has this number of its last change.
    Changed(i64),
    /// A marker moved.
    Moved,
}

/// The outcome of a command.
pub enum Outcome {
    /// The answer of a service.
    Service(Reply, Topic, Result<Effect, Refusal>),
    /// The check of a fresh token, for which a key had to be fetched.
    Token(Reply, Result<Identity, Rejected>),
}
