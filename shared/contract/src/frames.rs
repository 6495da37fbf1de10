//! Parsed client frames, and the frames to clients that the gateway creates itself.

use crate::{
    Code, MessageId, NotificationId, Refusal, Timestamp,
    chat::{Data, is_kind_name},
    limits,
    text::is_visible,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// A client's frame for a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatFrame {
    /// Sends a message.
    Message {
        /// Text, trimmed; 1 to [`limits::MESSAGE_CHARS`] characters. Empty only with a kind.
        message: String,
        /// The client's own id for the message.
        client_id: Option<String>,
        /// Kind of the message.
        kind: Option<String>,
        /// Data of the message, with a kind.
        data: Option<Data>,
        /// The message to which this one replies.
        reply_to: Option<MessageId>,
    },
    /// The user has read up to this message.
    Read(MessageId),
    /// Replaces the text of an own message.
    Edit {
        /// The message.
        message_id: MessageId,
        /// The new text, as in [`ChatFrame::Message`].
        message: String,
    },
    /// Deletes an own message.
    Delete(MessageId),
    /// A new token.
    Auth(String),
    /// Whether the client's page is visible.
    Visible(bool),
}

/// A client's frame for its inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxFrame {
    /// The user has read this notification.
    Read(NotificationId),
    /// The user has read all notifications.
    ReadAll,
    /// The user has seen the notifications up to this one in a list.
    Seen(NotificationId),
    /// A new token.
    Auth(String),
    /// Whether the client's page is visible.
    Visible(bool),
}

/// A client's frame for typing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypingFrame {
    /// The user is typing (true), or has stopped (false).
    Typing(bool),
    /// A new token.
    Auth(String),
    /// Whether the client's page is visible.
    Visible(bool),
}

/// A client's frame for a presence channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceFrame {
    /// A new token.
    Auth(String),
    /// Whether the client's page is visible.
    Visible(bool),
}

/// The error for a frame that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFrame {
    /// Code and detail of the error.
    pub refusal: Refusal,
    /// `client_id` of the frame, if it can be read.
    pub client_id: Option<String>,
}

impl ChatFrame {
    /// Parses a frame.
    ///
    /// # Errors
    /// `invalid_json`, `invalid_message` or `message_too_long`.
    pub fn parse(text: &str) -> Result<Self, BadFrame> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            r#type: Option<String>,
            message: Option<String>,
            client_id: Option<String>,
            kind: Option<String>,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
            reply_to: Option<i64>,
            message_id: Option<i64>,
            token: Option<String>,
            visible: Option<bool>,
        }
        let read = || {
            let raw: Raw<'_> = from_json(text)?;
            let message = |message: Option<String>| {
                message_text(&message.ok_or_else(|| invalid_message("\"message\" is missing"))?)
            };
            match raw.r#type.as_deref() {
                None | Some("message") => Ok(Self::Message {
                    message: sent_text(raw.message.as_deref(), raw.kind.as_deref())?,
                    client_id: raw.client_id.map(client_id).transpose()?,
                    kind: raw.kind.map(kind_name).transpose()?,
                    data: raw.data.map(message_data).transpose()?,
                    reply_to: raw
                        .reply_to
                        .map(|id| positive(Some(id), "reply_to", MessageId::new))
                        .transpose()?,
                }),
                Some("read") => Ok(Self::Read(positive(raw.message_id, "message_id", MessageId::new)?)),
                Some("edit") => Ok(Self::Edit {
                    message_id: positive(raw.message_id, "message_id", MessageId::new)?,
                    message: message(raw.message)?,
                }),
                Some("delete") => Ok(Self::Delete(positive(raw.message_id, "message_id", MessageId::new)?)),
                Some("auth") => {
                    Ok(Self::Auth(raw.token.ok_or_else(|| invalid_message("\"token\" is missing"))?))
                }
                Some("visible") => visible(raw.visible).map(Self::Visible),
                Some(_) => Err(invalid_message(
                    "unknown \"type\"; expected message, edit, delete, read, visible or auth",
                )),
            }
        };
        read().map_err(|refusal| BadFrame { refusal, client_id: client_id_of(text) })
    }
}

