//! Users who block others.

use super::id;
use contract::{ConversationId, UserId};
use contract::{
    chat::{Participant, Person},
    log::Range,
};
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

/// These users, in ascending order, each with whether one of the two blocks the other.
pub async fn people(db: impl PgExecutor<'_>, user: UserId, others: &[i64]) -> sqlx::Result<Vec<Person>> {
    let rows = postgres::query(
        "select o.user_id,
                exists (select from blocks b where b.user_id = $1 and b.blocked_id = o.user_id)
                or exists (select from blocks b where b.user_id = o.user_id and b.blocked_id = $1) as blocked
         from unnest($2::bigint[]) as o (user_id) order by o.user_id",
    )
    .bind(user.get())
    .bind(others)
    .fetch_all(db)
    .await?;
    let person =
        |row: &PgRow| Ok(Person { user_id: id(row.try_get("user_id")?)?, blocked: row.try_get("blocked")? });
    rows.iter().map(person).collect()
}

/// Those of these pairs of users of which either blocks the other.
pub async fn blocked_pairs(
    db: impl PgExecutor<'_>,
    pairs: &[(UserId, UserId)],
) -> sqlx::Result<Vec<(UserId, UserId)>> {
    let (users, others): (Vec<i64>, Vec<i64>) =
        pairs.iter().map(|(user, other)| (user.get(), other.get())).unzip();
    let blocked: Vec<(i64, i64)> = postgres::query_as(
        "select p.user_id, p.other_id from unnest($1::bigint[], $2::bigint[]) as p (user_id, other_id)
         where exists (select from blocks b where b.user_id = p.user_id and b.blocked_id = p.other_id)
            or exists (select from blocks b where b.user_id = p.other_id and b.blocked_id = p.user_id)",
    )
    .bind(users)
    .bind(others)
    .fetch_all(db)
    .await?;
    blocked.into_iter().map(|(user, other)| Ok((id(user)?, id(other)?))).collect()
}

/// Those of these users who share a conversation with a user, in ascending order. Looks through the conversations of
/// the user if there are at most 1,000, otherwise of the others: of a buyer and a large shop, those of the buyer.
pub async fn sharing(db: impl PgExecutor<'_>, user: UserId, others: &[i64]) -> sqlx::Result<Vec<i64>> {
    postgres::query_scalar(
        // `offset 0` makes Postgres look up each conversation, whatever it knows of the table.
        "with own as materialized (select conversation_id from participants where user_id = $1 limit 1001)
         select o.user_id from (select distinct unnest($2::bigint[]) as user_id) o
         where o.user_id <> $1 and case when (select count(*) from own) <= 1000
             then o.user_id in (select p.user_id from own join participants p using (conversation_id))
             else exists (
                 select from participants p
                 where p.user_id = o.user_id and exists (
                     select from participants mine
                     where mine.conversation_id = p.conversation_id and mine.user_id = $1 offset 0
                 ) offset 0
             ) end
         order by o.user_id",
    )
    .bind(user.get())
    .bind(others)
    .fetch_all(db)
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
