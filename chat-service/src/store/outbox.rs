//! The outbox: commits that are perhaps not published yet.

use service::postgres;
use sqlx::{PgConnection, PgExecutor, Row, postgres::PgRow};

/// One row of the outbox.
pub struct OutboxRow {
    pub outbox_id: i64,
    /// The conversation of each message; a new conversation if there is no message.
    pub conversations: Vec<i64>,
    pub messages: Vec<i64>,
    /// The user whose marker moved to the only message; without a message, the participant who muted the conversation
    /// or ended a mute; `None` if the row is of something else.
    pub reader: Option<i64>,
    /// Number of the only message's change, if the row is of a change.
    pub change: Option<i64>,
}

/// Locks up to `limit` rows that are older than this and that no other replica is publishing; with `skips_changes`,
/// only rows of something else than changes.
pub async fn lock_stale(
    db: &mut PgConnection,
    after: i64,
    older_than_secs: f64,
    limit: i64,
    skips_changes: bool,
) -> sqlx::Result<Vec<OutboxRow>> {
    let rows = postgres::query(
        "select id, conversation_ids, message_ids, reader, change from outbox
         where id > $1 and created_at < clock_timestamp() - make_interval(secs => $2)
             and (change is null or not $4)
         order by id limit $3 for update skip locked",
    )
    .bind(after)
    .bind(older_than_secs)
    .bind(limit)
    .bind(skips_changes)
    .fetch_all(db)
    .await?;
    let outbox_row = |row: &PgRow| {
        Ok(OutboxRow {
            outbox_id: row.try_get("id")?,
            conversations: row.try_get("conversation_ids")?,
            messages: row.try_get("message_ids")?,
            reader: row.try_get("reader")?,
            change: row.try_get("change")?,
        })
    };
    rows.iter().map(outbox_row).collect()
}

/// Deletes published rows of the outbox.
pub async fn delete_outbox(db: impl PgExecutor<'_>, outbox_ids: &[i64]) -> sqlx::Result<()> {
    postgres::query("delete from outbox where id = any ($1)").bind(outbox_ids).execute(db).await?;
    Ok(())
}

/// Age of the oldest row of the outbox, in seconds; 0 if the outbox is empty.
pub async fn outbox_age(db: impl PgExecutor<'_>) -> sqlx::Result<f64> {
    postgres::query_scalar(
        "select coalesce(extract(epoch from clock_timestamp() - (
             select created_at from outbox order by id limit 1)), 0)::float8",
    )
    .fetch_one(db)
    .await
}
