//! Read markers and heads of logs.

use super::{id, timestamp};
use contract::chat::{ConversationHead, Marker, Unread};
use contract::{ConversationId, MessageId, Seq, Timestamp, UserId};
use service::postgres;
use sqlx::{PgExecutor, Row, postgres::PgRow};
use time::OffsetDateTime;

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

/// A participant's marker, with the unread count at the time when it moved: when the participant read, or at the time
/// `moved_at` of a deletion, if that was later. Looks at the messages since then. `None` if the participant has read
/// nothing.
pub async fn moved_marker(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    user: UserId,
    moved_at: Option<Timestamp>,
) -> sqlx::Result<Option<Marker>> {
    // Compared as rows, the keys fit one index alone: see "messages" in the service.
    let row = postgres::query(
        "select p.read_message_id, p.read_seq, p.read_at, p.read_by_sending, coalesce((
             select m.seq from messages m
             where (m.conversation_id, m.message_id) > (p.conversation_id, p.read_message_id)
                 and m.conversation_id = p.conversation_id and m.created_at <= greatest(p.read_at, $3)
             order by m.conversation_id desc, m.message_id desc limit 1
         ), p.read_seq) as last_seq
         from participants p where p.conversation_id = $1 and p.user_id = $2 and p.read_message_id > 0",
    )
    .bind(conversation.get())
    .bind(user.get())
    .bind(moved_at.map(OffsetDateTime::from))
    .fetch_optional(db)
    .await?;
    let marker = |row: PgRow| {
        let (seq, last): (Seq, Seq) = (row.try_get("read_seq")?, row.try_get("last_seq")?);
        Ok(Marker {
            conversation_id: conversation,
            user_id: user,
            message_id: id(row.try_get("read_message_id")?)?,
            seq,
            read_at: timestamp(&row, "read_at")?,
            unread_count: Some((last - seq).max(0)),
            by_sending: row.try_get("read_by_sending")?,
        })
    };
    row.map(marker).transpose()
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

/// Numbers of a user's unread conversations and messages, without archived conversations: the list does not show them.
pub async fn unread(db: impl PgExecutor<'_>, user: UserId) -> sqlx::Result<Unread> {
    let row = postgres::query(
        "select count(*) as conversations, coalesce(sum(c.last_seq - p.read_seq), 0)::bigint as messages
         from participants p join conversations c on c.conversation_id = p.conversation_id
         where p.user_id = $1 and c.last_seq > p.read_seq
           and not (p.archived_seq is not null and is_archived(p, c))",
    )
    .bind(user.get())
    .fetch_one(db)
    .await?;
    Ok(Unread { conversations: row.try_get("conversations")?, messages: row.try_get("messages")? })
}
