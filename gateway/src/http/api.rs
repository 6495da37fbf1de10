//! The HTTP API. Most calls are one request to a service, in the caller's name.

use super::call::{App, request};
use super::extract::{Body, Caller, Cursor, CursorQuery, Id, Ids, MovingCursor, MovingCursorQuery};
use super::{inbox, preferences, presence};
use crate::{
    http::{
        measured::measured,
        openapi,
        problem::{Problem, ProblemDetails},
    },
    state::Shared,
};
use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use contract::notify::{MarkNotification, Notification, NotificationPage, PageNotifications};
use contract::{ConversationId, MessageId, NotificationId, Page, Seq, UserId};
use contract::{
    chat::{
        Action, ChangeMessage, Conversation, CountUnread, CreateConversation, Data, GetConversation,
        GetMessage, Invitee, Kinds, ListBlocks, ListConversations, ListKinds, MakeReport, MarkRead, Message,
        MineChanges, OpenConversation, PageChanges, PageMessages, Participant, Reported, Send, Sent,
        SetBlock, SetMine,
    },
    log::Range,
};
use contract::{frames, limits};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The routes of the API, and of its OpenAPI document.
pub fn router() -> Router<Arc<Shared>> {
    let api = OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(open_conversation, list_conversations))
        .routes(routes!(get_conversation))
        .routes(routes!(set_mine))
        .routes(routes!(page_messages, send_message))
        .routes(routes!(get_message, edit_message, delete_message))
        .routes(routes!(read_message))
        .routes(routes!(unread))
        .routes(routes!(page_notifications))
        .routes(routes!(unread_notifications))
        .routes(routes!(read_notification))
        .routes(routes!(read_all_notifications))
        .routes(routes!(inbox::see_notifications))
        .routes(routes!(inbox::archive_notification))
        .routes(routes!(
            preferences::get_preferences,
            preferences::put_preferences,
            preferences::patch_preferences
        ))
        .routes(routes!(list_blocks))
        .routes(routes!(block, unblock))
        .routes(routes!(report))
        .routes(routes!(list_kinds))
        .merge(presence::routes());
    let (router, document) = api.split_for_parts();
    router.route_layer(axum::middleware::from_fn(measured)).merge(openapi::router(
        "/api",
        document,
        &openapi::CLIENTS,
    ))
}

/// The participants and the listing of a conversation.
#[derive(Deserialize, ToSchema)]
struct NewConversation {
    /// The participants other than the caller.
    #[schema(min_items = 1, max_items = 100)]
    participant_ids: Vec<UserId>,
    /// The listing that the conversation is about.
    #[serde(default)]
    listing_id: Option<i64>,
    /// The title of a new conversation, at most 200 characters. The title of an existing one does not change.
    #[serde(default)]
    #[schema(max_length = 200)]
    title: Option<String>,
}

/// Open a conversation
///
/// Returns the existing conversation of these participants about this listing, or creates it. The caller always
/// participates, even if not listed. A conversation has 2 to 100 participants. If the operator lets only backends open
/// conversations, the response is 403.
#[utoipa::path(post, path = "/api/conversations", tag = "Conversations", request_body = NewConversation, responses(
    (status = 201, description = "The new conversation", body = Conversation),
    (status = 200, description = "The existing conversation of these participants about this listing",
        body = Conversation),
    (status = 403, description = "A participant has blocked the caller (`blocked`), or only backends may open \
        conversations (`forbidden`)", body = ProblemDetails, content_type = "application/problem+json"),
))]
async fn open_conversation(
    State(shared): App,
    Caller(caller): Caller,
    Body(new): Body<NewConversation>,
) -> Result<(StatusCode, Json<Conversation>), Problem> {
    shared.limits.conversation(caller.user_id)?;
    let NewConversation { participant_ids, listing_id, title } = new;
    let others = participant_ids.into_iter().filter(|user| *user != caller.user_id);
    let mut participants = vec![Invitee { user_id: caller.user_id, username: caller.username }];
    participants.extend(others.map(|user_id| Invitee { user_id, username: None }));
    let wanted = CreateConversation { participants, listing_id, title };
    let opened = request(&shared, OpenConversation(wanted)).await?;
    let status = if opened.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(opened.conversation)))
}

