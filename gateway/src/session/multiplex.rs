//! The frames of `/ws/`: one socket for several channels.

use crate::{
    admission::tokens::Identity,
    channel::encode::encode,
    topic::{LogKey, Start, Topic},
    websocket::Frame,
};
use contract::{
    Code, ConversationId, Refusal, Timestamp, UserId,
    frames::{ChatFrame, InboxFrame, PresenceFrame, TypingFrame, client_id_of, from_json, visible},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The client's reference of an operation (`ref`), returned unchanged in the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reference {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// No reference.
    None,
}

/// An operation that a client requests.
#[derive(Debug)]
pub enum Op {
    /// Subscribe to a channel.
    Subscribe(Topic, Start),
    /// Unsubscribe from a channel.
    Unsubscribe(Topic),
    /// Replace the socket's token.
    Auth(String),
    /// A frame for a conversation.
    Chat(ConversationId, ChatFrame),
    /// A frame for the inbox.
    Inbox(InboxFrame),
    /// A frame for a typing channel.
    Typing(ConversationId, TypingFrame),
    /// Whether the client's page is visible.
    Visible(bool),
    /// A ping, which is answered.
    Ping,
}

/// A refused operation.
#[derive(Debug)]
pub struct BadOp {
    /// The reason of the refusal.
    pub refusal: Refusal,
    /// The operation's reference, if it can be read.
    pub reference: Option<Reference>,
    /// The `client_id` of a send, if it can be read.
    pub client_id: Option<String>,
}

impl BadOp {
    fn new(refusal: Refusal, text: &str) -> Self {
        let Names { reference, client_id } = Names::of(text);
        Self { refusal, reference, client_id }
    }
}

impl Op {
    /// Parses an operation.
    ///
    /// # Errors
    /// If the operation is invalid.
    pub fn parse(text: &str, user: UserId) -> Result<(Self, Reference), BadOp> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            op: String,
            channel: Option<String>,
            after: Option<i64>,
            changes: Option<i64>,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
            token: Option<String>,
            visible: Option<bool>,
            r#ref: Option<Reference>,
        }
        let raw: Raw<'_> = from_json(text).map_err(|refusal| BadOp::new(refusal, text))?;
        let reference = raw.r#ref.unwrap_or(Reference::None);
        let op = || {
            let topic = || topic(raw.channel.as_deref(), user);
            match raw.op.as_str() {
                "subscribe" => Ok(Self::Subscribe(topic()?, start(raw.after, raw.changes)?)),
                "unsubscribe" => Ok(Self::Unsubscribe(topic()?)),
                "ping" => Ok(Self::Ping),
                "visible" => visible(raw.visible).map(Self::Visible),
                "auth" => Ok(Self::Auth(raw.token.ok_or_else(|| invalid("\"token\" is missing"))?)),
                "send" => {
                    let data = raw.data.ok_or_else(|| invalid("\"data\" is missing"))?.get();
                    match topic()? {
                        Topic::Log(LogKey::Conversation(conversation)) => ChatFrame::parse(data)
                            .map(|frame| Self::Chat(conversation, frame))
                            .map_err(|bad| bad.refusal),
                        Topic::Log(LogKey::Inbox(_)) => InboxFrame::parse(data).map(Self::Inbox),
                        Topic::Typing(conversation) => {
                            TypingFrame::parse(data).map(|frame| Self::Typing(conversation, frame))
                        }
                        Topic::Presence(_) => PresenceFrame::parse(data).map(|frame| match frame {
                            PresenceFrame::Auth(token) => Self::Auth(token),
                            PresenceFrame::Visible(visible) => Self::Visible(visible),
                        }),
                    }
                }
                _ => Err(invalid("unknown \"op\"; use subscribe, unsubscribe, send, auth, visible or ping")),
            }
        };
        match op() {
            Ok(op) => Ok((op, reference)),
            Err(refusal) => Err(BadOp { reference: Some(reference), ..BadOp::new(refusal, text) }),
        }
    }
}

/// The first frame on a multiplexed socket.
pub fn hello(identity: &Identity) -> Frame {
    #[derive(Serialize)]
    struct Hello {
        op: &'static str,
        user_id: UserId,
        server_time: Timestamp,
        expires_at: Timestamp,
    }
    let (user_id, expires_at) = (identity.user_id, identity.expires_at);
    encode(&Hello { op: "hello", user_id, server_time: Timestamp::now(), expires_at })
}

