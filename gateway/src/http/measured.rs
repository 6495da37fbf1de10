//! Traces and measures calls of the HTTP API.

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use contract::TraceParent;
use service::{
    Span,
    trace::{self, Kind},
};
use std::time::Instant;

/// Traces a call and measures its duration. The route is a template, so no id becomes part of a name or a label.
///
/// A trace context from the client is ignored; otherwise anyone could have every call recorded.
pub async fn measured(path: MatchedPath, request: Request, next: Next) -> Response {
    measure(None, path, request, next).await
}

/// Traces a call under the span of its caller, if there is one, and measures its duration.
pub async fn measure(
    parent: Option<TraceParent>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let (method, started) = (request.method().as_str().to_owned(), Instant::now());
    let name = || format!("{method} {}", path.as_str());
    let span = match parent {
        Some(_) => Span::under(parent, name(), Kind::Server),
        None if trace::is_on() => Span::root(name(), Kind::Server),
        None => Span::none(),
    };
    let response = span.clone().within(next.run(request)).await;
    let status = response.status();
    span.set("http.request.method", method.clone());
    span.set("http.route", path.as_str().to_owned());
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.failed("server_error");
    }
    let labels = [
        ("http_request_method", method),
        ("http_route", path.as_str().to_owned()),
        ("http_response_status_code", status.as_u16().to_string()),
    ];
    metrics::histogram!("http_server_request_duration_seconds", &labels)
        .record(started.elapsed().as_secs_f64());
    response
}
