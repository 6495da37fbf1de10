//! Conversations and messages of any users.

use super::call::{App, IdempotencyKey, request};
use crate::{
    admission::tokens,
    http::{
        extract::{Body, Id, Ids, Part, PartQuery, number},
        problem::{Problem, ProblemDetails},
    },
};
use axum::{
    Json,
    extract::{RawQuery, State},
    http::StatusCode,
};
use contract::{
    Code, ConversationId, MessageId, Page, Refusal, UserId,
    chat::{
        Conversation, CreateConversation, Data, EnsureConversation, GetConversation, ListMessages,
        ListVersions, ListedMessage, Message, RemoveMessage, SendOne, StoreOne, StoredOne, UpdateMessage,
    },
    limits,
};
use serde::Deserialize;
use utoipa::ToSchema;

/// Create a conversation
///
/// Returns the existing conversation of these users about this listing, or creates it.
#[utoipa::path(post, path = "/backend/conversations", tag = "Conversations", request_body = CreateConversation,
    responses(
        (status = 201, description = "The new conversation, as the first named participant sees it",
            body = Conversation),
        (status = 200, description = "The existing conversation of these participants about this listing",
            body = Conversation),
    ))]
pub async fn create_conversation(
    State(shared): App,
    Body(new): Body<CreateConversation>,
) -> Result<(StatusCode, Json<Conversation>), Problem> {
    let opened = request(&shared, EnsureConversation(new)).await?;
    let status = if opened.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(opened.conversation)))
}

/// Get one conversation
///
/// `unread_count` is that of the participant with the smallest id.
#[utoipa::path(get, path = "/backend/conversations/{conversation_id}", tag = "Conversations",
    params(("conversation_id" = ConversationId, Path, description = "Id of the conversation")),
    responses((status = 200, description = "The conversation", body = Conversation)))]
pub async fn get_conversation(
    State(shared): App,
    Id(conversation_id): Id<ConversationId>,
) -> Result<Json<Conversation>, Problem> {
    request(&shared, GetConversation { user_id: None, conversation_id }).await.map(Json)
}

/// A message to send.
#[derive(Deserialize, ToSchema)]
pub struct NewMessage {
    /// The participant in whose name it is sent. Absent in a system message.
    #[serde(default)]
    sender_id: Option<UserId>,
    /// True if the marketplace itself sends the message.
    #[serde(default)]
    system: bool,
    /// The text, 1 to 4000 characters after trimming. It may be absent with a kind whose text is made from its data.
    #[serde(default)]
    #[schema(min_length = 1)]
    message: Option<String>,
    /// Kind of the message.
    #[serde(default)]
    kind: Option<String>,
    /// Data of the message, which fits the schema of the kind.
    #[serde(default)]
    #[schema(value_type = Object)]
    data: Option<Data>,
    /// The message of the same conversation to which this one replies.
    #[serde(default)]
    reply_to: Option<MessageId>,
    /// The backend's own id for the message, 1 to 64 printable characters, unique for the sender and the conversation.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    client_id: Option<String>,
}

/// Send a message in a user's name
///
/// A repeat with the same `client_id` returns the message that is already stored, even if its text differs.
/// `Idempotency-Key` is the `client_id` if the body has none.
#[utoipa::path(post, path = "/backend/conversations/{conversation_id}/messages", tag = "Messages",
    params(
        ("conversation_id" = ConversationId, Path, description = "Id of the conversation"),
        ("Idempotency-Key" = Option<String>, Header, description = "The `client_id`, if the body has none"),
    ),
    request_body = NewMessage, responses(
        (status = 201, description = "The stored message", body = Message),
        (status = 200, description = "The message that was stored before with this `client_id`", body = Message),
        (status = 422, description = "`message_too_long`: the text has more than 4000 characters",
            body = ProblemDetails, content_type = "application/problem+json"),
    ))]
pub async fn send_message(
    State(shared): App,
    Id(conversation_id): Id<ConversationId>,
    IdempotencyKey(key): IdempotencyKey,
    Body(new): Body<NewMessage>,
) -> Result<(StatusCode, Json<Message>), Problem> {
    let send = SendOne {
        conversation_id,
        sender_id: new.sender_id,
        system: new.system,
        sender_username: None,
        sender_named_at: None,
        message: new.message,
        client_id: new.client_id.or(key),
        kind: new.kind,
        data: new.data,
        reply_to: new.reply_to,
    };
    let is_repeatable = send.client_id.is_some();
    let store = StoreOne(send);
    let StoredOne { message, is_new } = if is_repeatable {
        request(&shared, store).await?
    } else {
        // After an attempt whose reply was lost, the next one would store the message twice.
        shared.hub.bus().request(&store, limits::SEND_DEADLINE).await?
    };
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(message)))
}

