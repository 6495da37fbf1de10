//! Deletion of what is too old.

use super::{erasures::moved, id};
use contract::{ConversationId, UserId};
use service::postgres;
use sqlx::{PgExecutor, Row};
use time::OffsetDateTime;

/// Messages that retention deleted in one step.
#[derive(Debug)]
pub struct ExpiredMessages {
    /// Their number.
    pub expired: i64,
    /// The users whose markers moved, and the row of the outbox of each.
    pub moved: Vec<(UserId, i64)>,
}

/// Deletes up to `limit` messages of a conversation that were sent before a time. `None`: none is left.
pub async fn expire_messages(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    before: OffsetDateTime,
    limit: i32,
) -> sqlx::Result<Option<ExpiredMessages>> {
    let row = postgres::query("select * from expire_messages($1, $2, $3)")
        .bind(conversation.get())
        .bind(before)
        .bind(limit)
        .fetch_optional(db)
        .await?;
    row.map(|row| {
        let outbox_ids: Vec<i64> = row.try_get("outbox_ids")?;
        Ok(ExpiredMessages {
            expired: row.try_get("expired")?,
            moved: moved(&row)?.into_iter().zip(outbox_ids).collect(),
        })
    })
    .transpose()
}

/// Looks at the next `limit` conversations by id. Returns the last of them, and those with messages from before a time;
/// `None` if there are no more conversations.
pub async fn conversations_with_old_messages(
    db: impl PgExecutor<'_>,
    after: i64,
    before: OffsetDateTime,
    limit: i64,
) -> sqlx::Result<Option<(i64, Vec<ConversationId>)>> {
    let row = postgres::query(
        "select max(c.conversation_id) as last,
                array_agg(c.conversation_id order by c.conversation_id) filter (where m.created_at < $2) as old
         from (
             select conversation_id from conversations where conversation_id > $1 order by conversation_id limit $3
         ) c
         left join lateral (
             select m.conversation_id, m.created_at from messages m
             where (m.conversation_id, m.message_id) >= (c.conversation_id, 0)
             order by m.conversation_id, m.message_id limit 1
         ) m on m.conversation_id = c.conversation_id",
    )
    .bind(after)
    .bind(before)
    .bind(limit)
    .fetch_one(db)
    .await?;
    let Some(last) = row.try_get::<Option<i64>, _>("last")? else { return Ok(None) };
    let old: Option<Vec<i64>> = row.try_get("old")?;
    Ok(Some((last, old.unwrap_or_default().into_iter().map(id).collect::<sqlx::Result<_>>()?)))
}

/// Deletes up to `limit` former texts whose time has passed. Returns their number.
pub async fn delete_old_versions(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<u64> {
    let deleted = postgres::query(
        "delete from versions where ctid = any (array(
             select ctid from versions where until < clock_timestamp() order by until limit $1
         ))",
    )
    .bind(limit)
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}

/// Deletes up to `limit` published reports that are older than this. Returns their number.
pub async fn delete_old_reports(db: impl PgExecutor<'_>, days: u32, limit: i64) -> sqlx::Result<u64> {
    let deleted = postgres::query(
        "delete from reports where ctid = any (array(
             select ctid from reports where told and created_at < clock_timestamp() - make_interval(days => $1)
             order by created_at limit $2
         ))",
    )
    .bind(i32::try_from(days).unwrap_or(i32::MAX))
    .bind(limit)
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}
