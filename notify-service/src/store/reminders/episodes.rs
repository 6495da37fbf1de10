//! The queries that end, shorten and forget episodes. An episode lasts from the first unread message of a conversation, or
//! from a notification, until it is read.

use crate::ops::Membership;
use contract::NotificationId;
use service::postgres;
use sqlx::{FromRow, PgConnection};
use std::collections::HashMap;
use time::OffsetDateTime;

/// Time after a reminder in which it can be settled, in days.
const SETTLED_DAYS: i32 = 7;

/// A reminder of which everything has been read.
#[derive(Debug, FromRow)]
pub struct SettledRow {
    pub user_id: i64,
    pub event_id: String,
    /// What was read, if it is one thing.
    pub subject: Option<String>,
}

/// Part of a query: ends episodes in the CTE `ended`. Returns the reminders of the steps in `$1` that have nothing
/// else.
macro_rules! settled {
    ($($ended:tt)*) => {
        concat!(
            "with ended as (",
            $($ended)*,
            " returning reminded.user_id, reminded.step, reminded.subject, reminded.event_id, reminded.told_at)
            select user_id, event_id, subject from (
                select user_id, event_id, count(*) as gone,
                    case when count(distinct subject) = 1 then min(subject) end as subject
                from ended
                where event_id is not null and step = any($1) and told_at > now() - make_interval(days => $2)
                group by user_id, event_id
            ) as gone
            -- Sees the table as it was before: with nothing else, what is gone was all.
            where gone = (select count(*) from (
                select from reminded
                where reminded.user_id = gone.user_id and reminded.event_id = gone.event_id limit gone.gone + 1
            ) as all_of_it)"
        )
    };
}

/// Ends the episodes of subjects that users have read. Returns the reminders of these steps that are settled thereby.
pub async fn end_episodes(
    db: &mut PgConnection,
    steps: &[&str],
    users: &[i64],
    subjects: &[String],
) -> sqlx::Result<Vec<SettledRow>> {
    postgres::query_as(settled!(
        "delete from reminded using unnest($3::bigint[], $4::text[]) as read (user_id, subject)
        where reminded.user_id = read.user_id and reminded.subject = read.subject"
    ))
    .bind(steps)
    .bind(SETTLED_DAYS)
    .bind(users)
    .bind(subjects)
    .fetch_all(db)
    .await
}

/// Ends all episodes of a user, as [`end_episodes`] does.
pub async fn end_all_episodes(
    db: &mut PgConnection,
    steps: &[&str],
    user: i64,
) -> sqlx::Result<Vec<SettledRow>> {
    postgres::query_as(settled!("delete from reminded where user_id = $3"))
        .bind(steps)
        .bind(SETTLED_DAYS)
        .bind(user)
        .fetch_all(db)
        .await
}

/// Starts episodes later, because users have read their first messages: each with the unread notification, and the new
/// start. A reminder that was of the newest message stays; otherwise each step decides again. Returns the reminders of
/// the `settling` steps that are settled thereby.
pub async fn shorten_episodes(
    db: &mut PgConnection,
    (steps, settling): (&[&str], &[&str]),
    shortened: &HashMap<Membership, (NotificationId, OffsetDateTime)>,
) -> sqlx::Result<Vec<SettledRow>> {
    let users: Vec<i64> = shortened.keys().map(|(user, _)| user.get()).collect();
    let subjects: Vec<String> =
        shortened.keys().map(|(_, conversation)| format!("c{conversation}")).collect();
    let (ids, sinces): (Vec<i64>, Vec<OffsetDateTime>) =
        shortened.values().map(|(id, since)| (id.get(), *since)).unzip();
    postgres::query(
        "with new as (
            select * from unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[])
                as new (user_id, subject, id, since)
        ), kept as (
            update reminded set since = new.since from new
            where reminded.user_id = new.user_id and reminded.subject = new.subject
              and event_id is not null and upto >= new.id
        )
        update notifications set since = new.since from new
        where notifications.user_id = new.user_id and notification_id = new.id",
    )
    .bind(&users)
    .bind(&subjects)
    .bind(&ids)
    .bind(&sinces)
    .execute(&mut *db)
    .await?;
    let settled = postgres::query_as(settled!(
        "delete from reminded using unnest($3::bigint[], $4::text[], $5::bigint[]) as read (user_id, subject, id)
        where reminded.user_id = read.user_id and reminded.subject = read.subject
          and not (event_id is not null and upto >= read.id)"
    ))
    .bind(settling)
    .bind(SETTLED_DAYS)
    .bind(&users)
    .bind(&subjects)
    .bind(&ids)
    .fetch_all(&mut *db)
    .await?;
    postgres::query(
        "insert into reminded (user_id, subject, step, upto, since, due_at)
        select user_id, subject, step, id, since, since
        from unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[]) as new (user_id, subject, id, since)
        cross join unnest($5::text[]) as known (step)
        on conflict do nothing",
    )
    .bind(users)
    .bind(subjects)
    .bind(ids)
    .bind(sinces)
    .bind(steps)
    .execute(db)
    .await?;
    Ok(settled)
}

