//! Refusals: a code for programs and a text for people.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Stable error code, the same in frames, HTTP problems and NATS service errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Not JSON, or nested too deeply.
    InvalidJson,
    /// JSON of the wrong shape, or text that is empty or can't be stored.
    InvalidMessage,
    /// More than [`crate::limits::MESSAGE_CHARS`] characters.
    MessageTooLong,
    /// An invalid parameter, path or body of an HTTP call or NATS request.
    InvalidRequest,
    /// Too many requests; retry after `retry_after_ms`.
    RateLimited,
    /// The other participant has blocked the sender.
    Blocked,
    /// The resource doesn't exist for this user.
    NotFound,
    /// The user has no permission.
    Forbidden,
    /// The time in which the user may do this has passed.
    TooLate,
    /// The resource is not in the state that the request expects.
    Conflict,
    /// The token is missing, invalid or expired.
    Unauthorized,
    /// A temporary failure; repeating the request is safe.
    Unavailable,
    /// A server fault; repeating the request doesn't help.
    Internal,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 13] = [
        Self::InvalidJson,
        Self::InvalidMessage,
        Self::MessageTooLong,
        Self::InvalidRequest,
        Self::RateLimited,
        Self::Blocked,
        Self::NotFound,
        Self::Forbidden,
        Self::TooLate,
        Self::Conflict,
        Self::Unauthorized,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Text of the code in frames, problems and headers.
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
            Self::TooLate => "too_late",
            Self::Conflict => "conflict",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// HTTP status of the code, also used as `Nats-Service-Error-Code`.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidJson | Self::InvalidMessage | Self::InvalidRequest => 400,
            Self::MessageTooLong => 422,
            Self::RateLimited => 429,
            Self::Blocked | Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::TooLate | Self::Conflict => 409,
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

/// The reason why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Code for programs.
    pub code: Code,
    /// Text for people, without internal details.
    pub detail: String,
    /// With [`Code::RateLimited`]: time until the next attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// Creates a refusal with this code and text.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after_ms: None }
    }

    /// The refusal with [`Code::Unavailable`] and its only text.
    pub fn unavailable() -> Self {
        Self::new(
            Code::Unavailable,
            "temporarily unavailable; retry with the same client_id, if there is one",
        )
    }

    /// The refusal with [`Code::Forbidden`] and its only text, which doesn't reveal whether the conversation exists.
    pub fn forbidden() -> Self {
        Self::new(Code::Forbidden, "not a participant, or no such conversation")
    }

    /// The refusal with [`Code::Internal`] and its only text. The cause is only logged.
    pub fn internal() -> Self {
        Self::new(Code::Internal, "a fault of the server")
    }

    /// Text of a `Nats-Service-Error` header: `code: detail`, on one line.
    pub fn header(&self) -> String {
        self.to_string().replace(['\r', '\n'], " ")
    }

    /// Parses [`Refusal::header`]. Any other text becomes [`Code::Internal`].
    pub fn from_header(text: &str) -> Self {
        let known = text.split_once(": ").and_then(|(code, detail)| {
            Some((Code::ALL.into_iter().find(|known| known.as_str() == code)?, detail))
        });
        match known {
            Some((code, detail)) => Self::new(code, detail),
            None => Self::new(Code::Internal, "the service returned an unknown error"),
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
