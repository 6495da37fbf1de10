//! Why something was not done: one code that programs act on, one text for people.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The stable code of an error, the same in frames, HTTP problems and NATS service errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Not JSON, or nested too deeply.
    InvalidJson,
    /// JSON of the wrong shape, or text that is empty or can't be stored.
    InvalidMessage,
    /// More than [`crate::limits::MESSAGE_CHARS`] characters.
    MessageTooLong,
    /// A parameter, path or body of an HTTP call or NATS request that makes no sense.
    InvalidRequest,
    /// Too much in too little time; `retry_after_ms` says when to go on.
    RateLimited,
    /// The other participant has blocked the sender.
    Blocked,
    /// No such thing, for this user.
    NotFound,
    /// Not this user's to see or do.
    Forbidden,
    /// The token is missing, invalid or expired.
    Unauthorized,
    /// Not done, for a reason that will pass; repeating it is safe.
    Unavailable,
    /// A fault of the server that repeating won't mend.
    Internal,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 11] = [
        Self::InvalidJson,
        Self::InvalidMessage,
        Self::MessageTooLong,
        Self::InvalidRequest,
        Self::RateLimited,
        Self::Blocked,
        Self::NotFound,
        Self::Forbidden,
        Self::Unauthorized,
        Self::Unavailable,
        Self::Internal,
    ];

    /// As it is written in frames, problems and headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::InvalidMessage => "invalid_message",
            Self::MessageTooLong => "message_too_long",
            Self::InvalidRequest => "invalid_request",
            Self::RateLimited => "rate_limited",
            Self::Blocked => "blocked",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that goes with it; also the number in `Nats-Service-Error-Code`.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidJson | Self::InvalidMessage | Self::InvalidRequest => 400,
            Self::MessageTooLong => 422,
            Self::RateLimited => 429,
            Self::Blocked | Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Unauthorized => 401,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// What programs act on.
    pub code: Code,
    /// What people read. Never an internal.
    pub detail: String,
    /// With [`Code::RateLimited`]: when to go on, in milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal with this code and text.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after_ms: None }
    }

    /// The one text of [`Code::Unavailable`].
    pub fn unavailable() -> Self {
        Self::new(
            Code::Unavailable,
            "not done for now; send it again, with the same client_id where it has one",
        )
    }

    /// The one text of [`Code::Forbidden`]: the same whether or not the conversation exists.
    pub fn forbidden() -> Self {
        Self::new(Code::Forbidden, "not a participant, or no such conversation")
    }

    /// As the text of a `Nats-Service-Error` header: `code: detail`, on one line.
    pub fn header(&self) -> String {
        self.to_string().replace(['\r', '\n'], " ")
    }

    /// Reads [`Refusal::header`] back. A text that isn't one is [`Code::Internal`].
    pub fn from_header(text: &str) -> Self {
        let known = text.split_once(": ").and_then(|(code, detail)| {
            Some((Code::ALL.into_iter().find(|known| known.as_str() == code)?, detail))
        });
        match known {
            Some((code, detail)) => Self::new(code, detail),
            None => Self::new(Code::Internal, "the service answered in an unknown way"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_its_header_and_its_json() {
        for code in Code::ALL {
            let refusal = Refusal::new(code, "because: so");
            assert_eq!(Refusal::from_header(&refusal.header()), refusal);
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
        }
    }
}
