//! Parsed server frames.

use contract::{
    chat::{Marker, Message},
    notify::{InboxRead, InboxSeen, Notification},
};
use serde::Deserialize;
use serde_json::Value;

/// A channel of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// A conversation.
    Chat(i64),
    /// The user's notifications.
    Inbox,
    /// Typing in a conversation.
    Typing(i64),
}

impl Channel {
    /// Name of the channel on the multiplexed socket.
    pub fn name(self) -> String {
        match self {
            Self::Chat(id) => format!("chat/{id}"),
            Self::Inbox => "notifications".to_owned(),
            Self::Typing(id) => format!("typing/{id}"),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name.split_once('/') {
            None => (name == "notifications").then_some(Self::Inbox),
            Some(("chat", id)) => id.parse().ok().map(Self::Chat),
            Some(("typing", id)) => id.parse().ok().map(Self::Typing),
            Some(_) => None,
        }
    }
}

/// A server frame.
#[derive(Debug)]
pub enum Frame {
    Message(Message),
    /// A message was edited or deleted.
    Changed(Changed),
    /// A marker moved.
    Marker(Marker),
    Notification(Notification),
    /// Notifications were read.
    InboxRead(InboxRead),
    /// Notifications were seen.
    InboxSeen(InboxSeen),
    /// A typing event of this user.
    Typing(i64),
    /// The server's first frame on a multiplexed socket.
    Hello,
    /// The command with this `ref` succeeded. The answer to a subscribe command has the number of changes.
    Ok(i64, Option<i64>),
    /// A command failed.
    Error(Refused),
}

/// A change.
#[derive(Debug, Deserialize)]
pub struct Changed {
    /// Conversation of the message.
    pub conversation_id: i64,
    /// Number of the change.
    pub change: i64,
    /// The whole message as it is now.
    pub message: Message,
}

/// An error frame.
#[derive(Debug)]
pub struct Refused {
    /// `ref` of the command, on the multiplexed socket.
    pub reference: Option<i64>,
    /// Error code.
    pub code: String,
    /// Error text.
    pub detail: String,
    /// `client_id` of the failed send.
    pub client_id: Option<String>,
}

/// Parses a frame. `own` is the channel of a single-channel socket.
///
/// # Errors
/// If it is not a frame of the protocol.
pub fn read(text: &str, own: Option<Channel>) -> Result<(Option<Channel>, Frame), String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Some(channel) = own else { return multiplexed(value) };
    Ok((Some(channel), parse_on(channel, value)?))
}

fn multiplexed(mut value: Value) -> Result<(Option<Channel>, Frame), String> {
    match value["op"].as_str() {
        Some("hello") => Ok((None, Frame::Hello)),
        Some("ok") => Ok((
            None,
            Frame::Ok(value["ref"].as_i64().ok_or("an ok without a ref")?, value["changes"].as_i64()),
        )),
        Some("error") => Ok((None, Frame::Error(refused(&value)))),
        Some("event") => {
            let channel =
                value["channel"].as_str().and_then(Channel::from_name).ok_or("an event without a channel")?;
            Ok((Some(channel), parse_on(channel, value["data"].take())?))
        }
        _ => Err("no op".to_owned()),
    }
}

fn parse_on(channel: Channel, value: Value) -> Result<Frame, String> {
    fn typed<T: serde::de::DeserializeOwned>(value: Value, wrap: fn(T) -> Frame) -> Result<Frame, String> {
        // From text, because the data of a notification is kept verbatim.
        serde_json::from_str(&value.to_string()).map(wrap).map_err(|error| error.to_string())
    }
    let kind = value["type"].as_str().ok_or("no type")?.to_owned();
    match (channel, kind.as_str()) {
        (_, "error") => Ok(Frame::Error(refused(&value))),
        (Channel::Chat(_), "message") => {
            has_matching_data(&value).and_then(|()| typed(value, Frame::Message))
        }
        (Channel::Chat(_), "changed") => {
            has_matching_data(&value["message"]).and_then(|()| typed(value, Frame::Changed))
        }
        (Channel::Chat(_), "read") => typed(value, Frame::Marker),
        (Channel::Inbox, "read") if value.get("conversation_id").is_some() => typed(value, Frame::Marker),
        (Channel::Inbox, "read") => typed(value, Frame::InboxRead),
        (Channel::Inbox, "seen") => typed(value, Frame::InboxSeen),
        (Channel::Inbox, _) => typed(value, Frame::Notification),
        (Channel::Typing(_), "typing") => {
            Ok(Frame::Typing(value["user_id"].as_i64().ok_or("typing without a user")?))
        }
        _ => Err(format!("unexpected frame type {kind}")),
    }
}

/// Checks that a message of a kind has the data of its text, and that a deleted one has none.
fn has_matching_data(message: &Value) -> Result<(), String> {
    let expected = message.get("kind").filter(|_| message.get("deleted_at").is_none());
    let expected = expected.map(|_| &message["content"]);
    if message.get("data").map(|data| &data["text"]) == expected {
        return Ok(());
    }
    Err(format!("the text and the data disagree: {message}"))
}

fn refused(value: &Value) -> Refused {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    Refused {
        reference: value["ref"].as_i64(),
        code: text("code").unwrap_or_default(),
        detail: text("detail").unwrap_or_default(),
        client_id: text("client_id"),
    }
}
