//! The preferences of users, for example for a link in a mail that switches its reminders off.

use super::call::{App, request};
use crate::http::{
    extract::{Body, Id},
    preferences::NewPreferences,
    problem::Problem,
};
use axum::{Json, extract::State};
use contract::{
    UserId,
    preferences::{GetPreferences, PreferenceChanges, Preferences, SetPreferences},
};

/// Get a user's preferences
#[utoipa::path(get, path = "/backend/users/{user_id}/preferences", tag = "Users",
    params(("user_id" = UserId, Path, description = "Id of the user")),
    responses((status = 200, description = "The preferences", body = Preferences)))]
pub async fn get_user_preferences(
    State(shared): App,
    Id(user_id): Id<UserId>,
) -> Result<Json<Preferences>, Problem> {
    request(&shared, GetPreferences { user_id }).await.map(Json)
}

/// Replace a user's preferences
///
/// A user may have 200 settings.
#[utoipa::path(put, path = "/backend/users/{user_id}/preferences", tag = "Users",
    params(("user_id" = UserId, Path, description = "Id of the user")),
    request_body = NewPreferences,
    responses((status = 200, description = "The new preferences", body = Preferences)))]
pub async fn put_user_preferences(
    State(shared): App,
    Id(user_id): Id<UserId>,
    Body(new): Body<NewPreferences>,
) -> Result<Json<Preferences>, Problem> {
    request(&shared, SetPreferences { user_id, changes: new.into_changes(), replace: true }).await.map(Json)
}

/// Change some of a user's preferences
///
/// Settings that are not named stay. Null removes a setting, all settings of a type, or the quiet hours.
#[utoipa::path(patch, path = "/backend/users/{user_id}/preferences", tag = "Users",
    params(("user_id" = UserId, Path, description = "Id of the user")),
    request_body = PreferenceChanges,
    responses((status = 200, description = "The new preferences", body = Preferences)))]
pub async fn patch_user_preferences(
    State(shared): App,
    Id(user_id): Id<UserId>,
    Body(changes): Body<PreferenceChanges>,
) -> Result<Json<Preferences>, Problem> {
    request(&shared, SetPreferences { user_id, changes, replace: false }).await.map(Json)
}
