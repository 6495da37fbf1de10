//! Changes of messages: edits, deletions, and reading them.

use super::{
    id, message,
    messages::{data_of, deleter_text},
    timestamp,
};
use contract::{
    ConversationId, MessageId, UserId,
    chat::{Data, DeletedBy, Message, Version},
    limits,
};
use service::postgres;
use sqlx::{PgExecutor, Row};
use std::collections::HashMap;

/// A change to make.
pub struct Change<'a> {
    pub conversation_id: ConversationId,
    pub message_id: MessageId,
    /// The sender who makes the change, with the number of seconds since the message in which that is possible. `None`
    /// for a backend.
    pub user: Option<(UserId, u32)>,
    pub kind: Kind<'a>,
    /// Number of the message's last change that a backend expects.
    pub if_change: Option<i64>,
}

/// A kind of change.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    /// Replaces the text.
    Edit(&'a str),
    /// Replaces the data, and the text if there is a new one.
    Data(&'a Data, Option<&'a str>),
    /// Deletes the message, for a reason if a backend does.
    Delete(DeletedBy, Option<&'a str>),
}

/// Outcome of [`change_message`].
#[derive(Debug, PartialEq, Eq)]
pub enum Changed {
    /// The message is changed. Markers directly before it moved past it.
    Made {
        /// Number of the change.
        number: i64,
        /// Id of the outbox row.
        outbox_id: i64,
        /// The users whose markers moved.
        moved: Vec<UserId>,
    },
    /// There was nothing to do.
    Unchanged,
    /// The user isn't a participant, or the conversation doesn't exist.
    Forbidden,
    /// Another user sent the message.
    NotOwn,
    /// Users don't change messages of this kind like this.
    Reserved,
    /// The conversation has no such message, or it is deleted.
    NotFound,
    /// The time in which the user may do this has passed.
    TooLate,
    /// In a conversation of two, the other participant blocks the sender.
    Blocked,
    /// The message's last change has another number.
    Conflict,
    /// The message was changed too often.
    TooMany,
}

/// Changes a message, and keeps its former text and data for so many days. Users don't delete messages of `reserved`
/// kinds. Repeating it is harmless.
pub async fn change_message(
    db: impl PgExecutor<'_>,
    change: &Change<'_>,
    version_days: u32,
    reserved: &[String],
) -> sqlx::Result<Changed> {
    let (content, data, deleted_by, reason) = match change.kind {
        Kind::Edit(text) => (Some(text), None, None, None),
        Kind::Data(data, text) => (text, Some(data.get()), None, None),
        Kind::Delete(by, reason) => (None, None, Some(deleter_text(by)), reason),
    };
    let row =
        postgres::query("select * from change_message($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)")
            .bind(change.conversation_id.get())
            .bind(change.message_id.get())
            .bind(change.user.map(|(user, _)| user.get()))
            .bind(content)
            .bind(deleted_by)
            .bind(reason)
            .bind(change.if_change)
            .bind(change.user.map(|(_, seconds)| i64::from(seconds)))
            .bind(limits::CHANGES_MAX)
            .bind(i32::try_from(version_days).unwrap_or(i32::MAX))
            .bind(data)
            .bind(reserved)
            .fetch_one(db)
            .await?;
    let moved: Option<Vec<i64>> = row.try_get("moved")?;
    Ok(match row.try_get("outcome")? {
        "changed" => Changed::Made {
            number: row.try_get("number")?,
            outbox_id: row.try_get("outbox_id")?,
            moved: moved.unwrap_or_default().into_iter().map(id).collect::<sqlx::Result<_>>()?,
        },
        "unchanged" => Changed::Unchanged,
        "forbidden" => Changed::Forbidden,
        "not_own" => Changed::NotOwn,
        "reserved" => Changed::Reserved,
        "not_found" => Changed::NotFound,
        "too_late" => Changed::TooLate,
        "blocked" => Changed::Blocked,
        "conflict" => Changed::Conflict,
        "too_many" => Changed::TooMany,
        other => return Err(sqlx::Error::Protocol(format!("the outcome {other:?}"))),
    })
}

/// Messages of a conversation by their last change. The caller sets `is_read` with
/// [`Members::is_read`](super::Members::is_read).
pub async fn changes(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    after: i64,
    limit: i64,
) -> sqlx::Result<Vec<Message>> {
    let rows = postgres::query(
        "select * from messages where conversation_id = $1 and change > $2 and change > 0 order by change limit $3",
    )
    .bind(conversation.get())
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter().map(message).collect()
}

/// Former texts by message, oldest first.
pub type FormerTexts = HashMap<MessageId, Vec<Version>>;

/// Former texts of messages of a conversation, from changes after this one. They are counted in the order of `messages`
/// and end with the one that exceeds `bytes`.
pub async fn versions(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    messages: &[i64],
    after: i64,
    bytes: usize,
) -> sqlx::Result<FormerTexts> {
    let rows = postgres::query(
        "select * from (
             select v.*, sum(octet_length(content) + coalesce(octet_length(data), 0)) over (
                 order by array_position($2::bigint[], message_id), change
                 rows between unbounded preceding and 1 preceding
             ) as bytes
             from versions v where conversation_id = $1 and message_id = any ($2) and change > $3
         ) v where bytes is null or bytes <= $4 order by message_id, change",
    )
    .bind(conversation.get())
    .bind(messages)
    .bind(after)
    .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
    .fetch_all(db)
    .await?;
    let mut versions = FormerTexts::new();
    for row in &rows {
        versions.entry(id(row.try_get("message_id")?)?).or_default().push(Version {
            change: row.try_get("change")?,
            content: row.try_get("content")?,
            data: data_of(row)?,
            reason: row.try_get("reason")?,
            until: timestamp(row, "until")?,
        });
    }
    Ok(versions)
}
