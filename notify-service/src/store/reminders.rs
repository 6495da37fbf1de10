//! The queries of reminders: sweeps here, the decisions of a sweep in [`decisions`], and the ends of reminders in
//! [`episodes`].

/// Part of a query: the conversation or notification that a row of `notifications` stands for.
macro_rules! subject {
    () => {
        "coalesce('c' || notifications.conversation_id, 'n' || notifications.notification_id)"
    };
}

mod decisions;
mod episodes;

pub use decisions::{
    Decided, DueTypes, ItemRow, Many, UnreadRow, decide_again, decide_subjects_again, delete_obsolete,
    delete_old_times, items, last_seen, last_told, newest_of_many, save, save_many, save_mutes, save_told,
    unread, without_unread,
};
pub use episodes::{
    DecisionPlace, SettledRow, end_all_episodes, end_episodes, forget_needless, needless, shorten_episodes,
};

use service::postgres;
use sqlx::{PgConnection, PgExecutor};
use std::{collections::HashMap, time::Duration};
use time::OffsetDateTime;

/// Time after the `since` of a notification within which it is committed, in seconds. What the last sweep should have
/// found in that time is looked at again.
const COMMIT_SECONDS: f64 = 60.0;
/// Time without a sweep after which a step that comes back begins anew, in days: nobody wants to be reminded of what is
/// older.
const GONE_DAYS: i32 = 2;
/// Time without a sweep after which nothing needs what a step has decided, in days: if it comes back, it begins anew,
/// however long its delay is.
const FORGOTTEN_DAYS: i32 = GONE_DAYS + 7;

/// Lets new steps begin now, and those that come back after days without a sweep, which it returns. Each has the time
/// from the start of an episode until the step looks at it, in seconds.
pub async fn add_sweeps(db: impl PgExecutor<'_>, steps: &[(&str, f64)]) -> sqlx::Result<Vec<String>> {
    let (steps, delays): (Vec<&str>, Vec<f64>) = steps.iter().copied().unzip();
    // Each step is named once.
    let query = "with new as (select * from unnest($1::text[], $2::float8[]) as new (step, delay)),
        back as (
            update sweeps set upto = now(), began = now() from new
            where sweeps.step = new.step and upto < now() - make_interval(secs => delay, days => $3)
            returning sweeps.step
        ), added as (insert into sweeps (step, upto) select step, now() from new on conflict do nothing)
        select step from back";
    postgres::query_scalar(query).bind(steps).bind(delays).bind(GONE_DAYS).fetch_all(db).await
}

/// Time by which the progress of each of these steps is behind the current time, in seconds.
pub async fn progress(db: impl PgExecutor<'_>, steps: &[&str]) -> sqlx::Result<HashMap<String, f64>> {
    let query =
        "select step, extract(epoch from clock_timestamp() - upto)::float8 from sweeps where step = any($1)";
    let rows: Vec<(String, f64)> = postgres::query_as(query).bind(steps).fetch_all(db).await?;
    Ok(rows.into_iter().collect())
}

/// Those of these steps, each with its delay in seconds, that may have something to do: something waits, or is newly due
/// whatever its type, or the progress is `lag` seconds behind. One query, because this is asked all the time. With
/// `now`, tests set the clock.
pub async fn busy_steps(
    db: impl PgExecutor<'_>,
    steps: &[(&str, f64)],
    lag: f64,
    now: Option<OffsetDateTime>,
) -> sqlx::Result<Vec<String>> {
    let (steps, delays): (Vec<&str>, Vec<f64>) = steps.iter().copied().unzip();
    postgres::query_scalar(concat!(
        "select known.step from (
            select step, coalesce($4, clock_timestamp()) - make_interval(secs => delay) as until,
                make_interval(secs => greatest($5 - delay, 0)) as late
            from unnest($1::text[], $2::float8[]) as known (step, delay)
        ) as known join sweeps on sweeps.step = known.step
        where extract(epoch from until - upto)::float8 > $3
            or exists (select from reminded where reminded.step = known.step and told_at is null)
            or (
                select true from notifications
                where read_at is null and since is not null and since <= until and since > upto - late and since > began
                    and not exists (
                        select from reminded where reminded.user_id = notifications.user_id
                            and reminded.step = known.step and reminded.since = notifications.since and subject = ",
        subject!(),
        ") order by since limit 1
            )"
    ))
    .bind(steps)
    .bind(delays)
    .bind(lag)
    .bind(now)
    .bind(COMMIT_SECONDS)
    .fetch_all(db)
    .await
}

