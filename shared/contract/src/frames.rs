//! What clients send on sockets, parsed; and the frames to them that no service makes.

use crate::{Code, MessageId, NotificationId, Refusal, Timestamp, limits, text::is_visible};
use serde::{Deserialize, Serialize, de::IgnoredAny};

/// A client's frame on a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatFrame {
    /// A message to send.
    Message {
        /// Trimmed; 1 to [`limits::MESSAGE_CHARS`] characters.
        message: String,
        /// The client's name for it.
        client_id: Option<String>,
    },
    /// The user has read up to here.
    Read(MessageId),
    /// A fresh token.
    Auth(String),
}

/// A client's frame on its inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxFrame {
    /// The user has read this.
    Read(NotificationId),
    /// The user has read everything.
    ReadAll,
    /// A fresh token.
    Auth(String),
}

/// A client's frame on a typing socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypingFrame {
    /// The user types, or has stopped.
    Typing(bool),
    /// A fresh token.
    Auth(String),
}

/// Why a frame was not taken, and which send it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFrame {
    /// What was wrong.
    pub refusal: Refusal,
    /// The `client_id` in the frame, if one can be made out.
    pub client_id: Option<String>,
}

impl ChatFrame {
    /// Reads a frame.
    ///
    /// # Errors
    /// `invalid_json`, `invalid_message` or `message_too_long`.
    pub fn parse(text: &str) -> Result<Self, BadFrame> {
        #[derive(Deserialize)]
        struct Raw {
            r#type: Option<String>,
            message: Option<String>,
            client_id: Option<String>,
            message_id: Option<i64>,
            token: Option<String>,
        }
        let read = || {
            let raw: Raw = from_json(text)?;
            match raw.r#type.as_deref() {
                None | Some("message") => Ok(Self::Message {
                    message: message_text(&raw.message.ok_or_else(|| shape("\"message\" is missing"))?)?,
                    client_id: raw.client_id.map(client_id).transpose()?,
                }),
                Some("read") => Ok(Self::Read(positive(raw.message_id, "message_id", MessageId::new)?)),
                Some("auth") => Ok(Self::Auth(raw.token.ok_or_else(|| shape("\"token\" is missing"))?)),
                Some(_) => Err(shape("unknown \"type\"; known are message, read and auth")),
            }
        };
        read().map_err(|refusal| BadFrame { refusal, client_id: client_id_of(text) })
    }
}

impl InboxFrame {
    /// Reads a frame.
    ///
    /// # Errors
    /// `invalid_json` or `invalid_message`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Raw {
            r#type: Option<String>,
            notification_id: Option<i64>,
            token: Option<String>,
        }
        let raw: Raw = from_json(text)?;
        match raw.r#type.as_deref() {
            Some("read") => {
                Ok(Self::Read(positive(raw.notification_id, "notification_id", NotificationId::new)?))
            }
            Some("read_all") => Ok(Self::ReadAll),
            Some("auth") => Ok(Self::Auth(raw.token.ok_or_else(|| shape("\"token\" is missing"))?)),
            _ => Err(shape("\"type\" must be read, read_all or auth")),
        }
    }
}

impl TypingFrame {
    /// Reads a frame.
    ///
    /// # Errors
    /// `invalid_json` or `invalid_message`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Raw {
            r#type: Option<String>,
            is_typing: Option<bool>,
            token: Option<String>,
        }
        let raw: Raw = from_json(text)?;
        match raw.r#type.as_deref() {
            None | Some("typing") => {
                raw.is_typing.map(Self::Typing).ok_or_else(|| shape("\"is_typing\" is missing"))
            }
            Some("auth") => Ok(Self::Auth(raw.token.ok_or_else(|| shape("\"token\" is missing"))?)),
            Some(_) => Err(shape("unknown \"type\"; known are typing and auth")),
        }
    }
}

/// A frame to the client that the gateway itself makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// Something was not done; the socket stays usable.
    Error {
        /// What and why.
        #[serde(flatten)]
        refusal: &'a Refusal,
        /// Which send it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a str>,
    },
    /// The fresh token was taken.
    Auth {
        /// When it ends.
        expires_at: Timestamp,
    },
}