/// List the caller's conversations
///
/// Latest activity first; oldest first with `after`. Pass `next` in the same parameter to get the next page. A
/// conversation with new activity in the meantime is not returned again, and no other conversation is skipped.
/// Conversations that the caller has archived are listed only with `archived`.
#[utoipa::path(get, path = "/api/conversations", tag = "Conversations", params(MovingCursorQuery, OnlyMine),
    responses((status = 200, description = "A page of conversations", body = Page<Conversation>)))]
async fn list_conversations(
    State(shared): App,
    Caller(caller): Caller,
    MovingCursor(Cursor { range, limit }): MovingCursor,
    only: Result<Query<OnlyMine>, QueryRejection>,
) -> Result<Json<Page<Conversation>>, Problem> {
    let invalid = |_| Problem::invalid("\"archived\" and \"pinned\" must be true or false");
    let Query(OnlyMine { archived, pinned }) = only.map_err(invalid)?;
    let list = ListConversations { user_id: caller.user_id, range, limit, archived, pinned };
    request(&shared, list).await.map(Json)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OnlyMine {
    /// Whether to return the archived conversations, in place of the others.
    #[serde(default)]
    archived: bool,
    /// Whether to return only pinned conversations.
    #[serde(default)]
    pinned: bool,
}

/// Mute, archive or pin a conversation
///
/// Sets what only the caller sees. A muted conversation notifies silently: its notifications have `"muted": true` in
/// their data. An archived one leaves the list until its next message, or for as long as it is muted.
#[utoipa::path(put, path = "/api/conversations/{conversation_id}/mine", tag = "Conversations",
    params(("conversation_id" = ConversationId, Path, description = "Id of the conversation")),
    request_body = MineChanges, responses((status = 204, description = "The settings are changed")))]
async fn set_mine(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
    Body(changes): Body<MineChanges>,
) -> Result<StatusCode, Problem> {
    request(&shared, SetMine { user_id: caller.user_id, conversation_id, changes }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Get one conversation
#[utoipa::path(get, path = "/api/conversations/{conversation_id}", tag = "Conversations",
    params(("conversation_id" = ConversationId, Path, description = "Id of the conversation")),
    responses((status = 200, description = "The conversation", body = Conversation)))]
async fn get_conversation(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
) -> Result<Json<Conversation>, Problem> {
    request(&shared, GetConversation { user_id: Some(caller.user_id), conversation_id }).await.map(Json)
}

/// List the messages of a conversation
///
/// Newest first; oldest first with `after`. `before` and `after` are ids of messages. Only the caller's own messages
/// contain their `client_id`. With `changed_after`, the page has the messages that changed after this change, in the
/// order of their last change; `next` is the number for the next page.
#[utoipa::path(get, path = "/api/conversations/{conversation_id}/messages", tag = "Messages",
    params(("conversation_id" = ConversationId, Path, description = "Id of the conversation"), CursorQuery, ChangedQuery),
    responses((status = 200, description = "A page of messages", body = MessagesPage)))]
