//! Users who block others.

use super::id;
use contract::{ConversationId, UserId};
use contract::{chat::Participant, log::Range};
use service::postgres;
use sqlx::{PgExecutor, Row, postgres::PgRow};

/// Blocks a user.
pub async fn block(db: impl PgExecutor<'_>, user: UserId, blocked: UserId) -> sqlx::Result<()> {
    postgres::query("insert into blocks (user_id, blocked_id) values ($1, $2) on conflict do nothing")
        .bind(user.get())
        .bind(blocked.get())
        .execute(db)
        .await?;
    Ok(())
}

/// Whether any of these users blocks a user.
pub async fn is_blocked_by_any(
    db: impl PgExecutor<'_>,
    user: UserId,
    others: &[UserId],
) -> sqlx::Result<bool> {
    postgres::query_scalar("select exists (select from blocks where user_id = any ($1) and blocked_id = $2)")
        .bind(others.iter().map(|other| other.get()).collect::<Vec<_>>())
        .bind(user.get())
        .fetch_one(db)
        .await
}

/// Unblocks a user.
pub async fn unblock(db: impl PgExecutor<'_>, user: UserId, blocked: UserId) -> sqlx::Result<()> {
    postgres::query("delete from blocks where user_id = $1 and blocked_id = $2")
        .bind(user.get())
        .bind(blocked.get())
        .execute(db)
        .await?;
    Ok(())
}

/// Users that a user blocks, by id: ascending after an id, descending otherwise.
pub async fn blocks(
    db: impl PgExecutor<'_>,
    user: UserId,
    range: Range,
    limit: i64,
) -> sqlx::Result<Vec<Participant>> {
    let (query, from) = match range {
        Range::Newest => (BLOCKS_BEFORE, i64::MAX),
        Range::Before(id) => (BLOCKS_BEFORE, id),
        Range::After(id) => (BLOCKS_AFTER, id),
    };
    let rows = postgres::query(query).bind(user.get()).bind(from).bind(limit).fetch_all(db).await?;
    let blocked = |row: &PgRow| {
        Ok(Participant { user_id: id(row.try_get("blocked_id")?)?, username: row.try_get("username")? })
    };
    rows.iter().map(blocked).collect()
}

const BLOCKS_BEFORE: &str = "select b.blocked_id, coalesce(u.username, 'user-' || b.blocked_id) as username
    from blocks b left join users u on u.user_id = b.blocked_id
    where b.user_id = $1 and b.blocked_id < $2 order by b.blocked_id desc limit $3";

const BLOCKS_AFTER: &str = "select b.blocked_id, coalesce(u.username, 'user-' || b.blocked_id) as username
    from blocks b left join users u on u.user_id = b.blocked_id
    where b.user_id = $1 and b.blocked_id > $2 order by b.blocked_id limit $3";

/// The conversations whose only participants are these two users.
pub async fn conversations_of_two(
    db: impl PgExecutor<'_>,
    user: UserId,
    other: UserId,
) -> sqlx::Result<Vec<ConversationId>> {
    let ids: Vec<i64> = postgres::query_scalar(
        "select a.conversation_id from participants a
         join participants b on b.conversation_id = a.conversation_id and b.user_id = $2
         where a.user_id = $1
           and 2 = (select count(*) from participants p where p.conversation_id = a.conversation_id)",
    )
    .bind(user.get())
    .bind(other.get())
    .fetch_all(db)
    .await?;
    ids.into_iter().map(id).collect()
}
