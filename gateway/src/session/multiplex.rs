//! The dialect of `/ws/`: one socket for every channel.

use crate::{
    admission::tokens::Identity,
    channel::encode::encode,
    topic::{LogKey, Start, Topic},
    websocket::Frame,
};
use contract::{
    Code, ConversationId, Refusal, Timestamp, UserId,
    frames::{ChatFrame, InboxFrame, TypingFrame, client_id_of, from_json},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What the client calls what it asks; given back as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reference {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// Nothing.
    None,
}

/// What a client asks.
#[derive(Debug)]
pub enum Op {
    /// To be on a channel.
    Subscribe(Topic, Start),
    /// To be off it.
    Unsubscribe(Topic),
    /// A fresh token.
    Auth(String),
    /// A frame for a conversation.
    Chat(ConversationId, ChatFrame),
    /// A frame for the inbox.
    Inbox(InboxFrame),
    /// A frame for a typing channel.
    Typing(ConversationId, TypingFrame),
    /// A sign of life, which is answered.
    Ping,
}

/// Why an operation was not taken, and what the client calls it.
#[derive(Debug)]
pub struct BadOp {
    /// What was wrong.
    pub refusal: Refusal,
    /// Its reference, if one can be made out.
    pub reference: Option<Reference>,
    /// The `client_id` of a send, if one can be made out.
    pub client_id: Option<String>,
}

impl BadOp {
    fn new(refusal: Refusal, text: &str) -> Self {
        let Names { reference, client_id } = Names::of(text);
        Self { refusal, reference, client_id }
    }
}

impl Op {
    /// Reads what a client asks.
    ///
    /// # Errors
    /// Why it can't be read, and what it was called.
    pub fn parse(text: &str, user: UserId) -> Result<(Self, Reference), BadOp> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            op: String,
            channel: Option<String>,
            after: Option<i64>,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
            token: Option<String>,
            r#ref: Option<Reference>,
        }
        let raw: Raw<'_> = from_json(text).map_err(|refusal| BadOp::new(refusal, text))?;
        let reference = raw.r#ref.unwrap_or(Reference::None);
        let op = || {
            let topic = || topic(raw.channel.as_deref(), user);
            match raw.op.as_str() {
                "subscribe" => Ok(Self::Subscribe(topic()?, start(raw.after)?)),
                "unsubscribe" => Ok(Self::Unsubscribe(topic()?)),
                "ping" => Ok(Self::Ping),
                "auth" => Ok(Self::Auth(raw.token.ok_or_else(|| wrong("\"token\" is missing"))?)),
                "send" => {
                    let data = raw.data.ok_or_else(|| wrong("\"data\" is missing"))?.get();
                    match topic()? {
                        Topic::Log(LogKey::Conversation(conversation)) => ChatFrame::parse(data)
                            .map(|frame| Self::Chat(conversation, frame))
                            .map_err(|bad| bad.refusal),
                        Topic::Log(LogKey::Inbox(_)) => InboxFrame::parse(data).map(Self::Inbox),
                        Topic::Typing(conversation) => {
                            TypingFrame::parse(data).map(|frame| Self::Typing(conversation, frame))
                        }
                    }
                }
                _ => Err(wrong("unknown \"op\"; known are subscribe, unsubscribe, send, auth and ping")),
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

/// The answer to what is done.
pub fn ok(reference: &Reference) -> Frame {
    #[derive(Serialize)]
    struct Answer<'a> {
        op: &'static str,
        #[serde(skip_serializing_if = "is_none")]
        r#ref: &'a Reference,
    }
    encode(&Answer { op: "ok", r#ref: reference })
}

/// The answer to what isn't.
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

/// The channel that a name means to this user.
pub fn topic(name: Option<&str>, user: UserId) -> Result<Topic, Refusal> {
    let name = name.ok_or_else(|| wrong("\"channel\" is missing"))?;
    let unknown = || wrong("unknown \"channel\"; known are chat/{id}, typing/{id} and notifications");
    match name.split_once('/') {
        None if name == "notifications" => Ok(Topic::Log(LogKey::Inbox(user))),
        Some(("chat", id)) => {
            id.parse().map(|id| Topic::Log(LogKey::Conversation(id))).map_err(|_| unknown())
        }
        Some(("typing", id)) => id.parse().map(Topic::Typing).map_err(|_| unknown()),
        _ => Err(unknown()),
    }
}

fn start(after: Option<i64>) -> Result<Start, Refusal> {
    match after {
        None => Ok(Start::Latest),
        Some(after @ 0..) => Ok(Start::After(after)),
        Some(_) => Err(wrong("\"after\" is an id, or 0 for everything")),
    }
}

fn wrong(detail: &str) -> Refusal {
    Refusal::new(Code::InvalidMessage, detail)
}

/// What the client calls an operation, as far as it can be made out.
#[derive(Default)]
pub struct Names {
    /// The reference of the operation.
    pub reference: Option<Reference>,
    /// The `client_id` of a send.
    pub client_id: Option<String>,
}

impl Names {
    /// Reads the names alone, whatever else is wrong.
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
    fn the_contracts_ops_are_read() {
        let user = UserId::new(7).unwrap();
        let parse = |text: &str| Op::parse(text, user);
        let (op, reference) =
            parse(r#"{"op":"subscribe","channel":"chat/123","after":987,"ref":1}"#).unwrap();
        assert!(matches!(op, Op::Subscribe(Topic::Log(LogKey::Conversation(_)), Start::After(987))));
        assert_eq!(ok(&reference).payload(), br#"{"op":"ok","ref":1}"#);
        let (op, _) =
            parse(r#"{"op":"send","channel":"chat/123","data":{"message":"hi"},"ref":"a"}"#).unwrap();
        assert!(matches!(op, Op::Chat(_, ChatFrame::Message { .. })));
        let bad = parse(r#"{"op":"subscribe","channel":"chat/*","ref":3}"#).unwrap_err();
        assert_eq!((bad.refusal.code, bad.reference), (Code::InvalidMessage, Some(Reference::Number(3))));
        assert!(matches!(parse(r#"{"op":"ping","ref":1}"#), Ok((Op::Ping, Reference::Number(1)))));
    }
}
