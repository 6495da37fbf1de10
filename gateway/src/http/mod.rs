//! Everything that the gateway serves on its public port: sockets, the HTTP API and pages.

mod api;
mod backend;
mod body;
mod call;
mod client;
mod demo;
mod extract;
mod guarded;
mod health;
mod inbox;
pub mod listener;
mod measured;
mod openapi;
mod origin;
mod preferences;
mod presence;
mod problem;
mod responses;
pub mod upgrade;

use crate::state::Shared;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
};
use problem::Problem;
use responses::Responses;
use std::sync::Arc;

/// The routes of the public port.
pub fn router(shared: Arc<Shared>) -> Router {
    let responses = Responses::default();
    let mut router = api::router()
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(shared.clone(), body::read_body))
        .layer(from_fn_with_state(responses.clone(), responses::bound));
    router = router.merge(health::router());
    let mut backend = Router::new();
    if shared.backend_keys.is_some() {
        backend = backend::router(&shared, responses);
    }
    if shared.demo {
        router = router.merge(demo::router());
    }
    router
        .fallback(fallback)
        .method_not_allowed_fallback(Problem::method_not_allowed)
        .layer(from_fn_with_state(shared.clone(), origin::check_origin))
        // Pages of every origin may load the client, so that it can tell them that theirs is not allowed.
        .merge(client::router())
        // Refuses all pages, and has no CORS.
        .merge(backend)
        .with_state(shared)
}

/// Serves sockets, whose paths axum's router cannot describe. Any other path is unknown.
async fn fallback(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match upgrade::target(request.uri().path()) {
        Some(target) => upgrade::handshake(shared, target, request).await,
        None => Problem::no_path().into_response(),
    }
}
