//! The data of users: erasure and export.

use super::call::{App, request};
use crate::{
    http::{
        extract::{Body as JsonBody, Id},
        problem::Problem,
        responses::Streamed,
    },
    state::Shared,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use contract::{
    UserId,
    erasure::{EraseUser, Erasure, Export, ExportUser, Record},
};
use futures_util::stream;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// The reason for an erasure.
#[derive(Deserialize, ToSchema)]
pub struct Reason {
    /// The reason, for operators; 1 to 1000 characters.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 1000)]
    reason: Option<String>,
}

/// Erase a user's data
///
/// The erasure goes on in the background; the event `users.erased` is its end. A repeat is harmless.
#[utoipa::path(post, path = "/backend/users/{user_id}/erase", tag = "Users",
    params(("user_id" = UserId, Path, description = "Id of the user")),
    request_body = Reason,
    responses((status = 202, description = "The erasure has begun", body = Erasure)))]
pub async fn erase_user(
    State(shared): App,
    Id(user_id): Id<UserId>,
    JsonBody(Reason { reason }): JsonBody<Reason>,
) -> Result<(StatusCode, Json<Erasure>), Problem> {
    let erasure = request(&shared, EraseUser { user_id, reason }).await?;
    Ok((StatusCode::ACCEPTED, Json(erasure)))
}

/// Export what is stored about a user
///
/// One JSON object in each line, and nobody else's text. An incomplete response ends with an error of the connection.
#[utoipa::path(get, path = "/backend/users/{user_id}/export", tag = "Users",
    params(("user_id" = UserId, Path, description = "Id of the user")),
    responses((status = 200, description = "The records", body = Record, content_type = "application/x-ndjson")))]
pub async fn export_user(State(shared): App, Id(user_id): Id<UserId>) -> Result<Response, Problem> {
    // The first page is read before the status is sent, so that an error has a status of its own.
    let first = request(&shared, ExportUser { user_id, after: None }).await?;
    let pages = stream::try_unfold(Some(first), move |page| rest(shared.clone(), user_id, page));
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    let mut response = (headers, Body::from_stream(pages)).into_response();
    response.extensions_mut().insert(Streamed);
    Ok(response)
}

/// The lines of a page, and the page after it.
async fn rest(
    shared: Arc<Shared>,
    user_id: UserId,
    page: Option<Export>,
) -> Result<Option<(Bytes, Option<Export>)>, axum::Error> {
    let Some(Export { items, next }) = page else { return Ok(None) };
    let mut lines = Vec::new();
    for item in items {
        serde_json::to_writer(&mut lines, &item).map_err(axum::Error::new)?;
        lines.push(b'\n');
    }
    let next = match next {
        None => None,
        after => {
            let page = request(&shared, ExportUser { user_id, after }).await;
            Some(page.map_err(|_| axum::Error::new("a page of the export failed"))?)
        }
    };
    Ok(Some((lines.into(), next)))
}