/// A place in the order in which decisions are looked through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionPlace {
    pub user: i64,
    pub subject: String,
    pub step: String,
}

/// Decisions that nothing needs, among some that were looked through.
#[derive(Debug)]
pub struct Needless {
    pub found: Vec<DecisionPlace>,
    /// The last one that was looked at; `None` if there are no more.
    pub last: Option<DecisionPlace>,
}

/// Part of a query: whether nothing needs a decision of these steps, because its subject is read or was unread anew
/// since then, or because its step is gone. Each scalar query reads one row of an index.
macro_rules! is_needless {
    ($decision:literal, $steps:literal) => {
        concat!(
            "(",
            $decision,
            ".step <> all(",
            $steps,
            "::text[]) or case when ",
            $decision,
            ".subject like 'c%' then (select true from notifications where notifications.user_id = ",
            $decision,
            ".user_id and notifications.conversation_id = substr(",
            $decision,
            ".subject, 2)::bigint and read_at is null and notifications.since = ",
            $decision,
            ".since limit 1) else (select true from notifications where notifications.user_id = ",
            $decision,
            ".user_id and notifications.notification_id = substr(",
            $decision,
            ".subject, 2)::bigint and read_at is null and notifications.since = ",
            $decision,
            ".since limit 1) end is null)"
        )
    };
}

/// Looks through the next `limit` decisions for those that nothing needs: all but those of these steps about what is
/// unread.
pub async fn needless(
    db: &mut PgConnection,
    steps: &[&str],
    after: &DecisionPlace,
    limit: i64,
) -> sqlx::Result<Needless> {
    let rows: Vec<(i64, String, String, bool)> = postgres::query_as(concat!(
        "with page as materialized (
            select user_id, subject, step, since from reminded where (user_id, subject, step) > ($2, $3, $4)
            order by user_id, subject, step limit $5
        ) select user_id, subject, step, ",
        is_needless!("page", "$1"),
        " from page order by user_id, subject, step"
    ))
    .bind(steps)
    .bind(after.user)
    .bind(&after.subject)
    .bind(&after.step)
    .bind(limit)
    .fetch_all(db)
    .await?;
    let is_full = rows.len() as i64 >= limit;
    let rows = rows.into_iter().map(|(user, subject, step, needless)| {
        let place = DecisionPlace { user, subject, step };
        (place, needless)
    });
    let rows: Vec<(DecisionPlace, bool)> = rows.collect();
    let last = rows.last().filter(|_| is_full).map(|(place, _)| place.clone());
    let found = rows.into_iter().filter(|(_, needless)| *needless).map(|(place, _)| place).collect();
    Ok(Needless { found, last })
}

/// Deletes those of these decisions that nothing needs. Returns the reminders of the `settling` steps that are settled
/// thereby. The inboxes are locked.
pub async fn forget_needless(
    db: &mut PgConnection,
    settling: &[&str],
    steps: &[&str],
    found: &[DecisionPlace],
) -> sqlx::Result<Vec<SettledRow>> {
    let column = |value: fn(&DecisionPlace) -> &str| found.iter().map(value).collect::<Vec<_>>();
    postgres::query_as(settled!(
        "delete from reminded using unnest($3::bigint[], $4::text[], $5::text[]) as old (user_id, subject, step)
        where reminded.user_id = old.user_id and reminded.subject = old.subject and reminded.step = old.step and ",
        is_needless!("reminded", "$6")
    ))
    .bind(settling)
    .bind(SETTLED_DAYS)
    .bind(found.iter().map(|place| place.user).collect::<Vec<_>>())
    .bind(column(|place| &place.subject))
    .bind(column(|place| &place.step))
    .bind(steps)
    .fetch_all(db)
    .await
}
