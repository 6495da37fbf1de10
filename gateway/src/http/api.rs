//! The HTTP API: each call is one question to a service, in the caller's name.

use super::extract::{Body, Caller, Cursor, CursorQuery, Id, MovingCursor, MovingCursorQuery};
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
use contract::{ConversationId, MessageId, NotificationId, Page, Request as Question, UserId};
use contract::{
    chat::{
        Conversation, CountUnread, CreateConversation, GetConversation, Invitee, ListBlocks,
        ListConversations, MakeReport, MarkRead, Message, OpenConversation, PageMessages, Participant,
        Reported, Send, Sent, SetBlock,
    },
    log::Range,
};
use contract::{frames, limits};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

type App = State<Arc<Shared>>;

/// The API's paths, and what describes them.
pub fn router() -> Router<Arc<Shared>> {
    let api = OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(open_conversation, list_conversations))
        .routes(routes!(get_conversation))
        .routes(routes!(page_messages, send_message))
        .routes(routes!(read_message))
        .routes(routes!(unread))
        .routes(routes!(page_notifications))
        .routes(routes!(unread_notifications))
        .routes(routes!(read_notification))
        .routes(routes!(read_all_notifications))
        .routes(routes!(list_blocks))
        .routes(routes!(block, unblock))
        .routes(routes!(report));
    let (router, document) = api.split_for_parts();
    router.route_layer(axum::middleware::from_fn(measured)).merge(openapi::router(document))
}

async fn ask<R: Question>(shared: &Shared, question: R) -> Result<R::Reply, Problem> {
    Ok(shared.hub.bus().request_until(&question, limits::SEND_DEADLINE).await?)
}

/// The people and the listing of a conversation.
#[derive(Deserialize, ToSchema)]
struct NewConversation {
    /// Everyone but the caller.
    #[schema(min_items = 1, max_items = 100)]
    participant_ids: Vec<UserId>,
    /// What it is about.
    #[serde(default)]
    listing_id: Option<i64>,
    /// At most 200 characters. Only of a new one: that of one that already stands stays.
    #[serde(default)]
    #[schema(max_length = 200)]
    title: Option<String>,
}

/// Open a conversation
///
/// With these people about this listing: the one that already stands, or a new one. The caller is in it, named or
/// not; 2 to 100 people. An operator may leave this to backends: then it is 403.
#[utoipa::path(post, path = "/api/conversations", tag = "Conversations", request_body = NewConversation, responses(
    (status = 201, description = "A new conversation", body = Conversation),
    (status = 200, description = "The one that these people already have about this listing", body = Conversation),
    (status = 403, description = "One of them blocks the caller (`blocked`)", body = ProblemDetails,
        content_type = "application/problem+json"),
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
    let opened = ask(&shared, OpenConversation(wanted)).await?;
    let status = if opened.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(opened.conversation)))
}

/// List the caller's conversations
///
/// Newest activity first; oldest first with `after`. Pass `next` on to read the next page: conversations that move
/// meanwhile are not read again, and none of the others is skipped.
#[utoipa::path(get, path = "/api/conversations", tag = "Conversations", params(MovingCursorQuery), responses(
    (status = 200, description = "A page", body = Page<Conversation>),
))]
async fn list_conversations(
    State(shared): App,
    Caller(caller): Caller,
    MovingCursor(Cursor { range, limit }): MovingCursor,
) -> Result<Json<Page<Conversation>>, Problem> {
    ask(&shared, ListConversations { user_id: caller.user_id, range, limit }).await.map(Json)
}

/// Get one conversation
#[utoipa::path(get, path = "/api/conversations/{conversation_id}", tag = "Conversations",
    params(("conversation_id" = ConversationId, Path, description = "The conversation")),
    responses((status = 200, description = "The conversation", body = Conversation)))]
async fn get_conversation(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
) -> Result<Json<Conversation>, Problem> {
    ask(&shared, GetConversation { user_id: caller.user_id, conversation_id }).await.map(Json)
}

/// Read a conversation's messages
///
/// Newest first; oldest first with `after`. The ids are messages'. `client_id` is there in the caller's own.
#[utoipa::path(get, path = "/api/conversations/{conversation_id}/messages", tag = "Messages",
    params(("conversation_id" = ConversationId, Path, description = "The conversation"), CursorQuery),
    responses((status = 200, description = "A page", body = Page<Message>)))]