async fn page_messages(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
    Cursor { range, limit }: Cursor,
    changed: Result<Query<ChangedQuery>, QueryRejection>,
) -> Result<Json<MessagesPage>, Problem> {
    let invalid = || Problem::invalid("\"changed_after\" must be the number of a change, or 0");
    let Query(ChangedQuery { changed_after }) = changed.map_err(|_| invalid())?;
    let user_id = Some(caller.user_id);
    if let Some(after) = changed_after {
        if after < 0 {
            return Err(invalid());
        }
        if range != Range::Newest {
            let detail = "\"changed_after\" cannot be combined with \"before\" or \"after\"";
            return Err(Problem::invalid(detail));
        }
        let page = request(&shared, PageChanges { conversation_id, user_id, after, limit }).await?;
        let next = page.items.last().filter(|_| page.more).and_then(|last| last.change);
        return Ok(Json(MessagesPage { next, items: page.items, changes: page.changes, first_seq: None }));
    }
    let (username, named_at) = (caller.username, caller.stamp.issued_at);
    let page = PageMessages { conversation_id, user_id, username, named_at, range, limit };
    let page = request(&shared, page).await?;
    let next = page.items.last().filter(|_| page.more).map(|last| last.message_id.get());
    let first_seq = Some(page.first_seq).filter(|first| *first > 1);
    Ok(Json(MessagesPage { next, items: page.items, changes: page.changes, first_seq }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ChangedQuery {
    /// Returns only messages with a later change, in the order of their last change. Cannot be combined with `before`
    /// or `after`.
    #[param(minimum = 0)]
    changed_after: Option<i64>,
}

/// A page of messages.
#[derive(Serialize, ToSchema)]
struct MessagesPage {
    /// Cursor of the next page; `null` on the last page.
    next: Option<i64>,
    /// The messages.
    items: Vec<Message>,
    /// Number of changes in the conversation when the page was read.
    changes: i64,
    /// `seq` of the first message that is still stored. Absent if none was deleted because of its age, and with
    /// `changed_after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 2)]
    first_seq: Option<Seq>,
}

/// Get one message
#[utoipa::path(get, path = "/api/conversations/{conversation_id}/messages/{message_id}", tag = "Messages",
    params(
        ("conversation_id" = ConversationId, Path, description = "Id of the conversation"),
        ("message_id" = MessageId, Path, description = "Id of the message"),
    ),
    responses((status = 200, description = "The message", body = Message)))]
async fn get_message(
    State(shared): App,
    Caller(caller): Caller,
    Ids(conversation_id, message_id): Ids<ConversationId, MessageId>,
) -> Result<Json<Message>, Problem> {
    request(&shared, GetMessage { conversation_id, message_id, user_id: caller.user_id }).await.map(Json)
}

/// The new text of a message.
#[derive(Deserialize, ToSchema)]
struct NewText {
    /// The text, 1 to 4000 characters after trimming.
    #[schema(min_length = 1)]
    message: String,
}

/// Edit an own message
///
/// Possible for 15 minutes after it was sent, unless the operator has set another time; later, the error is `too_late`.
/// A repeated call changes nothing.
#[utoipa::path(patch, path = "/api/conversations/{conversation_id}/messages/{message_id}", tag = "Messages",
    params(
        ("conversation_id" = ConversationId, Path, description = "Id of the conversation"),
        ("message_id" = MessageId, Path, description = "Id of the message"),
    ),
    request_body = NewText, responses(
        (status = 200, description = "The message after the change", body = Message),
        (status = 409, description = "`too_late`: the message is too old for this change", body = ProblemDetails,
            content_type = "application/problem+json"),
        (status = 422, description = "`message_too_long`: the text has more than 4000 characters",
            body = ProblemDetails, content_type = "application/problem+json"),
    ))]
async fn edit_message(
    State(shared): App,
    Caller(caller): Caller,
    Ids(conversation_id, message_id): Ids<ConversationId, MessageId>,
    Body(NewText { message }): Body<NewText>,
) -> Result<Json<Message>, Problem> {
    let action = Action::Edit(frames::message_text(&message)?);
    shared.limits.send(caller.user_id, conversation_id)?;
    let change = ChangeMessage { conversation_id, message_id, user_id: caller.user_id, action };
    request(&shared, change).await.map(Json)
}

