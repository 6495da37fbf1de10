//! What is stored about users' presence.

use super::valid;
use contract::{Timestamp, UserId};
use service::postgres;
use sqlx::{PgConnection, PgExecutor};
use std::collections::HashMap;
use time::OffsetDateTime;

/// What is stored about a user's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PresenceRow {
    /// When the user was last present.
    pub seen_at: Option<Timestamp>,
    /// The user's choice to hide or show it.
    pub hidden: Option<bool>,
}

/// What is stored about these users.
pub async fn presences(db: impl PgExecutor<'_>, users: &[i64]) -> sqlx::Result<HashMap<UserId, PresenceRow>> {
    type Row = (i64, Option<OffsetDateTime>, Option<bool>);
    let query = "select user_id, seen_at, presence_hidden from inboxes where user_id = any($1)";
    let rows: Vec<Row> = postgres::query_as(query).bind(users).fetch_all(db).await?;
    let stored = |(user, seen_at, hidden): Row| {
        Ok((valid(UserId::new(user))?, PresenceRow { seen_at: seen_at.map(Timestamp::from), hidden }))
    };
    rows.into_iter().map(stored).collect()
}

/// Hides or shows a user's presence. Of a user who hides, the time is removed.
pub async fn set_hidden(db: impl PgExecutor<'_>, user: UserId, hidden: bool) -> sqlx::Result<()> {
    postgres::query(
        "insert into inboxes (user_id, presence_hidden) values ($1, $2)
        on conflict (user_id) do update set presence_hidden = excluded.presence_hidden,
            seen_at = case when excluded.presence_hidden then null else inboxes.seen_at end",
    )
    .bind(user.get())
    .bind(hidden)
    .execute(db)
    .await
    .map(drop)
}

/// Stores that users who do not hide came at this time. The users must be in ascending order, so that two replicas
/// never deadlock. Only rows that change are locked.
pub async fn came(
    db: impl PgExecutor<'_>,
    users: &[i64],
    at: Timestamp,
    hidden_by_default: bool,
) -> sqlx::Result<()> {
    postgres::query(
        "insert into inboxes (user_id, seen_at)
        select came.user_id, $2 from unnest($1::bigint[]) as came (user_id) left join inboxes using (user_id)
        where not coalesce(presence_hidden, $3) and (seen_at is null or seen_at < $2) order by came.user_id
        on conflict (user_id) do update set seen_at = greatest(inboxes.seen_at, excluded.seen_at)
        where not coalesce(inboxes.presence_hidden, $3)",
    )
    .bind(users)
    .bind(OffsetDateTime::from(at))
    .bind(hidden_by_default)
    .execute(db)
    .await
    .map(drop)
}

/// Stores that users who do not hide were present at this time. A user without an inbox, such as one who was erased,
/// gets none. The users must be in ascending order.
pub async fn seen(
    db: impl PgExecutor<'_>,
    users: &[i64],
    at: Timestamp,
    hidden_by_default: bool,
) -> sqlx::Result<()> {
    postgres::query(
        "with seen as materialized (
            select user_id from inboxes where user_id = any($1)
                and not coalesce(presence_hidden, $3) and (seen_at is null or seen_at < $2)
            order by user_id for update
        )
        update inboxes set seen_at = $2 from seen
        where inboxes.user_id = seen.user_id and not coalesce(presence_hidden, $3)",
    )
    .bind(users)
    .bind(OffsetDateTime::from(at))
    .bind(hidden_by_default)
    .execute(db)
    .await
    .map(drop)
}

/// Removes the times of users who have chosen nothing, looking at the next `limit` inboxes by id. Returns the last of
/// them; `None` if there are no more.
pub async fn forget_undecided(db: impl PgExecutor<'_>, after: i64, limit: i64) -> sqlx::Result<Option<i64>> {
    postgres::query_scalar(
        "with page as materialized (
            select user_id from inboxes where user_id > $1 order by user_id limit $2
        ), undecided as materialized (
            select user_id from inboxes where user_id = any(array(select user_id from page))
                and seen_at is not null and presence_hidden is null
            order by user_id for update
        ), forgotten as (
            update inboxes set seen_at = null from undecided
            where inboxes.user_id = undecided.user_id and presence_hidden is null
        )
        select max(user_id) from page",
    )
    .bind(after)
    .bind(limit)
    .fetch_one(db)
    .await
}

/// What backends are to be told about a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Telling {
    /// The user.
    pub user_id: UserId,
    /// Whether the user is online, as others see it.
    pub online: bool,
    /// When the user was last present, if others see it.
    pub last_seen: Option<Timestamp>,
    /// A number that no other telling has.
    pub number: i64,
}

/// Stores what backends are told about users with these states, in ascending order of the users, and returns what
/// differs from what they were told before. At first, everybody is offline, and so is whoever hides. Users without an
/// inbox, such as erased ones, are left out. Of several replicas with the same change, one gets it.
pub async fn tell(
    db: &mut PgConnection,
    users: &[i64],
    online: &[bool],
    hidden_by_default: bool,
) -> sqlx::Result<Vec<Telling>> {
    type Row = (i64, bool, Option<OffsetDateTime>, i64);
    let rows: Vec<Row> = postgres::query_as(
        "with locked as materialized (
            select user_id, told_online, seen_at, coalesce(presence_hidden, $3) as hidden
            from inboxes where user_id = any($1) order by user_id for update
        ), news as (
            select locked.user_id, present.online and not hidden as online,
                case when present.online or hidden then null else seen_at end as seen_at
            from locked join unnest($1::bigint[], $2::boolean[]) as present (user_id, online) using (user_id)
            where told_online <> (present.online and not hidden)
        )
        update inboxes set told_online = news.online from news where inboxes.user_id = news.user_id
        returning inboxes.user_id, news.online, news.seen_at, nextval('presence_tellings')",
    )
    .bind(users)
    .bind(online)
    .bind(hidden_by_default)
    .fetch_all(db)
    .await?;
    let telling = |(user, online, seen_at, number): Row| {
        let last_seen = seen_at.map(Timestamp::from);
        Ok(Telling { user_id: valid(UserId::new(user))?, online, last_seen, number })
    };
    rows.into_iter().map(telling).collect()
}

/// The next `limit` users by id of whom backends were told that they are online.
pub async fn told_online(db: impl PgExecutor<'_>, after: i64, limit: i64) -> sqlx::Result<Vec<i64>> {
    let query = "select user_id from inboxes where told_online and user_id > $1 order by user_id limit $2";
    postgres::query_scalar(query).bind(after).bind(limit).fetch_all(db).await
}