/// Read messages
///
/// Newest first, or with `after`, oldest first; both together are a range. Pass `next` as `after` if the call has it,
/// and otherwise as `before`, to get the next page. A page has at most 256 KiB.
#[utoipa::path(get, path = "/backend/conversations/{conversation_id}/messages", tag = "Messages",
    params(("conversation_id" = ConversationId, Path, description = "Id of the conversation"), PartQuery),
    responses((status = 200, description = "A page of messages", body = Page<Message>)))]
pub async fn list_messages(
    State(shared): App,
    Id(conversation_id): Id<ConversationId>,
    Part { after, before, limit }: Part,
    RawQuery(query): RawQuery,
) -> Result<Json<Page<Message>>, Problem> {
    if tokens::parameter(&query.unwrap_or_default(), "versions").is_some_and(|value| value != "false") {
        let detail = "former texts need the scope moderation: call /backend/conversations/{id}/versions";
        return Err(Refusal::new(Code::Forbidden, detail).into());
    }
    let (limit, versions) = (Some(limit), None);
    request(&shared, ListMessages { conversation_id, after, before, limit, versions }).await.map(Json)
}

/// Read messages with their former texts
///
/// As the messages alone, for moderators.
#[utoipa::path(get, path = "/backend/conversations/{conversation_id}/versions", tag = "Moderation",
    params(
        ("conversation_id" = ConversationId, Path, description = "Id of the conversation"),
        PartQuery,
        ("versions_after" = Option<i64>, Query, minimum = 0,
            description = "Continues a message that has `more_versions`; only with a `limit` of 1"),
    ),
    responses((status = 200, description = "A page of messages", body = Page<ListedMessage>)))]
pub async fn list_versions(
    State(shared): App,
    Id(conversation_id): Id<ConversationId>,
    Part { after, before, limit }: Part,
    RawQuery(query): RawQuery,
) -> Result<Json<Page<ListedMessage>>, Problem> {
    let versions_after = number(&query.unwrap_or_default(), "versions_after", 0)?;
    let (limit, versions) = (Some(limit), None);
    let list = ListMessages { conversation_id, after, before, limit, versions };
    request(&shared, ListVersions { list, versions_after }).await.map(Json)
}

/// The new text of a message, or its new data.
#[derive(Deserialize, ToSchema)]
pub struct NewContent {
    /// The text, 1 to 4000 characters after trimming.
    #[serde(default)]
    #[schema(min_length = 1)]
    message: Option<String>,
    /// The new data, of a message with a kind.
    #[serde(default)]
    #[schema(value_type = Object)]
    data: Option<Data>,
    /// Number of the message's last change (0 if it never changed): with another number, the error is `conflict`.
    #[serde(default)]
    #[schema(minimum = 0)]
    if_change: Option<i64>,
}

/// Replace the text or the data of a message
///
/// Of any sender, however old it is. A repeat changes nothing.
#[utoipa::path(patch, path = "/backend/conversations/{conversation_id}/messages/{message_id}", tag = "Messages",
    params(
        ("conversation_id" = ConversationId, Path, description = "Id of the conversation"),
        ("message_id" = MessageId, Path, description = "Id of the message"),
    ),
    request_body = NewContent, responses(
        (status = 200, description = "The message after the change", body = Message),
        (status = 409, description = "`conflict`: the message's last change is not `if_change`",
            body = ProblemDetails, content_type = "application/problem+json"),
        (status = 422, description = "`message_too_long`: the text has more than 4000 characters",
            body = ProblemDetails, content_type = "application/problem+json"),
    ))]
pub async fn update_message(
    State(shared): App,
    Ids(conversation_id, message_id): Ids<ConversationId, MessageId>,
    Body(NewContent { message, data, if_change }): Body<NewContent>,
) -> Result<Json<Message>, Problem> {
    let update = UpdateMessage { conversation_id, message_id, message, data, if_change };
    if if_change.is_some() {
        // Not retried: after an attempt whose reply was lost, the next one would be a conflict.
        return Ok(Json(shared.hub.bus().request(&update, limits::SEND_DEADLINE).await?));
    }
    request(&shared, update).await.map(Json)
}

/// The reason for a removal.
#[derive(Deserialize, ToSchema)]
pub struct Removal {
    /// The reason, for moderators; 1 to 1000 characters.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

/// Delete a message
///
/// Of any sender, however old it is. The message stays in its place without its text. A repeat changes nothing.
#[utoipa::path(delete, path = "/backend/conversations/{conversation_id}/messages/{message_id}", tag = "Messages",
    params(
        ("conversation_id" = ConversationId, Path, description = "Id of the conversation"),
        ("message_id" = MessageId, Path, description = "Id of the message"),
    ),
    request_body = Removal,
    responses((status = 200, description = "The message without its text", body = Message)))]
pub async fn remove_message(
    State(shared): App,
    Ids(conversation_id, message_id): Ids<ConversationId, MessageId>,
    Body(Removal { reason }): Body<Removal>,
) -> Result<Json<Message>, Problem> {
    request(&shared, RemoveMessage { conversation_id, message_id, reason }).await.map(Json)
}
