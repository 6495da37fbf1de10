//! Users' preferences: which reminders they want, and their quiet hours.

use super::call::{App, request};
use crate::http::{
    extract::{Body, Caller},
    problem::Problem,
};
use axum::{Json, extract::State};
use contract::preferences::{
    GetPreferences, PreferenceChanges, Preferences, QuietHours, SetPreferences, Settings,
};
use serde::Deserialize;
use utoipa::ToSchema;

/// All preferences that a user sets.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPreferences {
    /// For each type of notification, or `*` for all others, and each channel (a step of the reminders, such as
    /// `mail`), whether the user wants reminders. Types and channels that do not exist are kept, too.
    #[serde(default)]
    #[schema(example = json!({"listing_published": {"mail": false}}))]
    types: Settings,
    /// Hours without reminders; without them or null, there are none.
    #[serde(default)]
    quiet: Option<QuietHours>,
}

impl NewPreferences {
    /// The changes that replace all preferences by these.
    pub fn into_changes(self) -> PreferenceChanges {
        let on = |channels: std::collections::BTreeMap<String, bool>| {
            channels.into_iter().map(|(channel, enabled)| (channel, Some(enabled))).collect()
        };
        let types = self.types.into_iter().map(|(kind, channels)| (kind, Some(on(channels)))).collect();
        PreferenceChanges { types, quiet: Some(self.quiet) }
    }
}

/// Get the caller's preferences
#[utoipa::path(get, path = "/api/me/preferences", tag = "Preferences", responses(
    (status = 200, description = "The preferences", body = Preferences),
))]
pub async fn get_preferences(
    State(shared): App,
    Caller(caller): Caller,
) -> Result<Json<Preferences>, Problem> {
    request(&shared, GetPreferences { user_id: caller.user_id }).await.map(Json)
}

/// Replace the caller's preferences
///
/// A user may have 200 settings.
#[utoipa::path(put, path = "/api/me/preferences", tag = "Preferences", request_body = NewPreferences, responses(
    (status = 200, description = "The new preferences", body = Preferences),
))]
pub async fn put_preferences(
    State(shared): App,
    Caller(caller): Caller,
    Body(new): Body<NewPreferences>,
) -> Result<Json<Preferences>, Problem> {
    let changes = new.into_changes();
    request(&shared, SetPreferences { user_id: caller.user_id, changes, replace: true }).await.map(Json)
}

/// Change some of the caller's preferences
///
/// Settings that are not named stay. Null removes a setting, all settings of a type, or the quiet hours.
#[utoipa::path(patch, path = "/api/me/preferences", tag = "Preferences", request_body = PreferenceChanges, responses(
    (status = 200, description = "The new preferences", body = Preferences),
))]
pub async fn patch_preferences(
    State(shared): App,
    Caller(caller): Caller,
    Body(changes): Body<PreferenceChanges>,
) -> Result<Json<Preferences>, Problem> {
    request(&shared, SetPreferences { user_id: caller.user_id, changes, replace: false }).await.map(Json)
}