impl InboxFrame {
    /// Parses a frame.
    ///
    /// # Errors
    /// `invalid_json` or `invalid_message`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Raw {
            r#type: Option<String>,
            notification_id: Option<i64>,
            token: Option<String>,
            visible: Option<bool>,
        }
        let raw: Raw = from_json(text)?;
        match raw.r#type.as_deref() {
            Some("read") => {
                Ok(Self::Read(positive(raw.notification_id, "notification_id", NotificationId::new)?))
            }
            Some("read_all") => Ok(Self::ReadAll),
            Some("seen") => {
                Ok(Self::Seen(positive(raw.notification_id, "notification_id", NotificationId::new)?))
            }
            Some("auth") => Ok(Self::Auth(raw.token.ok_or_else(|| invalid_message("\"token\" is missing"))?)),
            Some("visible") => visible(raw.visible).map(Self::Visible),
            _ => Err(invalid_message("\"type\" must be read, read_all, seen, visible or auth")),
        }
    }
}

impl TypingFrame {
    /// Parses a frame.
    ///
    /// # Errors
    /// `invalid_json` or `invalid_message`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Raw {
            r#type: Option<String>,
            is_typing: Option<bool>,
            token: Option<String>,
            visible: Option<bool>,
        }
        let raw: Raw = from_json(text)?;
        match raw.r#type.as_deref() {
            None | Some("typing") => {
                raw.is_typing.map(Self::Typing).ok_or_else(|| invalid_message("\"is_typing\" is missing"))
            }
            Some("auth") => Ok(Self::Auth(raw.token.ok_or_else(|| invalid_message("\"token\" is missing"))?)),
            Some("visible") => visible(raw.visible).map(Self::Visible),
            Some(_) => Err(invalid_message("unknown \"type\"; expected typing, visible or auth")),
        }
    }
}

impl PresenceFrame {
    /// Parses a frame.
    ///
    /// # Errors
    /// `invalid_json` or `invalid_message`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Raw {
            r#type: Option<String>,
            token: Option<String>,
            visible: Option<bool>,
        }
        let raw: Raw = from_json(text)?;
        match raw.r#type.as_deref() {
            Some("visible") => visible(raw.visible).map(Self::Visible),
            Some("auth") => Ok(Self::Auth(raw.token.ok_or_else(|| invalid_message("\"token\" is missing"))?)),
            _ => Err(invalid_message("\"type\" must be visible or auth")),
        }
    }
}

/// Checks the field of a frame that declares whether the client's page is visible.
///
/// # Errors
/// `invalid_message` if it is missing.
pub fn visible(visible: Option<bool>) -> Result<bool, Refusal> {
    visible.ok_or_else(|| invalid_message("\"visible\" is missing"))
}

/// A frame to the client that the gateway creates itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// A command failed; the socket stays usable.
    Error {
        /// Code and detail of the error.
        #[serde(flatten)]
        refusal: &'a Refusal,
        /// `client_id` of the failed send.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a str>,
    },
    /// The new token was accepted.
    Auth {
        /// Expiry of the token.
        expires_at: Timestamp,
    },
}

/// Checks the text of a message and trims it.
///
/// # Errors
/// `invalid_message` if it is empty or holds characters that can't be stored, `message_too_long` beyond the limit.
pub fn message_text(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    if !is_visible(text) {
        return Err(invalid_message("the message is empty or has no visible characters"));
    }
    if text.contains('\0') {
        return Err(invalid_message("the message contains a NUL character"));
    }
    // A character has at least one byte: short texts need no counting.
    if text.len() > limits::MESSAGE_CHARS && text.chars().count() > limits::MESSAGE_CHARS {
        let detail = format!("a message may have at most {} characters", limits::MESSAGE_CHARS);
        return Err(Refusal::new(Code::MessageTooLong, detail));
    }
    Ok(text.to_owned())
}

/// Checks the text of a message to send. It may be missing or empty with a kind, whose text may be made from its data.
///
/// # Errors
/// As [`message_text`]; `invalid_message` if the text is missing.
pub fn sent_text(text: Option<&str>, kind: Option<&str>) -> Result<String, Refusal> {
    match (text, kind) {
        (None, Some(_)) => Ok(String::new()),
        (Some(""), Some(_)) => Ok(String::new()),
        (Some(text), _) => message_text(text),
        (None, None) => Err(invalid_message("\"message\" is missing")),
    }
}

/// Checks the name of a kind.
///
/// # Errors
/// `invalid_message` if no kind can have this name.
pub fn kind_name(name: String) -> Result<String, Refusal> {
    if is_kind_name(&name) { Ok(name) } else { Err(invalid_message("no such \"kind\"")) }
}

/// Checks the size and the nesting of data. Whether it fits a schema, the service decides.
///
/// # Errors
/// `message_too_long` beyond [`limits::DATA_BYTES`], `invalid_message` if it is no object or is nested deeper than
/// [`limits::DATA_DEPTH`].
pub fn message_data(json: &RawValue) -> Result<Data, Refusal> {
    checked_data(Data::new(json.to_owned()))
}

