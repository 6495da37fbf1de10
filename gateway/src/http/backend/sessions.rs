//! Sessions of users, and the caller's key.

use super::call::{App, Calling, request};
use crate::{
    admission::backend_keys::Scope,
    http::{extract::Body, problem::Problem},
};
use axum::{Json, extract::State};
use contract::sessions::{Revoke, Revoked};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Revoke a user's sessions
///
/// Closes the user's sockets with 4401, and refuses all tokens issued until now, except the one named by `except_jti`.
#[utoipa::path(post, path = "/backend/sessions/revoke", tag = "Sessions", request_body = Revoke,
    responses((status = 200, description = "The sessions are revoked", body = Revoked)))]
pub async fn revoke_sessions(
    State(shared): App,
    Body(revoke): Body<Revoke>,
) -> Result<Json<Revoked>, Problem> {
    request(&shared, revoke).await.map(Json)
}

/// The caller's key.
#[derive(Serialize, ToSchema)]
pub struct Whoami {
    /// Name of the key.
    #[schema(value_type = String)]
    name: Arc<str>,
    /// What the key permits.
    #[schema(value_type = Vec<Scope>)]
    scopes: Arc<[Scope]>,
    /// Identifies the key with which the gateway verifies tokens: 16 hexadecimal digits. Of a `JWT_SECRET`, the start of
    /// its HMAC-SHA256 of the text `vyzio signing key`; of a `JWT_PUBLIC_KEY`, the start of the SHA-256 of the DER in the
    /// PEM. Absent with `JWT_JWKS_URL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    signing_key_id: Option<String>,
}

/// Get the name and the scopes of the key
///
/// For checks at the start of a backend: whether its key is known, and whether its signing key is the gateway's.
#[utoipa::path(get, path = "/backend/whoami", tag = "Keys",
    responses((status = 200, description = "The key", body = Whoami)))]
pub async fn whoami(State(shared): App, Calling(backend): Calling) -> Json<Whoami> {
    let signing_key_id = shared.signing_key_id.clone();
    Json(Whoami { name: backend.name, scopes: backend.scopes, signing_key_id })
}
