//! What all calls share.

use crate::{http::problem::Problem, state::Shared};
use axum::extract::State;
use contract::limits;
use std::sync::Arc;

/// The state of the gateway.
pub type App = State<Arc<Shared>>;

/// Sends a request to a service, and repeats it while that may help.
pub async fn request<R: contract::Request>(shared: &Shared, request: R) -> Result<R::Reply, Problem> {
    Ok(shared.hub.bus().request_until(&request, limits::SEND_DEADLINE).await?)
}