/// Checks the text of a message and trims it.
///
/// # Errors
/// `invalid_message` when it is empty or holds what can't be stored, `message_too_long` beyond the limit.
pub fn message_text(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    if !is_visible(text) {
        return Err(shape("the message is empty, or nothing of it can be seen"));
    }
    if text.contains('\0') {
        return Err(shape("the message holds a NUL character"));
    }
    // A character has at most four bytes: short texts need no counting.
    if text.len() > limits::MESSAGE_CHARS && text.chars().count() > limits::MESSAGE_CHARS {
        let detail = format!("a message has at most {} characters", limits::MESSAGE_CHARS);
        return Err(Refusal::new(Code::MessageTooLong, detail));
    }
    Ok(text.to_owned())
}

/// Checks a `client_id`.
///
/// # Errors
/// `invalid_message` unless it is 1 to [`limits::CLIENT_ID_CHARS`] printable characters.
pub fn client_id(id: String) -> Result<String, Refusal> {
    let chars = id.chars().take(limits::CLIENT_ID_CHARS + 1).count();
    let hidden = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}');
    if chars == 0 || chars > limits::CLIENT_ID_CHARS || id.chars().any(hidden) {
        return Err(shape(format!("\"client_id\" is 1 to {} printable characters", limits::CLIENT_ID_CHARS)));
    }
    Ok(id)
}

/// Reads JSON that came from outside.
///
/// # Errors
/// `invalid_json` when it is none or nested beyond [`limits::JSON_DEPTH`]; `invalid_message` when it has another shape.
pub fn from_json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    if depth_exceeds(text, limits::JSON_DEPTH) {
        let detail = format!("nested deeper than {}", limits::JSON_DEPTH);
        return Err(Refusal::new(Code::InvalidJson, detail));
    }
    serde_json::from_str(text).map_err(|error| {
        // A lone surrogate is well-formed JSON that no Rust string can hold: a fault of the content, not of the syntax.
        match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) if error.is_data() => shape(plain(&error)),
            Ok(_) => shape("the text holds a lone surrogate"),
            Err(_) => Refusal::new(Code::InvalidJson, "not JSON"),
        }
    })
}

/// serde_json's words without the position, and without values from the input.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if text.contains("string \"") { "a value has the wrong type".to_owned() } else { text.to_owned() }
}

/// Whether arrays and objects are nested deeper than `max`, in text that need not be JSON.
pub fn depth_exceeds(text: &str, max: usize) -> bool {
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

fn shape(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidMessage, detail)
}

fn positive<T, E>(id: Option<i64>, name: &str, new: impl Fn(i64) -> Result<T, E>) -> Result<T, Refusal> {
    id.and_then(|id| new(id).ok()).ok_or_else(|| shape(format!("{name:?} must be a positive whole number")))
}

/// The `client_id` of a frame that was refused, so that the client knows which send failed.
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
    fn the_guides_frames_are_read() {
        assert_eq!(
            ChatFrame::parse(r#"{"message": " Bonjour! "}"#),
            Ok(ChatFrame::Message { message: "Bonjour!".into(), client_id: None })
        );
        assert_eq!(
            ChatFrame::parse(r#"{"type": "read", "message_id": 123}"#),
            Ok(ChatFrame::Read(MessageId::new(123).unwrap()))
        );
        assert_eq!(TypingFrame::parse(r#"{"is_typing": true}"#), Ok(TypingFrame::Typing(true)));
        assert_eq!(InboxFrame::parse(r#"{"type": "read_all"}"#), Ok(InboxFrame::ReadAll));
    }

    #[test]
    fn what_is_no_frame_gets_the_code_that_says_why() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let hidden_deep = format!(r#"{{"message":"hi","x":{deep}}}"#);
        let long = format!(r#"{{"message":"{}"}}"#, "é".repeat(4_001));
        for (text, expected) in [
            ("", Code::InvalidJson),
            ("hello", Code::InvalidJson),
            (r#"{"message": "x""#, Code::InvalidJson),
            (&deep, Code::InvalidJson),
            (&hidden_deep, Code::InvalidJson),
            ("[]", Code::InvalidMessage),
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
            (&long, Code::MessageTooLong),
        ] {
            assert_eq!(code(text), expected, "{:.60}", text);
        }
    }

    #[test]
    fn a_refusal_names_the_send() {
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