/// Delete an own message
///
/// Possible for 24 hours after it was sent, unless the operator has set another time; later, the error is `too_late`.
/// The message stays in its place without its text. A repeated call changes nothing.
#[utoipa::path(delete, path = "/api/conversations/{conversation_id}/messages/{message_id}", tag = "Messages",
    params(
        ("conversation_id" = ConversationId, Path, description = "Id of the conversation"),
        ("message_id" = MessageId, Path, description = "Id of the message"),
    ),
    responses(
        (status = 204, description = "The message is deleted"),
        (status = 409, description = "`too_late`: the message is too old for this change", body = ProblemDetails,
            content_type = "application/problem+json"),
    ))]
async fn delete_message(
    State(shared): App,
    Caller(caller): Caller,
    Ids(conversation_id, message_id): Ids<ConversationId, MessageId>,
) -> Result<StatusCode, Problem> {
    shared.limits.send(caller.user_id, conversation_id)?;
    let action = Action::Delete;
    request(&shared, ChangeMessage { conversation_id, message_id, user_id: caller.user_id, action }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A message to send.
#[derive(Deserialize, ToSchema)]
struct NewMessage {
    /// The text, 1 to 4000 characters after trimming. The text of some kinds is made from the data.
    #[serde(default)]
    #[schema(min_length = 1)]
    message: Option<String>,
    /// The kind of the message, one of `GET /api/kinds`.
    #[serde(default)]
    #[schema(max_length = 64)]
    kind: Option<String>,
    /// The data of the message, which fit the schema of its kind; at most 8192 bytes.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    data: Option<Data>,
    /// The message of the same conversation to which this one replies.
    #[serde(default)]
    reply_to: Option<MessageId>,
    /// The caller's own id for the message, 1 to 64 printable characters, unique for the sender and the conversation.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    client_id: Option<String>,
}

/// Send a message
///
/// A call with the same `client_id` returns the message that is already stored. So a call without a response can be
/// repeated safely with its `client_id`.
#[utoipa::path(post, path = "/api/conversations/{conversation_id}/messages", tag = "Messages",
    params(("conversation_id" = ConversationId, Path, description = "Id of the conversation")),
    request_body = NewMessage, responses(
        (status = 201, description = "The stored message", body = Message),
        (status = 200, description = "The message that was stored before with this `client_id`", body = Message),
        (status = 422, description = "`message_too_long`: the text has more than 4000 characters, or the data more \
            than 8192 bytes", body = ProblemDetails, content_type = "application/problem+json"),
    ))]
async fn send_message(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
    Body(new): Body<NewMessage>,
) -> Result<(StatusCode, Json<Message>), Problem> {
    let send = Send {
        conversation_id,
        sender_id: caller.user_id,
        sender_username: caller.username,
        sender_named_at: caller.stamp.issued_at,
        message: frames::sent_text(new.message.as_deref(), new.kind.as_deref())?,
        client_id: new.client_id.map(frames::client_id).transpose()?,
        kind: new.kind.map(frames::kind_name).transpose()?,
        data: new.data.map(frames::checked_data).transpose()?,
        reply_to: new.reply_to,
        system: false,
    };
    shared.limits.send(send.sender_id, conversation_id)?;
    let deadline = Instant::now() + limits::SEND_DEADLINE;
    match shared.sends.send(send.clone(), deadline).await {
        Sent::Placed(receipt) => Ok((StatusCode::CREATED, Json(receipt.message(send)))),
        Sent::Stored(message) => Ok((StatusCode::CREATED, Json(message))),
        Sent::Repeated(message) => Ok((StatusCode::OK, Json(message))),
        Sent::Refused(refusal) => Err(refusal.into()),
    }
}

/// The position up to which the caller has read.
#[derive(Deserialize, ToSchema)]
struct ReadUpTo {
    /// The last message that the caller has read.
    message_id: MessageId,
}

/// Mark messages as read up to a message
///
/// The caller's read marker moves forward only. If the message is not in this conversation, the error is `not_found`.
#[utoipa::path(post, path = "/api/conversations/{conversation_id}/read", tag = "Messages",
    params(("conversation_id" = ConversationId, Path, description = "Id of the conversation")),
    request_body = ReadUpTo, responses((status = 204, description = "The messages are marked as read")))]
