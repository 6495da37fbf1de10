//! The HTTP API: each call is one question to a service, in the caller's name.

use crate::{Shared, auth, auth::Identity, problem::Problem, telemetry};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, State, rejection::BytesRejection},
    http::{StatusCode, header, request::Parts},
    routing::{get, post, put},
};
use contract::chat::{
    Conversation, CountUnread, CreateConversation, GetConversation, Invitee, ListBlocks, ListConversations,
    MakeReport, MarkRead, Message, OpenConversation, PageMessages, Participant, Range, Reported, Send, Sent,
    SetBlock,
};
use contract::notify::{MarkNotification, Notification, NotificationPage, PageNotifications};
use contract::{Code, ConversationId, MessageId, NotificationId, Page, Refusal, Request as Question, UserId};
use contract::{frames, limits};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{str::FromStr, sync::Arc};

/// Bytes of a call's body.
const BODY_BYTES: usize = 64 * 1024;

type App = State<Arc<Shared>>;

/// The API's paths.
pub fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/conversations", post(open_conversation).get(list_conversations))
        .route("/api/conversations/{id}", get(get_conversation))
        .route("/api/conversations/{id}/messages", get(page_messages).post(send_message))
        .route("/api/conversations/{id}/read", post(read_message))
        .route("/api/unread", get(unread))
        .route("/api/blocks", get(list_blocks))
        .route("/api/blocks/{id}", put(block).delete(unblock))
        .route("/api/reports", post(report))
        .route("/api/notifications", get(page_notifications))
        .route("/api/notifications/unread_count", get(unread_notifications))
        .route("/api/notifications/{id}/read", post(read_notification))
        .route("/api/notifications/read_all", post(read_all_notifications))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES))
        .route_layer(axum::middleware::from_fn(telemetry::call))
}

async fn ask<R: Question>(shared: &Shared, question: R) -> Result<R::Reply, Problem> {
    Ok(shared.hub.bus().request_until(&question, limits::SEND_DEADLINE).await?)
}

#[derive(Deserialize)]
struct NewConversation {
    participant_ids: Vec<UserId>,
    #[serde(default)]
    listing_id: Option<i64>,
    #[serde(default)]
    title: Option<String>,
}

async fn open_conversation(
    State(shared): App,
    Caller(caller): Caller,
    Body(new): Body<NewConversation>,
) -> Result<(StatusCode, Json<Conversation>), Problem> {
    let NewConversation { participant_ids, listing_id, title } = new;
    let others = participant_ids.into_iter().filter(|user| *user != caller.user_id);
    let mut participants = vec![Invitee { user_id: caller.user_id, username: caller.username }];
    participants.extend(others.map(|user_id| Invitee { user_id, username: None }));
    let wanted = CreateConversation { participants, listing_id, title };
    let opened = ask(&shared, OpenConversation(wanted)).await?;
    let status = if opened.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(opened.conversation)))
}

async fn list_conversations(
    State(shared): App,
    Caller(caller): Caller,
    Cursor { range, limit }: Cursor,
) -> Result<Json<Page<Conversation>>, Problem> {
    ask(&shared, ListConversations { user_id: caller.user_id, range, limit }).await.map(Json)
}

async fn get_conversation(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
) -> Result<Json<Conversation>, Problem> {
    ask(&shared, GetConversation { user_id: caller.user_id, conversation_id }).await.map(Json)
}

async fn page_messages(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
    Cursor { range, limit }: Cursor,
) -> Result<Json<Page<Message>>, Problem> {
    let (user_id, username) = (Some(caller.user_id), caller.username);
    let page = ask(&shared, PageMessages { conversation_id, user_id, username, range, limit }).await?;
    let next = page.items.last().filter(|_| page.more).map(|last| last.message_id.get());
    Ok(Json(Page { items: page.items, next }))
}

#[derive(Deserialize)]
struct NewMessage {
    message: String,
    #[serde(default)]
    client_id: Option<String>,
}

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
        message: frames::message_text(&new.message)?,
        client_id: new.client_id.map(frames::client_id).transpose()?,
    };
    shared.limits.send(send.sender_id)?;
    match shared.packer.send(send).await {
        Sent::Stored(message) => Ok((StatusCode::CREATED, Json(message))),
        Sent::Repeated(message) => Ok((StatusCode::OK, Json(message))),
        Sent::Refused(refusal) => Err(refusal.into()),
    }
}

#[derive(Deserialize)]
struct ReadUpTo {
    message_id: MessageId,
}

