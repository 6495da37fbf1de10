//! What the calls of backends share.

use crate::{admission::backend_keys::Backend, http::problem::Problem, state::Shared};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};
use contract::{Refusal, limits};
use std::sync::Arc;

/// The header with the key by which a repeat is recognised.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub use crate::http::call::{App, request};

/// The key by which a repeat is recognised, if the call has one.
pub struct IdempotencyKey(pub Option<String>);

impl IdempotencyKey {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(Self(None)) };
        let key = value.to_str().ok().map(str::trim).filter(|key| !key.is_empty());
        let key = key.filter(|key| key.len() <= limits::EVENT_ID_BYTES).ok_or_else(|| {
            Problem::invalid(format!(
                "\"Idempotency-Key\" must be 1 to {} printable ASCII characters",
                limits::EVENT_ID_BYTES
            ))
        })?;
        Ok(Self(Some(key.to_owned())))
    }
}

impl FromRequestParts<Arc<Shared>> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Problem> {
        Self::of(&parts.headers)
    }
}

/// The backend that makes a call.
pub struct Calling(pub Backend);

impl FromRequestParts<Arc<Shared>> for Calling {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Problem> {
        parts.extensions.get::<Backend>().cloned().map(Self).ok_or_else(|| Refusal::internal().into())
    }
}
