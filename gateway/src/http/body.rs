//! Reads the body of a call within limits of size and time.

use crate::{
    http::{listener, problem::Problem},
    state::Shared,
};
use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use futures_util::StreamExt;
use std::sync::Arc;
use tokio::time::timeout;

/// Reads a call's body before the handler runs.
pub async fn read_body(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let most = shared.limits.body_bytes;
    read_body_of(most, &shared, request, next).await
}

/// Reads a call's body of at most `most` bytes before the handler runs.
pub async fn read_body_of(most: usize, shared: &Shared, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let limits = &shared.limits;
    let read = async {
        let (mut bytes, mut chunks) = (BytesMut::new(), body.into_data_stream());
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::invalid("the body cannot be read"))?;
            if bytes.len() + chunk.len() > most {
                listener::refused("body_bytes");
                let detail = format!("a body has at most {most} bytes");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    match timeout(limits.body_time, read).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, bytes.into())).await,
        Ok(Err(problem)) => problem.into_response(),
        Err(_) => {
            listener::refused("body_time");
            let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long");
            let mut response = problem.into_response();
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}