/// How far a step got, the current time, and whether anything waits; `None` if the step has not begun.
pub async fn sweep_progress(
    db: impl PgExecutor<'_>,
    step: &str,
) -> sqlx::Result<Option<(OffsetDateTime, OffsetDateTime, bool)>> {
    let query =
        "select upto, clock_timestamp(), exists (select from reminded where step = $1 and told_at is null)
        from sweeps where step = $1";
    postgres::query_as(query).bind(step).fetch_optional(db).await
}

/// Locks the progress of a step that got so far. Returns false if another replica sweeps, or has swept since then.
pub async fn lock_sweep(db: &mut PgConnection, step: &str, upto: OffsetDateTime) -> sqlx::Result<bool> {
    let query = "select true from sweeps where step = $1 and upto = $2 for update skip locked";
    let locked: Option<bool> = postgres::query_scalar(query).bind(step).bind(upto).fetch_optional(db).await?;
    Ok(locked.is_some())
}

/// Saves the progress of a step.
pub async fn advance_sweep(db: &mut PgConnection, step: &str, upto: OffsetDateTime) -> sqlx::Result<()> {
    let query = "update sweeps set upto = greatest(upto, $2) where step = $1";
    postgres::query(query).bind(step).bind(upto).execute(db).await.map(drop)
}

/// The steps that were swept lately.
pub async fn recent_steps(db: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let query = "select step from sweeps where upto > now() - make_interval(days => $1) order by step";
    postgres::query_scalar(query).bind(FORGOTTEN_DAYS).fetch_all(db).await
}

/// What a step looks at.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Name of the step.
    pub step: &'a str,
    /// The ids of types with reminders of this step.
    pub types: &'a [String],
    /// Only notifications that are unread since then or longer.
    pub since: OffsetDateTime,
    /// Time from the start of an episode until the step looks at it.
    pub delay: Duration,
}

/// Users with unread notifications about which nothing is decided, each with the `since` of the notification, oldest
/// first.
pub async fn undecided(
    db: impl PgExecutor<'_>,
    scope: Scope<'_>,
    after: OffsetDateTime,
    limit: i64,
) -> sqlx::Result<Vec<(i64, OffsetDateTime)>> {
    postgres::query_as(concat!(
        "select user_id, since from notifications
        where read_at is null and since is not null and since <= $3 and since > $4
          and since > (select began from sweeps where step = $1)
          and replace(type, '.', '-') = any($2)
          and not exists (
              select from reminded where reminded.user_id = notifications.user_id and step = $1
                and reminded.since = notifications.since and subject = ",
        subject!(),
        ") order by since limit $5"
    ))
    .bind(scope.step)
    .bind(scope.types)
    .bind(scope.since)
    .bind(after - (Duration::from_secs_f64(COMMIT_SECONDS).saturating_sub(scope.delay)))
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Number of unread notifications of each of these users.
pub async fn unread_counts(db: &mut PgConnection, users: &[i64]) -> sqlx::Result<HashMap<i64, i64>> {
    let query = "select user_id, unread_count from inboxes where user_id = any($1)";
    let rows: Vec<(i64, i64)> = postgres::query_as(query).bind(users).fetch_all(db).await?;
    Ok(rows.into_iter().collect())
}

/// Users about whose notifications a step has to decide again, longest due first.
pub async fn due_again(
    db: impl PgExecutor<'_>,
    step: &str,
    now: OffsetDateTime,
    limit: i64,
) -> sqlx::Result<Vec<i64>> {
    let query = "select user_id from reminded where step = $1 and told_at is null and due_at <= $2
        order by due_at limit $3";
    postgres::query_scalar(query).bind(step).bind(now).bind(limit).fetch_all(db).await
}

/// Users with a reminder that waits while they are present, after this one in ascending order.
pub async fn waiting_while_present(
    db: impl PgExecutor<'_>,
    step: &str,
    after: i64,
    limit: i64,
) -> sqlx::Result<Vec<i64>> {
    let query = "select user_id from reminded
        where step = $1 and told_at is null and while_present and user_id > $2 order by user_id limit $3";
    postgres::query_scalar(query).bind(step).bind(after).bind(limit).fetch_all(db).await
}

/// Number of unread things for which a step waits, counted up to a limit.
pub async fn count_waiting(db: impl PgExecutor<'_>, step: &str, limit: i64) -> sqlx::Result<i64> {
    let query = "select count(*) from (
        select from reminded where step = $1 and told_at is null limit $2) as waiting";
    postgres::query_scalar(query).bind(step).bind(limit).fetch_one(db).await
}