async fn read_message(
    State(shared): App,
    Caller(caller): Caller,
    Id(conversation_id): Id<ConversationId>,
    Body(ReadUpTo { message_id }): Body<ReadUpTo>,
) -> Result<StatusCode, Problem> {
    ask(&shared, MarkRead { conversation_id, user_id: caller.user_id, message_id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn block(
    State(shared): App,
    Caller(caller): Caller,
    Id(blocked_id): Id<UserId>,
) -> Result<StatusCode, Problem> {
    ask(&shared, SetBlock { user_id: caller.user_id, blocked_id, blocked: true }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unblock(
    State(shared): App,
    Caller(caller): Caller,
    Id(blocked_id): Id<UserId>,
) -> Result<StatusCode, Problem> {
    ask(&shared, SetBlock { user_id: caller.user_id, blocked_id, blocked: false }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_blocks(
    State(shared): App,
    Caller(caller): Caller,
    Cursor { range, limit }: Cursor,
) -> Result<Json<Page<Participant>>, Problem> {
    ask(&shared, ListBlocks { user_id: caller.user_id, range, limit }).await.map(Json)
}

#[derive(Deserialize)]
struct NewReport {
    #[serde(default)]
    message_id: Option<MessageId>,
    #[serde(default)]
    user_id: Option<UserId>,
    reason: String,
}

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

async fn unread(State(shared): App, Caller(caller): Caller) -> Result<Json<Value>, Problem> {
    let (chat, inbox) = tokio::try_join!(
        ask(&shared, CountUnread { user_id: caller.user_id }),
        inbox(&shared, caller.user_id, Range::Newest, 0, false),
    )?;
    let (conversations, messages) = (chat.conversations, chat.messages);
    Ok(Json(json!({
        "conversations": conversations, "messages": messages, "notifications": inbox.unread_count,
    })))
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

#[derive(Deserialize)]
struct OnlyUnread {
    #[serde(default)]
    unread: bool,
}

async fn page_notifications(
    State(shared): App,
    Caller(caller): Caller,
    Cursor { range, limit }: Cursor,
    only: Result<Query<OnlyUnread>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Page<Notification>>, Problem> {
    let Query(OnlyUnread { unread }) = only.map_err(|_| Problem::invalid("\"unread\" is true or false"))?;
    Ok(Json(inbox(&shared, caller.user_id, range, limit, unread).await?.page))
}

async fn unread_notifications(State(shared): App, Caller(caller): Caller) -> Result<Json<Value>, Problem> {
    let inbox = inbox(&shared, caller.user_id, Range::Newest, 0, false).await?;
    Ok(Json(json!({ "unread_count": inbox.unread_count })))
}

async fn read_notification(
    State(shared): App,
    Caller(caller): Caller,
    Id(id): Id<NotificationId>,
) -> Result<StatusCode, Problem> {
    ask(&shared, MarkNotification { user_id: caller.user_id, notification_id: Some(id) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn read_all_notifications(State(shared): App, Caller(caller): Caller) -> Result<StatusCode, Problem> {
    ask(&shared, MarkNotification { user_id: caller.user_id, notification_id: None }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whose call it is.
struct Caller(Identity);

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let identity = match auth::bearer(&parts.headers) {
            Some(token) => shared.identify_anew(token).await,
            None => Err(auth::Rejected::Missing),
        };
        match identity {
            Ok(mut identity) => {
                shared.languages.saw(identity.user_id, identity.lang.take(), Some(&parts.headers));
                Ok(Self(identity))
            }
            Err(rejected) => {
                tracing::debug!(reason = %rejected, "a token was refused");
                Err(Refusal::new(Code::Unauthorized, "the token is missing, invalid or expired").into())
            }
        }
    }
}

/// The id in a path. What can't be one is no path.
struct Id<T>(T);

impl<T: FromStr> FromRequestParts<Arc<Shared>> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, shared).await;
        path.ok().and_then(|Path(id)| id.parse().ok()).map(Self).ok_or_else(Problem::no_path)
    }
}

/// Which part of a list.
struct Cursor {
    range: Range,
    limit: u16,
}

impl FromRequestParts<Arc<Shared>> for Cursor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let number = |name: &str| match auth::parameter(query, name) {
            None => Ok(None),
            Some(text) => match text.parse::<i64>() {
                Ok(number) if number >= 0 => Ok(Some(number)),
                _ => Err(Problem::invalid(format!("{name:?} is a whole number"))),
            },
        };
        let limit =
            match number("limit")? {
                None => limits::PAGE_DEFAULT,
                Some(limit) => u16::try_from(limit)
                    .ok()
                    .filter(|limit| (1..=limits::PAGE_MAX).contains(limit))
                    .ok_or_else(|| Problem::invalid(format!("\"limit\" is 1 to {}", limits::PAGE_MAX)))?,
            };
        let range = match (number("before")?, number("after")?) {
            (None, None) => Range::Newest,
            (Some(before), None) => Range::Before(before),
            (None, Some(after)) => Range::After(after),
            (Some(_), Some(_)) => {
                return Err(Problem::invalid("\"before\" and \"after\" exclude each other"));
            }
        };
        Ok(Self { range, limit })
    }
}

/// The JSON of a call.
struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Problem> {
        let kind = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind != "application/json" && !(kind.starts_with("application/") && kind.ends_with("+json")) {
            let detail = "the body must be application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        let body = Bytes::from_request(request, shared).await.map_err(|rejection| too_large(&rejection))?;
        let text = std::str::from_utf8(&body).map_err(|_| Refusal::new(Code::InvalidJson, "not UTF-8"))?;
        Ok(Self(frames::from_json(text)?))
    }
}

fn too_large(rejection: &BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("a body has at most {BODY_BYTES} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
        }
        _ => Problem::invalid("the body can't be read"),
    }
}