async fn page_messages(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
    Cursor { range, limit }: Cursor,
) -> Result<Json<Page<Message>>, Problem> {
    let (user_id, username, named_at) = (Some(caller.user_id), caller.username, caller.stamp.issued_at);
    let ask_for = PageMessages { conversation_id, user_id, username, named_at, range, limit };
    let page = ask(&shared, ask_for).await?;
    let next = page.items.last().filter(|_| page.more).map(|last| last.message_id.get());
    Ok(Json(Page { items: page.items, next }))
}

/// A message to send.
#[derive(Deserialize, ToSchema)]
struct NewMessage {
    /// 1 to 4000 characters, after trimming.
    #[schema(min_length = 1)]
    message: String,
    /// 1 to 64 printable characters: what the caller calls it, unique for that sender and conversation.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    client_id: Option<String>,
}

/// Send a message
///
/// The same `client_id` again is the same message: it is safe to repeat a call that was not answered.
#[utoipa::path(post, path = "/api/conversations/{conversation_id}/messages", tag = "Messages",
    params(("conversation_id" = ConversationId, Path, description = "The conversation")),
    request_body = NewMessage, responses(
        (status = 201, description = "The message, stored", body = Message),
        (status = 200, description = "The message that this `client_id` has named before", body = Message),
        (status = 422, description = "`message_too_long`: more than 4000 characters",
            body = ProblemDetails, content_type = "application/problem+json"),
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
        message: frames::message_text(&new.message)?,
        client_id: new.client_id.map(frames::client_id).transpose()?,
    };
    shared.limits.send(send.sender_id, conversation_id)?;
    let deadline = Instant::now() + limits::SEND_DEADLINE;
    match shared.sends.send(send, deadline).await {
        Sent::Stored(message) => Ok((StatusCode::CREATED, Json(message))),
        Sent::Repeated(message) => Ok((StatusCode::OK, Json(message))),
        Sent::Refused(refusal) => Err(refusal.into()),
    }
}

/// How far the caller has read.
#[derive(Deserialize, ToSchema)]
struct ReadUpTo {
    /// The last message read.
    message_id: MessageId,
}

/// Mark as read up to a message
///
/// A marker moves forward only. `not_found`: the message isn't in this conversation.
#[utoipa::path(post, path = "/api/conversations/{conversation_id}/read", tag = "Messages",
    params(("conversation_id" = ConversationId, Path, description = "The conversation")),
    request_body = ReadUpTo, responses((status = 204, description = "Done")))]
async fn read_message(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
    Body(ReadUpTo { message_id }): Body<ReadUpTo>,
) -> Result<StatusCode, Problem> {
    ask(&shared, MarkRead { conversation_id, user_id: caller.user_id, message_id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Block a user
///
/// In a conversation of two, a blocked sender gets the error `blocked`; nothing is stored, shown as typing or notified.
#[utoipa::path(put, path = "/api/blocks/{user_id}", tag = "Safety",
    params(("user_id" = UserId, Path, description = "Whom to block")),
    responses((status = 204, description = "Blocked, now or before")))]
async fn block(
    State(shared): App,
    Caller(caller): Caller,
    Id(blocked_id): Id<UserId>,
) -> Result<StatusCode, Problem> {
    ask(&shared, SetBlock { user_id: caller.user_id, blocked_id, blocked: true }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Block a user no longer
#[utoipa::path(delete, path = "/api/blocks/{user_id}", tag = "Safety",
    params(("user_id" = UserId, Path, description = "Whom to block no longer")),
    responses((status = 204, description = "Not blocked")))]
async fn unblock(
    State(shared): App,
    Caller(caller): Caller,
    Id(blocked_id): Id<UserId>,
) -> Result<StatusCode, Problem> {
    ask(&shared, SetBlock { user_id: caller.user_id, blocked_id, blocked: false }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List whom the caller blocks
///
/// Largest user id first; smallest first with `after`.
#[utoipa::path(get, path = "/api/blocks", tag = "Safety", params(CursorQuery), responses(
    (status = 200, description = "A page", body = Page<Participant>),
))]
async fn list_blocks(
    State(shared): App,
    Caller(caller): Caller,
    Cursor { range, limit }: Cursor,
) -> Result<Json<Page<Participant>>, Problem> {
    ask(&shared, ListBlocks { user_id: caller.user_id, range, limit }).await.map(Json)
}

