//! The outbox: what is committed and perhaps not yet published.

use sqlx::{PgConnection, PgExecutor, Row, postgres::PgRow};

/// One entry of the outbox.
pub struct Unsent {
    /// Its name.
    pub outbox_id: i64,
    /// The conversation of each message.
    pub conversations: Vec<i64>,
    /// The messages.
    pub messages: Vec<i64>,
    /// Whose marker moved to the one message, unless the messages were stored.
    pub reader: Option<i64>,
}

/// Locks some entries that nobody has sent for a while, and that no other replica is sending.
pub async fn lock_unsent(
    db: &mut PgConnection,
    older_than_secs: f64,
    limit: i64,
) -> sqlx::Result<Vec<Unsent>> {
    let rows = sqlx::query(
        "select id, conversation_ids, message_ids, reader from outbox
         where created_at < clock_timestamp() - make_interval(secs => $1)
         order by id limit $2 for update skip locked",
    )
    .bind(older_than_secs)
    .bind(limit)
    .fetch_all(db)
    .await?;
    let unsent = |row: &PgRow| {
        Ok(Unsent {
            outbox_id: row.try_get("id")?,
            conversations: row.try_get("conversation_ids")?,
            messages: row.try_get("message_ids")?,
            reader: row.try_get("reader")?,
        })
    };
    rows.iter().map(unsent).collect()
}

/// Takes entries out of the outbox.
pub async fn forget_sent(db: impl PgExecutor<'_>, outbox_ids: &[i64]) -> sqlx::Result<()> {
    sqlx::query("delete from outbox where id = any ($1)").bind(outbox_ids).execute(db).await?;
    Ok(())
}

/// Seconds since the oldest entry of the outbox was written; 0 when it is empty.
pub async fn outbox_age(db: impl PgExecutor<'_>) -> sqlx::Result<f64> {
    sqlx::query_scalar(
        "select coalesce(extract(epoch from clock_timestamp() - (
             select created_at from outbox order by id limit 1)), 0)::float8",
    )
    .fetch_one(db)
    .await
}