/// The reply to a completed operation.
pub fn ok(reference: &Reference) -> Frame {
    #[derive(Serialize)]
    struct Answer<'a> {
        op: &'static str,
        #[serde(skip_serializing_if = "is_none")]
        r#ref: &'a Reference,
    }
    encode(&Answer { op: "ok", r#ref: reference })
}

/// The reply to a subscription that resumes with changes: their number.
pub fn subscribed(reference: &Reference, changes: i64) -> Frame {
    #[derive(Serialize)]
    struct Answer<'a> {
        op: &'static str,
        changes: i64,
        #[serde(skip_serializing_if = "is_none")]
        r#ref: &'a Reference,
    }
    encode(&Answer { op: "ok", changes, r#ref: reference })
}

/// The reply to a refused operation.
pub fn error(refusal: &Refusal, reference: Option<&Reference>, client_id: Option<&str>) -> Frame {
    #[derive(Serialize)]
    struct Answer<'a> {
        op: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        r#ref: Option<&'a Reference>,
        #[serde(flatten)]
        refusal: &'a Refusal,
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a str>,
    }
    let reference = reference.filter(|reference| **reference != Reference::None);
    encode(&Answer { op: "error", r#ref: reference, refusal, client_id })
}

fn is_none(reference: &&Reference) -> bool {
    **reference == Reference::None
}

/// The topic of a channel name; `notifications` is the inbox of this user.
pub fn topic(name: Option<&str>, user: UserId) -> Result<Topic, Refusal> {
    let name = name.ok_or_else(|| invalid("\"channel\" is missing"))?;
    let unknown =
        || invalid("unknown \"channel\"; use chat/{id}, typing/{id}, presence/{id} or notifications");
    match name.split_once('/') {
        None if name == "notifications" => Ok(Topic::Log(LogKey::Inbox(user))),
        Some(("chat", id)) => {
            id.parse().map(|id| Topic::Log(LogKey::Conversation(id))).map_err(|_| unknown())
        }
        Some(("typing", id)) => id.parse().map(Topic::Typing).map_err(|_| unknown()),
        Some(("presence", id)) => id.parse().map(Topic::Presence).map_err(|_| unknown()),
        _ => Err(unknown()),
    }
}

fn start(after: Option<i64>, changes: Option<i64>) -> Result<Start, Refusal> {
    match (after, changes) {
        (None, None) => Ok(Start::Latest),
        (None, Some(_)) => Err(invalid("\"changes\" needs \"after\"")),
        (Some(after @ 0..), None | Some(0..)) => Ok(Start::After(after, changes)),
        (Some(0..), Some(_)) => Err(invalid("\"changes\" must be the number of a change, or 0")),
        (Some(_), _) => Err(invalid("\"after\" must be an id, or 0 to read from the start")),
    }
}

fn invalid(detail: &str) -> Refusal {
    Refusal::new(Code::InvalidMessage, detail)
}

/// The client's names for an operation, as far as they can be read.
#[derive(Default)]
pub struct Names {
    /// The reference of the operation.
    pub reference: Option<Reference>,
    /// The `client_id` of a send.
    pub client_id: Option<String>,
}

impl Names {
    /// Reads only the names, even if the operation is invalid.
    pub fn of(text: &str) -> Self {
        #[derive(Deserialize)]
        struct Named<'a> {
            r#ref: Option<Reference>,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
        }
        let Ok(Named { r#ref, data }) = from_json::<Named<'_>>(text) else { return Self::default() };
        Self { reference: r#ref, client_id: data.and_then(|data| client_id_of(data.get())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = Op::parse(&text, UserId::new(1).unwrap());
            let _ = topic(Some(&text), UserId::new(1).unwrap());
        }
    }

    #[test]
    fn operations_of_the_contract_are_parsed() {
        let user = UserId::new(7).unwrap();
        let parse = |text: &str| Op::parse(text, user);
        let (op, reference) =
            parse(r#"{"op":"subscribe","channel":"chat/123","after":987,"ref":1}"#).unwrap();
        assert!(matches!(op, Op::Subscribe(Topic::Log(LogKey::Conversation(_)), Start::After(987, None))));
        assert_eq!(ok(&reference).payload(), br#"{"op":"ok","ref":1}"#);
        let (op, _) =
            parse(r#"{"op":"send","channel":"chat/123","data":{"message":"hi"},"ref":"a"}"#).unwrap();
        assert!(matches!(op, Op::Chat(_, ChatFrame::Message { .. })));
        let bad = parse(r#"{"op":"subscribe","channel":"chat/*","ref":3}"#).unwrap_err();
        assert_eq!((bad.refusal.code, bad.reference), (Code::InvalidMessage, Some(Reference::Number(3))));
        assert!(matches!(parse(r#"{"op":"ping","ref":1}"#), Ok((Op::Ping, Reference::Number(1)))));
    }
}
