//! The calls about presence.

use super::{
    call::{App, request},
    extract::{Body, Caller},
    problem::{Problem, ProblemDetails},
};
use crate::{
    admission::tokens::parameter, channel::presence::seen_by, session::presence_is_off, state::Shared,
};
use axum::{
    Json,
    extract::{RawQuery, State},
    http::StatusCode,
};
use contract::{
    UserId,
    chat::FindPeople,
    presence::{GetShown, Presences, READ_MAX, SetShown, Who},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The routes of these calls.
pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(presence)).routes(routes!(shown, set_shown))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only describes the parameter; it is parsed by hand for specific error texts")]
struct PresenceQuery {
    /// Ids of users, separated by commas; at most 100.
    #[param(example = "457,460")]
    user_ids: String,
}

/// Get the presence of users
///
/// Users who share no conversation with the caller are left out. A user who hides, a blocked one and one who was never
/// seen look the same: not online, without `last_seen`. A caller who hides sees everybody like that. If the operator
/// has switched presence off, the error is `invalid_request`.
#[utoipa::path(get, path = "/api/presence", tag = "Presence", params(PresenceQuery), responses(
    (status = 200, description = "The presence of each user, in ascending order of their ids", body = Presences),
))]
async fn presence(
    State(shared): App,
    Caller(caller): Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Presences>, Problem> {
    on(&shared)?;
    let others = user_ids(query.as_deref().unwrap_or_default())?;
    let people = request(&shared, FindPeople { user_id: caller.user_id, others }).await?;
    if people.is_empty() {
        return Ok(Json(Presences { items: Vec::new() }));
    }
    let user_ids = people.iter().map(|person| person.user_id).chain([caller.user_id]).collect();
    let states = request(&shared, Who { user_ids }).await?.items;
    Ok(Json(Presences { items: seen_by(caller.user_id, &people, states) }))
}

/// Parses the ids in a query.
fn user_ids(query: &str) -> Result<Vec<UserId>, Problem> {
    let ids = parameter(query, "user_ids").unwrap_or_default();
    let ids: Result<Vec<UserId>, _> = ids.split(',').map(str::parse).collect();
    let ids = ids.map_err(|_| Problem::invalid("\"user_ids\" must be ids of users, separated by commas"))?;
    if ids.len() > READ_MAX {
        return Err(Problem::invalid(format!("\"user_ids\" has at most {READ_MAX} ids")));
    }
    Ok(ids)
}

/// Who sees the caller's presence.
#[derive(Serialize, Deserialize, ToSchema)]
struct Setting {
    /// Whether users who share a conversation with the caller see it. If not, the caller sees nobody's presence.
    shown: bool,
}

/// Get whether the caller's presence is shown
#[utoipa::path(get, path = "/api/me/presence", tag = "Presence", responses(
    (status = 200, description = "The setting", body = Setting),
    (status = 400, description = "`invalid_request`: presence is switched off", body = ProblemDetails,
        content_type = "application/problem+json"),
))]
async fn shown(State(shared): App, Caller(caller): Caller) -> Result<Json<Setting>, Problem> {
    on(&shared)?;
    let stored = request(&shared, GetShown { user_id: caller.user_id }).await?;
    Ok(Json(Setting { shown: stored.shown }))
}

/// Show or hide the caller's presence
///
/// Hiding also removes the stored time at which the caller was last seen. At most 10 calls in a minute.
#[utoipa::path(put, path = "/api/me/presence", tag = "Presence", request_body = Setting, responses(
    (status = 204, description = "The setting is stored"),
))]
async fn set_shown(
    State(shared): App,
    Caller(caller): Caller,
    Body(Setting { shown }): Body<Setting>,
) -> Result<StatusCode, Problem> {
    on(&shared)?;
    shared.limits.shown(caller.user_id)?;
    request(&shared, SetShown { user_id: caller.user_id, shown }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn on(shared: &Shared) -> Result<(), Problem> {
    if shared.presence_people.is_none() { Err(presence_is_off().into()) } else { Ok(()) }
}