async fn read_message(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
    Body(ReadUpTo { message_id }): Body<ReadUpTo>,
) -> Result<StatusCode, Problem> {
    request(&shared, MarkRead { conversation_id, user_id: caller.user_id, message_id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Block a user
///
/// In a conversation of two, a blocked user cannot send messages (error `blocked`), and their typing is not shown.
#[utoipa::path(put, path = "/api/blocks/{user_id}", tag = "Safety",
    params(("user_id" = UserId, Path, description = "Id of the user to block")),
    responses((status = 204, description = "The user is blocked")))]
async fn block(
    State(shared): App,
    Caller(caller): Caller,
    Id(blocked_id): Id<UserId>,
) -> Result<StatusCode, Problem> {
    request(&shared, SetBlock { user_id: caller.user_id, blocked_id, blocked: true }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Unblock a user
#[utoipa::path(delete, path = "/api/blocks/{user_id}", tag = "Safety",
    params(("user_id" = UserId, Path, description = "Id of the user to unblock")),
    responses((status = 204, description = "The user is not blocked")))]
async fn unblock(
    State(shared): App,
    Caller(caller): Caller,
    Id(blocked_id): Id<UserId>,
) -> Result<StatusCode, Problem> {
    request(&shared, SetBlock { user_id: caller.user_id, blocked_id, blocked: false }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the users whom the caller has blocked
///
/// Largest user id first; smallest first with `after`. `before` and `after` are ids of users.
#[utoipa::path(get, path = "/api/blocks", tag = "Safety", params(CursorQuery), responses(
    (status = 200, description = "A page of users", body = Page<Participant>),
))]
async fn list_blocks(
    State(shared): App,
    Caller(caller): Caller,
    Cursor { range, limit }: Cursor,
) -> Result<Json<Page<Participant>>, Problem> {
    request(&shared, ListBlocks { user_id: caller.user_id, range, limit }).await.map(Json)
}

/// A report of either a message or a user.
#[derive(Deserialize, ToSchema)]
struct NewReport {
    /// The reported message. The caller must be able to read it.
    #[serde(default)]
    message_id: Option<MessageId>,
    /// The reported user, if the report is not about a message.
    #[serde(default)]
    user_id: Option<UserId>,
    /// The reason, 1 to 1000 characters.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

/// Report a message or a user
///
/// The report is stored with a copy of the message, and passed on to the moderators.
#[utoipa::path(post, path = "/api/reports", tag = "Safety", request_body = NewReport, responses(
    (status = 201, description = "The stored report", body = Reported),
))]
async fn report(
    State(shared): App,
    Caller(caller): Caller,
    Body(NewReport { message_id, user_id, reason }): Body<NewReport>,
) -> Result<(StatusCode, Json<Reported>), Problem> {
    let report = MakeReport { reporter_id: caller.user_id, message_id, user_id, reason };
    // Not retried: a report has no key, so a retry could store it twice.
    let reported = shared.hub.bus().request(&report, limits::SEND_DEADLINE).await?;
    Ok((StatusCode::CREATED, Json(reported)))
}

/// List the kinds of messages
///
/// The names, and the JSON Schemas (2020-12) of the data, for forms and for types.
#[utoipa::path(get, path = "/api/kinds", tag = "Messages", responses(
    (status = 200, description = "The kinds", body = Kinds),
))]
async fn list_kinds(State(shared): App, Caller(_): Caller) -> Result<Json<Kinds>, Problem> {
    request(&shared, ListKinds {}).await.map(Json)
}

/// A user's unread counts.
#[derive(Serialize, ToSchema)]
struct Counts {
    /// Number of conversations with unread messages.
    conversations: i64,
    /// Number of unread messages in all conversations.
    messages: i64,
    /// Number of unread notifications.
    notifications: i64,
}

