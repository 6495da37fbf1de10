//! Refusals that clients receive, one for each kind of error. The cause is only logged.

use contract::{Code, Refusal, limits};

/// The refusal of a request that exceeded its time limit.
pub fn timed_out<T>() -> Result<T, Refusal> {
    metrics::counter!("chat_requests_late_total").increment(1);
    Err(Refusal::unavailable())
}

/// The refusal of an invalid request.
pub fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidRequest, detail)
}

/// The refusal of a request whose reply can't be encoded.
pub fn encoding_failed(operation: &'static str, error: &serde_json::Error) -> Refusal {
    tracing::error!(%error, "{operation}");
    Refusal::internal()
}

/// The reason that a user or a backend gives, trimmed.
///
/// # Errors
/// `invalid_request` unless it is 1 to [`limits::REASON_CHARS`] characters that can be stored.
pub fn checked_reason(reason: &str) -> Result<&str, Refusal> {
    let (reason, max) = (reason.trim(), limits::REASON_CHARS);
    if reason.is_empty() || reason.chars().count() > max || reason.contains('\0') {
        return Err(invalid(format!("\"reason\" must have 1 to {max} characters, without NUL")));
    }
    Ok(reason)
}