/// What is reported: a message or a user, one of both.
#[derive(Deserialize, ToSchema)]
struct NewReport {
    /// One that the caller can see.
    #[serde(default)]
    message_id: Option<MessageId>,
    /// The user, where it is about no message.
    #[serde(default)]
    user_id: Option<UserId>,
    /// Why.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

/// Report a message or a user
///
/// Kept with the message as it stood, and passed on to those who moderate.
#[utoipa::path(post, path = "/api/reports", tag = "Safety", request_body = NewReport, responses(
    (status = 201, description = "The report", body = Reported),
))]
async fn report(
    State(shared): App,
    Caller(caller): Caller,
    Body(NewReport { message_id, user_id, reason }): Body<NewReport>,
) -> Result<(StatusCode, Json<Reported>), Problem> {
    let report = MakeReport { reporter_id: caller.user_id, message_id, user_id, reason };
    // Asked once: a report has no key that would make a second one the same.
    let reported = shared.hub.bus().request(&report, limits::SEND_DEADLINE).await?;
    Ok((StatusCode::CREATED, Json(reported)))
}

/// What a user has not read.
#[derive(Serialize, ToSchema)]
struct Counts {
    /// Conversations with something unread.
    conversations: i64,
    /// Unread messages in all of them.
    messages: i64,
    /// Unread notifications.
    notifications: i64,
}

/// Count what the caller has not read
#[utoipa::path(get, path = "/api/unread", tag = "Conversations", responses(
    (status = 200, description = "The counts", body = Counts),
))]
async fn unread(State(shared): App, Caller(caller): Caller) -> Result<Json<Counts>, Problem> {
    let (chat, inbox) = tokio::try_join!(
        ask(&shared, CountUnread { user_id: caller.user_id }),
        inbox(&shared, caller.user_id, Range::Newest, 0, false),
    )?;
    let (conversations, messages) = (chat.conversations, chat.messages);
    Ok(Json(Counts { conversations, messages, notifications: inbox.unread_count }))
}

async fn inbox(
    shared: &Shared,
    user_id: UserId,
    range: Range,
    limit: u16,
    unread: bool,
) -> Result<NotificationPage, Problem> {
    ask(shared, PageNotifications { user_id, range, limit, unread }).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OnlyUnread {
    /// Only those that are not read.
    #[serde(default)]
    unread: bool,
}

/// Read the caller's notifications
///
/// Newest first; oldest first with `after`. The ids are notifications'.
#[utoipa::path(get, path = "/api/notifications", tag = "Notifications", params(CursorQuery, OnlyUnread), responses(
    (status = 200, description = "A page", body = Page<Notification>),
))]
async fn page_notifications(
    State(shared): App,
    Caller(caller): Caller,
    Cursor { range, limit }: Cursor,
    only: Result<Query<OnlyUnread>, QueryRejection>,
) -> Result<Json<Page<Notification>>, Problem> {
    let Query(OnlyUnread { unread }) = only.map_err(|_| Problem::invalid("\"unread\" is true or false"))?;
    Ok(Json(inbox(&shared, caller.user_id, range, limit, unread).await?.page))
}

/// How many notifications a user has not read.
#[derive(Serialize, ToSchema)]
struct UnreadCount {
    /// So many.
    unread_count: i64,
}

/// Count unread notifications
#[utoipa::path(get, path = "/api/notifications/unread_count", tag = "Notifications", responses(
    (status = 200, description = "The count", body = UnreadCount),
))]
async fn unread_notifications(
    State(shared): App,
    Caller(caller): Caller,
) -> Result<Json<UnreadCount>, Problem> {
    let inbox = inbox(&shared, caller.user_id, Range::Newest, 0, false).await?;
    Ok(Json(UnreadCount { unread_count: inbox.unread_count }))
}

/// Mark one notification as read
#[utoipa::path(post, path = "/api/notifications/{notification_id}/read", tag = "Notifications",
    params(("notification_id" = NotificationId, Path, description = "The notification")),
    responses((status = 204, description = "Done")))]
async fn read_notification(
    State(shared): App,
    Caller(caller): Caller,
    Id(id): Id<NotificationId>,
) -> Result<StatusCode, Problem> {
    ask(&shared, MarkNotification { user_id: caller.user_id, notification_id: Some(id) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Mark every notification as read
#[utoipa::path(post, path = "/api/notifications/read_all", tag = "Notifications", responses(
    (status = 204, description = "Done"),
))]
async fn read_all_notifications(State(shared): App, Caller(caller): Caller) -> Result<StatusCode, Problem> {
    ask(&shared, MarkNotification { user_id: caller.user_id, notification_id: None }).await?;
    Ok(StatusCode::NO_CONTENT)
}