/// Count unread messages and notifications
#[utoipa::path(get, path = "/api/unread", tag = "Conversations", responses(
    (status = 200, description = "The unread counts", body = Counts),
))]
async fn unread(State(shared): App, Caller(caller): Caller) -> Result<Json<Counts>, Problem> {
    let (chat, inbox) = tokio::try_join!(
        request(&shared, CountUnread { user_id: caller.user_id }),
        head(&shared, caller.user_id),
    )?;
    let (conversations, messages) = (chat.conversations, chat.messages);
    Ok(Json(Counts { conversations, messages, notifications: inbox.unread_count }))
}

/// The head of an inbox, without notifications.
async fn head(shared: &Shared, user_id: UserId) -> Result<NotificationPage, Problem> {
    let (range, limit) = (Range::Newest, 0);
    request(shared, PageNotifications { user_id, range, limit, unread: false, hides_archived: false }).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Shown {
    /// Whether to return only unread notifications.
    #[serde(default)]
    unread: bool,
    /// Whether to return archived notifications, too; they have `archived_at`.
    #[serde(default)]
    archived: bool,
}

/// List the caller's notifications
///
/// Newest first; oldest first with `after`. `before` and `after` are ids of notifications.
#[utoipa::path(get, path = "/api/notifications", tag = "Notifications", params(CursorQuery, Shown), responses(
    (status = 200, description = "A page of notifications", body = Page<Notification>),
))]
async fn page_notifications(
    State(shared): App,
    Caller(caller): Caller,
    Cursor { range, limit }: Cursor,
    shown: Result<Query<Shown>, QueryRejection>,
) -> Result<Json<Page<Notification>>, Problem> {
    let Query(Shown { unread, archived }) =
        shown.map_err(|_| Problem::invalid("\"unread\" and \"archived\" must be true or false"))?;
    let user_id = caller.user_id;
    let wanted = PageNotifications { user_id, range, limit, unread, hides_archived: !archived };
    Ok(Json(request(&shared, wanted).await?.page))
}

/// A user's counts of notifications.
#[derive(Serialize, ToSchema)]
struct UnreadCount {
    /// Number of unread notifications.
    unread_count: i64,
    /// Number of them after the last one that the user has seen.
    unseen_count: i64,
}

/// Count unread and unseen notifications
#[utoipa::path(get, path = "/api/notifications/unread_count", tag = "Notifications", responses(
    (status = 200, description = "The counts", body = UnreadCount),
))]
async fn unread_notifications(
    State(shared): App,
    Caller(caller): Caller,
) -> Result<Json<UnreadCount>, Problem> {
    let NotificationPage { unread_count, seen, .. } = head(&shared, caller.user_id).await?;
    // As long as nothing was seen, nothing that is unread was.
    let unseen_count = seen.map_or(unread_count, |seen| seen.unseen_count);
    Ok(Json(UnreadCount { unread_count, unseen_count }))
}

/// Mark one notification as read
#[utoipa::path(post, path = "/api/notifications/{notification_id}/read", tag = "Notifications",
    params(("notification_id" = NotificationId, Path, description = "Id of the notification")),
    responses((status = 204, description = "The notification is marked as read")))]
async fn read_notification(
    State(shared): App,
    Caller(caller): Caller,
    Id(id): Id<NotificationId>,
) -> Result<StatusCode, Problem> {
    request(&shared, MarkNotification { user_id: caller.user_id, notification_id: Some(id) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Mark all notifications as read
#[utoipa::path(post, path = "/api/notifications/read_all", tag = "Notifications", responses(
    (status = 204, description = "All notifications are marked as read"),
))]
async fn read_all_notifications(State(shared): App, Caller(caller): Caller) -> Result<StatusCode, Problem> {
    request(&shared, MarkNotification { user_id: caller.user_id, notification_id: None }).await?;
    Ok(StatusCode::NO_CONTENT)
}