/// As [`message_data`], without a copy.
///
/// # Errors
/// The same.
pub fn checked_data(json: Data) -> Result<Data, Refusal> {
    if json.get().len() > limits::DATA_BYTES {
        let detail = format!("\"data\" may have at most {} bytes", limits::DATA_BYTES);
        return Err(Refusal::new(Code::MessageTooLong, detail));
    }
    if !json.get().starts_with('{') {
        return Err(invalid_message("\"data\" must be an object"));
    }
    if depth_exceeds(json.get(), limits::DATA_DEPTH) {
        return Err(invalid_message(format!("\"data\" is nested deeper than {}", limits::DATA_DEPTH)));
    }
    Ok(json)
}

/// Checks a `client_id`.
///
/// # Errors
/// `invalid_message` unless it is 1 to [`limits::CLIENT_ID_CHARS`] printable characters.
pub fn client_id(id: String) -> Result<String, Refusal> {
    if !id.is_empty()
        && id.len() <= limits::CLIENT_ID_CHARS
        && id.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    {
        return Ok(id);
    }
    let chars = id.chars().take(limits::CLIENT_ID_CHARS + 1).count();
    let hidden = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}');
    if chars == 0 || chars > limits::CLIENT_ID_CHARS || id.chars().any(hidden) {
        return Err(invalid_message(format!(
            "\"client_id\" must be 1 to {} printable characters",
            limits::CLIENT_ID_CHARS
        )));
    }
    Ok(id)
}

/// Parses JSON from clients or backends.
///
/// # Errors
/// `invalid_json` if it is not JSON or is nested deeper than [`limits::JSON_DEPTH`]; `invalid_message` if the shape is
/// wrong. An array is always wrong, although serde would take its items for the fields of a struct.
pub fn from_json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    if depth_exceeds(text, limits::JSON_DEPTH) {
        let detail = format!("nested deeper than {}", limits::JSON_DEPTH);
        return Err(Refusal::new(Code::InvalidJson, detail));
    }
    let parsed = if text.trim_start().starts_with('[') {
        Err(serde::de::Error::custom("expected an object"))
    } else {
        serde_json::from_str(text)
    };
    parsed.map_err(|error: serde_json::Error| {
        // A lone surrogate is well-formed JSON that no Rust string can hold: the content is wrong, not the syntax.
        match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) if error.is_data() => invalid_message(error_text(&error)),
            Ok(_) => invalid_message("the text contains a lone surrogate"),
            Err(_) => Refusal::new(Code::InvalidJson, "not JSON"),
        }
    })
}

/// serde_json's error text without the position and without values of the input.
fn error_text(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if text.contains("string \"") { "a value has the wrong type".to_owned() } else { text.to_owned() }
}

