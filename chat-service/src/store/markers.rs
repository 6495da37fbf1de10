//! Read markers and heads of logs.

use super::{id, timestamp};
use contract::chat::{ConversationHead, Marker, Unread};
use contract::{ConversationId, MessageId, Seq, UserId};
use service::postgres;
use sqlx::{PgExecutor, Row, postgres::PgRow};

/// Outcome of [`mark_read`].
pub enum MarkOutcome {
    /// The user's marker, and the id of its outbox row if it moved.
    At(Marker, Option<i64>),
    /// The user isn't a participant, or the conversation doesn't exist.
    Forbidden,
    /// The conversation has no such message.
    NotFound,
}

/// Moves a user's marker forward to a message.
pub async fn mark_read(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    user: UserId,
    message: MessageId,
) -> sqlx::Result<MarkOutcome> {
    let row = postgres::query(
        "select m.*, c.last_seq from mark_read($1, $2, $3) m left join conversations c on c.conversation_id = $1",
    )
        .bind(conversation.get())
        .bind(user.get())
        .bind(message.get())
        .fetch_optional(db)
        .await?;
    let Some(row) = row else { return Ok(MarkOutcome::Forbidden) };
    let Some(seq): Option<Seq> = row.try_get("seq")? else { return Ok(MarkOutcome::NotFound) };
    let last: Option<Seq> = row.try_get("last_seq")?;
    let marker = Marker {
        conversation_id: conversation,
        user_id: user,
        message_id: id(row.try_get("message_id")?)?,
        seq,
        read_at: timestamp(&row, "read_at")?,
        unread_count: last.map(|last| (last - seq).max(0)),
        by_sending: false,
    };
    Ok(MarkOutcome::At(marker, row.try_get("outbox_id")?))
}

/// Heads and marker sums of conversations.
pub async fn heads(db: impl PgExecutor<'_>, conversations: &[i64]) -> sqlx::Result<Vec<ConversationHead>> {
    let rows = postgres::query(
        "select c.conversation_id, c.last_seq, c.last_change,
                (select coalesce(sum(p.read_seq), 0)::bigint from participants p
                 where p.conversation_id = c.conversation_id) as read_sum
         from conversations c where c.conversation_id = any ($1)",
    )
    .bind(conversations)
    .fetch_all(db)
    .await?;
    let head = |row: &PgRow| {
        Ok(ConversationHead {
            conversation_id: id(row.try_get("conversation_id")?)?,
            seq: row.try_get("last_seq")?,
            read_sum: row.try_get("read_sum")?,
            changes: Some(row.try_get("last_change")?),
        })
    };
    rows.iter().map(head).collect()
}

/// Numbers of a user's unread conversations and messages.
pub async fn unread(db: impl PgExecutor<'_>, user: UserId) -> sqlx::Result<Unread> {
    let row = postgres::query(
        "select count(*) filter (where c.last_seq > p.read_seq) as conversations,
                coalesce(sum(c.last_seq - p.read_seq), 0)::bigint as messages
         from participants p join conversations c on c.conversation_id = p.conversation_id
         where p.user_id = $1",
    )
    .bind(user.get())
    .fetch_one(db)
    .await?;
    Ok(Unread { conversations: row.try_get("conversations")?, messages: row.try_get("messages")? })
}
