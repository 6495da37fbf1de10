//! What users see in their list of notifications, and put away.

use super::call::{App, request};
use crate::http::{
    extract::{Body, Caller, Id},
    problem::Problem,
};
use axum::{Json, extract::State, http::StatusCode};
use contract::{
    NotificationId,
    notify::{ArchiveNotification, MarkSeen},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The last notification that the user has seen.
#[derive(Deserialize, ToSchema)]
pub struct SeenUpTo {
    /// Id of the notification.
    notification_id: NotificationId,
}

/// What the user has seen.
#[derive(Serialize, ToSchema)]
pub struct Seen {
    /// Last notification that the user has seen, which may be a later one.
    notification_id: NotificationId,
    /// Number of unread notifications after it.
    unseen_count: i64,
}

/// Mark notifications as seen
///
/// All notifications up to this one are seen, read or not. The marker only moves forward. All sockets of the user that
/// understand extensions receive the frame `seen`.
#[utoipa::path(post, path = "/api/notifications/seen", tag = "Notifications", request_body = SeenUpTo,
    responses((status = 200, description = "What the user has seen", body = Seen)))]
pub async fn see_notifications(
    State(shared): App,
    Caller(caller): Caller,
    Body(SeenUpTo { notification_id }): Body<SeenUpTo>,
) -> Result<Json<Seen>, Problem> {
    let seen = request(&shared, MarkSeen { user_id: caller.user_id, notification_id }).await?;
    Ok(Json(Seen { notification_id: seen.notification_id, unseen_count: seen.unseen_count }))
}

/// Archive a notification
///
/// It is marked as read, and lists leave it out unless they ask for archived ones.
#[utoipa::path(post, path = "/api/notifications/{notification_id}/archive", tag = "Notifications",
    params(("notification_id" = NotificationId, Path, description = "Id of the notification")),
    responses((status = 204, description = "The notification is archived")))]
pub async fn archive_notification(
    State(shared): App,
    Caller(caller): Caller,
    Id(notification_id): Id<NotificationId>,
) -> Result<StatusCode, Problem> {
    request(&shared, ArchiveNotification { user_id: caller.user_id, notification_id }).await?;
    Ok(StatusCode::NO_CONTENT)
}