/// Whether arrays and objects are nested deeper than `max`, in a text that need not be JSON.
pub fn depth_exceeds(text: &str, max: usize) -> bool {
    // Most texts have few brackets. Counting them is much cheaper: the loop has no branches, so it is vectorized.
    let opening = text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if opening <= max {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn invalid_message(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidMessage, detail)
}

fn positive<T, E>(id: Option<i64>, name: &str, new: impl Fn(i64) -> Result<T, E>) -> Result<T, Refusal> {
    id.and_then(|id| new(id).ok())
        .ok_or_else(|| invalid_message(format!("{name:?} must be a positive whole number")))
}

/// `client_id` of a refused frame, so that the client knows which send failed.
pub fn client_id_of(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        client_id: String,
    }
    from_json::<Named>(text).ok().and_then(|named| client_id(named.client_id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(text: &str) -> Code {
        ChatFrame::parse(text).unwrap_err().refusal.code
    }

    #[test]
    fn the_frames_of_the_guide_are_parsed() {
        assert_eq!(
            ChatFrame::parse(r#"{"message": " Bonjour! "}"#),
            Ok(ChatFrame::Message {
                message: "Bonjour!".into(),
                client_id: None,
                kind: None,
                data: None,
                reply_to: None
            })
        );
        assert_eq!(
            ChatFrame::parse(r#"{"type": "read", "message_id": 123}"#),
            Ok(ChatFrame::Read(MessageId::new(123).unwrap()))
        );
        assert_eq!(TypingFrame::parse(r#"{"is_typing": true}"#), Ok(TypingFrame::Typing(true)));
        let hidden = r#"{"type": "visible", "visible": false}"#;
        assert_eq!(ChatFrame::parse(hidden), Ok(ChatFrame::Visible(false)));
        assert_eq!(InboxFrame::parse(hidden), Ok(InboxFrame::Visible(false)));
        assert_eq!(TypingFrame::parse(hidden), Ok(TypingFrame::Visible(false)));
        assert_eq!(PresenceFrame::parse(hidden), Ok(PresenceFrame::Visible(false)));
        for wrong in
            [r#"{"type": "visible"}"#, r#"{"type": "visible", "visible": 1}"#, r#"{"visible": true}"#]
        {
            assert!(PresenceFrame::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(InboxFrame::parse(r#"{"type": "read_all"}"#), Ok(InboxFrame::ReadAll));
        let seen = InboxFrame::parse(r#"{"type": "seen", "notification_id": 31}"#);
        assert_eq!(seen, Ok(InboxFrame::Seen(NotificationId::new(31).unwrap())));
    }

    #[test]
    fn an_invalid_frame_gets_the_matching_error_code() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let hidden_deep = format!(r#"{{"message":"hi","x":{deep}}}"#);
        let long = format!(r#"{{"message":"{}"}}"#, "é".repeat(4_001));
        let large = format!(r#"{{"kind":"offer","data":{{"a":"{}"}}}}"#, "x".repeat(8_192));
        for (text, expected) in [
            ("", Code::InvalidJson),
            ("hello", Code::InvalidJson),
            (r#"{"message": "x""#, Code::InvalidJson),
            (&deep, Code::InvalidJson),
            (&hidden_deep, Code::InvalidJson),
            ("[]", Code::InvalidMessage),
            (r#" ["message", "hi"]"#, Code::InvalidMessage),
            ("[", Code::InvalidJson),
            ("null", Code::InvalidMessage),
            (r#"{}"#, Code::InvalidMessage),
            (r#"{"message": 5}"#, Code::InvalidMessage),
            (r#"{"message": "  "}"#, Code::InvalidMessage),
            (r#"{"message": "a\u0000b"}"#, Code::InvalidMessage),
            (r#"{"message": "\ud800"}"#, Code::InvalidMessage),
            (r#"{"message": "x", "client_id": ""}"#, Code::InvalidMessage),
            (r#"{"message": "x", "client_id": "a\nb"}"#, Code::InvalidMessage),
            (r#"{"type": "read", "message_id": 99999999999999999999}"#, Code::InvalidMessage),
            (r#"{"type": "read", "message_id": -1}"#, Code::InvalidMessage),
            (r#"{"type": "nonsense"}"#, Code::InvalidMessage),
            (r#"{"message": "x", "kind": "Offer"}"#, Code::InvalidMessage),
            (r#"{"message": "x", "kind": 5}"#, Code::InvalidMessage),
            (r#"{"kind": "offer", "data": []}"#, Code::InvalidMessage),
            (r#"{"kind": "offer", "data": {"a":[[[[[[[[0]]]]]]]]}}"#, Code::InvalidMessage),
            (r#"{"message": "x", "reply_to": 0}"#, Code::InvalidMessage),
            (&large, Code::MessageTooLong),
            (&long, Code::MessageTooLong),
        ] {
            assert_eq!(code(text), expected, "{:.60}", text);
        }
    }

    #[test]
    fn a_message_of_a_kind_needs_no_text() {
        let frame = r#"{"kind": "offer", "data": {"amount": 4500 }, "reply_to": 985, "client_id": "c"}"#;
        let Ok(ChatFrame::Message { message, kind, data, reply_to, .. }) = ChatFrame::parse(frame) else {
            panic!("a message")
        };
        assert_eq!((message.as_str(), kind.as_deref()), ("", Some("offer")));
        assert_eq!(data.as_ref().map(Data::get), Some(r#"{"amount": 4500 }"#));
        assert_eq!(reply_to, MessageId::new(985).ok());
    }

    #[test]
    fn a_refusal_holds_the_client_id() {
        let bad = ChatFrame::parse(r#"{"message": "", "client_id": "c1"}"#).unwrap_err();
        assert_eq!(bad.client_id.as_deref(), Some("c1"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = ChatFrame::parse(&text);
            let _ = InboxFrame::parse(&text);
            let _ = TypingFrame::parse(&text);
        }

        #[test]
        fn every_storable_text_survives(text in "\\PC{1,50}") {
            let frame = serde_json::json!({"message": text}).to_string();
            match ChatFrame::parse(&frame) {
                Ok(ChatFrame::Message { message, .. }) => prop_assert_eq!(message, text.trim()),
                other => prop_assert!(text.trim().is_empty(), "{:?}", other),
            }
        }
    }
}
