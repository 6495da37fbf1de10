//! The client's view of what went wrong: one refusal for each kind of error. The cause goes to the log.

use contract::{Code, Refusal};
use service::postgres;

/// An answer that takes too long.
pub fn late<T>() -> Result<T, Refusal> {
    metrics::counter!("chat_answers_late_total").increment(1);
    Err(Refusal::unavailable())
}

/// A request that makes no sense.
pub fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidRequest, detail)
}

/// A query that failed.
pub fn failed(doing: &'static str, error: &sqlx::Error) -> Refusal {
    tracing::error!(error = service::bus::chain(error), "{doing}");
    if postgres::is_passing_error(error) {
        Refusal::unavailable()
    } else {
        Refusal::new(Code::Internal, "a fault of the server")
    }
}

/// A value that can't be encoded.
pub fn broken(doing: &'static str, error: &serde_json::Error) -> Refusal {
    tracing::error!(%error, "{doing}");
    Refusal::new(Code::Internal, "a fault of the server")
}
