//! Errors of the HTTP API: RFC 9457 problem details with a stable `code`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use contract::{Code, Refusal};
use serde::Serialize;
use service::RequestError;
use std::time::Duration;
use utoipa::ToSchema;

/// An error response.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem that does not come from a service.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retry_after_ms: None }
    }

    /// Sets the time after which to retry.
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after_ms: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)), ..self }
    }

    /// An invalid parameter or body.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Refusal::new(Code::InvalidRequest, detail).into()
    }

    /// A known path with another method; for a fallback of axum.
    pub async fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes other methods")
    }

    /// An unknown path. The Django package tells it from a missing resource by the text.
    pub fn no_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "no such path")
    }
}

/// The problem details of an error (RFC 9457).
#[derive(Serialize, ToSchema)]
pub struct ProblemDetails {
    /// Always `about:blank`; `code` identifies the error.
    r#type: &'static str,
    /// The name of the HTTP status.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// A stable code for programs. New codes may be added.
    #[schema(value_type = String, examples("rate_limited"))]
    code: &'static str,
    /// A description for people.
    detail: String,
    /// The time to wait before a retry, in milliseconds. The header `Retry-After` contains it in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self {
            status: StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code: refusal.code.as_str(),
            detail: refusal.detail,
            retry_after_ms: refusal.retry_after_ms,
        }
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        if !matches!(error, RequestError::Refused(_)) {
            tracing::warn!(error = service::bus::chain(&error), "a call failed");
        }
        error.into_refusal().into()
    }
}

impl From<Problem> for ProblemDetails {
    fn from(problem: Problem) -> Self {
        Self {
            r#type: "about:blank",
            title: problem.status.canonical_reason().unwrap_or_default(),
            status: problem.status.as_u16(),
            code: problem.code,
            detail: problem.detail,
            retry_after_ms: problem.retry_after_ms,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after_ms) = (self.status, self.retry_after_ms);
        let mut response = Json(ProblemDetails::from(self)).into_response();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                let seconds = retry_after_ms.unwrap_or(1_000).div_ceil(1_000).max(1);
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            _ => {}
        }
        response
    }
}
