//! The queries that decide about reminders.

use super::Scope;
use crate::ops::{Membership, Mute};
use contract::chat::MutedUntil;
use service::postgres;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::collections::HashMap;
use time::OffsetDateTime;

/// Part of a query: whether the user has muted the conversation at this time. Of a mute of an earlier release of
/// chat-service, only the newest message says so.
macro_rules! muted {
    ($now:literal) => {
        concat!(
            "(case when mute_change is not null then coalesce(muted_until > ",
            $now,
            r#", false)
                else notifications.conversation_id is not null and data like '%"muted":true}' end)"#
        )
    };
}

/// Part of a query: the unread notifications of a user, the decisions of the step `$1` about them, and the mutes. The
/// `limit` makes Postgres look up each decision by its key, whatever it knows of the table: one that has just grown may
/// seem to be empty, and would be read as a whole for each notification. With `is true`, it does not search all users'
/// notifications by time.
macro_rules! undecided_of_user {
    ($user:literal) => {
        concat!(
            "notifications left join lateral (
                select told_at, due_at, while_present from reminded
                where reminded.user_id = notifications.user_id and reminded.step = $1
                    and reminded.subject = ",
            subject!(),
            " and reminded.since = notifications.since limit 1
            ) as reminded on true
            left join markers on markers.user_id = notifications.user_id
                and markers.conversation_id = notifications.conversation_id
            where notifications.user_id = ",
            $user,
            " and read_at is null and told_at is null
                and (notifications.since > (select began from sweeps where sweeps.step = $1)) is true"
        )
    };
}

/// Part of a query: what a reminder of many things contains. The types `$3` have settings of the user and are due until
/// the times `$4`, if at all; all others, by their ids `$5` in the catalogue, until the times `$6`.
macro_rules! due_of_user {
    ($now:literal) => {
        concat!(
            undecided_of_user!("$2"),
            " and not ",
            muted!($now),
            " and case when notifications.type = any($3::text[])
                then exists (select from unnest($3::text[], $4::timestamptz[]) as due (type, since)
                    where notifications.type = due.type and notifications.since <= due.since)
                else exists (select from unnest($5::text[], $6::timestamptz[]) as due (id, since)
                    where replace(notifications.type, '.', '-') = due.id and notifications.since <= due.since)
                end"
        )
    };
}

/// An unread notification about which a step has not decided, or has to decide again.
#[derive(Debug, FromRow)]
pub struct UnreadRow {
    pub user_id: i64,
    pub notification_id: i64,
    pub r#type: String,
    pub subject: String,
    pub since: OffsetDateTime,
    /// Whether the user has muted the conversation.
    pub muted: bool,
    /// The end of the mute, if known.
    pub muted_until: Option<OffsetDateTime>,
    /// The decision so far: when to decide again.
    pub due_at: Option<OffsetDateTime>,
    /// Whether that is earlier if the user leaves.
    pub while_present: bool,
}

/// The unread notifications of users about which a step has not decided, or has to decide again: at most `limit` of
/// each user, those without a decision first and then those that are due first. With a decision, also those whose delay
/// is not over, because their episodes began anew: a new decision takes them out of the way of others that are due. The
/// inboxes are locked.
pub async fn unread(
    db: &mut PgConnection,
    scope: Scope<'_>,
    users: &[i64],
    (now, limit): (OffsetDateTime, i64),
) -> sqlx::Result<Vec<UnreadRow>> {
    postgres::query_as(concat!(
        "select found.* from unnest($3::bigint[]) as one (user_id) cross join lateral (
            select notifications.user_id, notification_id, type, notifications.since, ",
        subject!(),
        " as subject, ",
        muted!("$6"),
        " as muted, case when muted_until > $6 and isfinite(muted_until) then muted_until end as muted_until, due_at,
                coalesce(while_present, false) as while_present
            from ",
        undecided_of_user!("one.user_id"),
        " and (notifications.since <= $4 or due_at is not null) and replace(type, '.', '-') = any($2)
            order by due_at nulls first, notification_id desc limit $5
        ) as found"
    ))
    .bind(scope.step)
    .bind(scope.types)
    .bind(users)
    .bind(scope.since)
    .bind(limit)
    .bind(now)
    .fetch_all(db)
    .await
}

/// A reminder of a user with more unread notifications than one sweep decides about.
#[derive(Debug)]
pub struct Many<'a> {
    pub step: &'a str,
    pub user: i64,
    pub types: &'a DueTypes<'a>,
}

/// Of which types a user is reminded, and for each the latest `since` of what the reminder contains.
#[derive(Debug, Default)]
pub struct DueTypes<'a> {
    /// The names of types, as in events, with a setting of the user. `None`: no reminder.
    pub set: Vec<(&'a str, Option<OffsetDateTime>)>,
    /// All others, by their ids in the catalogue.
    pub others: Vec<(&'a str, OffsetDateTime)>,
}

/// The columns of [`DueTypes::set`], then of [`DueTypes::others`].
type DueColumns<'a> = (Vec<&'a str>, Vec<Option<OffsetDateTime>>, Vec<&'a str>, Vec<OffsetDateTime>);

impl Many<'_> {
    fn columns(&self) -> DueColumns<'_> {
        let (set, set_sinces) = self.types.set.iter().copied().unzip();
        let (others, sinces) = self.types.others.iter().copied().unzip();
        (set, set_sinces, others, sinces)
    }
}

/// The newest notifications for such a reminder, each with the number of all. The inbox is locked.
pub async fn newest_of_many(
    db: &mut PgConnection,
    many: &Many<'_>,
    now: OffsetDateTime,
    limit: i64,
) -> sqlx::Result<Vec<(i64, i64)>> {
    let (set, set_sinces, others, sinces) = many.columns();
    postgres::query_as(concat!(
        "select notification_id, count(*) over () from ",
        due_of_user!("$7"),
        " order by notification_id desc limit $8"
    ))
    .bind(many.step)
    .bind(many.user)
    .bind(set)
    .bind(set_sinces)
    .bind(others)
    .bind(sinces)
    .bind(now)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Remembers up to `limit` notifications with ids below `before` as part of such a reminder, the newest first. Returns
/// the last id; `None` if there are no more. The inbox is locked.
pub async fn save_many(
    db: &mut PgConnection,
    many: &Many<'_>,
    event_id: &str,
    now: OffsetDateTime,
    (before, limit): (i64, i64),
) -> sqlx::Result<Option<i64>> {
    let (set, set_sinces, others, sinces) = many.columns();
    let (last, saved): (Option<i64>, i64) = postgres::query_as(concat!(
        "with saved as (insert into reminded (user_id, step, subject, upto, since, told_at, event_id)
        select notifications.user_id, $1, ",
        subject!(),
        ", notification_id, notifications.since, $7, $8 from ",
        due_of_user!("$7"),
        " and notification_id < $9 order by notification_id desc limit $10
        on conflict (user_id, subject, step) do update
        set upto = excluded.upto, since = excluded.since, told_at = excluded.told_at, event_id = excluded.event_id,
            due_at = null, while_present = false
        returning upto) select min(upto), count(*) from saved"
    ))
    .bind(many.step)
    .bind(many.user)
    .bind(set)
    .bind(set_sinces)
    .bind(others)
    .bind(sinces)
    .bind(now)
    .bind(event_id)
    .bind(before)
    .bind(limit)
    .fetch_one(db)
    .await?;
    Ok(last.filter(|_| saved >= limit))
}

/// The content of notifications for a reminder.
#[derive(Debug, FromRow)]
pub struct ItemRow {
    pub user_id: i64,
    pub notification_id: i64,
    pub r#type: String,
    pub title: String,
    pub message: String,
    /// `None` if they are too large.
    pub data: Option<String>,
    pub since: OffsetDateTime,
}

/// Reads notifications with their data of at most this many bytes.
pub async fn items(
    db: &mut PgConnection,
    users: &[i64],
    ids: &[i64],
    data_bytes: i32,
) -> sqlx::Result<Vec<ItemRow>> {
    postgres::query_as(
        "select user_id, notification_id, type, title, message,
            case when octet_length(data) <= $3 then data end as data, since
        from unnest($1::bigint[], $2::bigint[]) as item (user_id, notification_id)
        join notifications using (user_id, notification_id) where since is not null",
    )
    .bind(users)
    .bind(ids)
    .bind(data_bytes)
    .fetch_all(db)
    .await
}

/// When users were last present, if that is known. Users who hide are missing.
pub async fn last_seen(
    db: &mut PgConnection,
    users: &[i64],
    hidden_by_default: bool,
) -> sqlx::Result<HashMap<i64, Option<OffsetDateTime>>> {
    let query = "select user_id, seen_at from inboxes
        where user_id = any($1) and not coalesce(presence_hidden, $2)";
    let rows: Vec<(i64, Option<OffsetDateTime>)> =
        postgres::query_as(query).bind(users).bind(hidden_by_default).fetch_all(db).await?;
    Ok(rows.into_iter().collect())
}

/// Those of these reminders of users in which everything has been read.
pub async fn without_unread(
    db: impl PgExecutor<'_>,
    users: &[i64],
    event_ids: &[&str],
) -> sqlx::Result<Vec<String>> {
    let query = "select event_id from unnest($1::bigint[], $2::text[]) as told (user_id, event_id)
        where not exists (
            select from reminded where reminded.user_id = told.user_id and reminded.event_id = told.event_id)";
    postgres::query_scalar(query).bind(users).bind(event_ids).fetch_all(db).await
}

/// When users last had a reminder of a step.
pub async fn last_told(
    db: &mut PgConnection,
    step: &str,
    users: &[i64],
) -> sqlx::Result<HashMap<i64, OffsetDateTime>> {
    let query = "select user_id, told_at from reminder_times where step = $1 and user_id = any($2)";
    let rows: Vec<(i64, OffsetDateTime)> =
        postgres::query_as(query).bind(step).bind(users).fetch_all(db).await?;
    Ok(rows.into_iter().collect())
}

/// Remembers when users had a reminder of a step.
pub async fn save_told(
    db: &mut PgConnection,
    step: &str,
    users: &[i64],
    at: OffsetDateTime,
) -> sqlx::Result<()> {
    let query =
        "insert into reminder_times select user_id, $1, $3 from unnest($2::bigint[]) as told (user_id)
        on conflict (user_id, step) do update set told_at = excluded.told_at";
    postgres::query(query).bind(step).bind(users).bind(at).execute(db).await.map(drop)
}

/// Deletes the times of reminders that are older than any minimum time between two. Returns their number.
pub async fn delete_old_times(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<u64> {
    let query = "delete from reminder_times where (user_id, step) in (
        select user_id, step from reminder_times where told_at < now() - interval '8 days' order by told_at limit $1)";
    Ok(postgres::query(query).bind(limit).execute(db).await?.rows_affected())
}

/// A decision to save.
#[derive(Debug)]
pub struct Decided<'a> {
    pub unread: &'a UnreadRow,
    /// When to decide again, and whether that is earlier if the user leaves. `None`: never.
    pub again: Option<(OffsetDateTime, bool)>,
    /// The reminder of which it is a part.
    pub event_id: Option<&'a str>,
}

/// Saves the decisions of a step.
pub async fn save(
    db: &mut PgConnection,
    step: &str,
    decided: &[Decided<'_>],
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    fn column<'a, T>(decided: &'a [Decided<'a>], value: impl Fn(&'a Decided<'a>) -> T) -> Vec<T> {
        decided.iter().map(value).collect()
    }
    postgres::query(
        "insert into reminded (user_id, step, subject, upto, since, told_at, event_id, due_at, while_present)
        select user_id, $1, subject, upto, since, case when due_at is null then $2 end, event_id, due_at, while_present
        from unnest($3::bigint[], $4::text[], $5::bigint[], $6::timestamptz[], $7::text[], $8::timestamptz[],
            $9::bool[]) as decided (user_id, subject, upto, since, event_id, due_at, while_present)
        on conflict (user_id, subject, step) do update
        set upto = excluded.upto, since = excluded.since, told_at = excluded.told_at, event_id = excluded.event_id,
            due_at = excluded.due_at, while_present = excluded.while_present",
    )
    .bind(step)
    .bind(now)
    .bind(column(decided, |one| one.unread.user_id))
    .bind(column(decided, |one| one.unread.subject.as_str()))
    .bind(column(decided, |one| one.unread.notification_id))
    .bind(column(decided, |one| one.unread.since))
    .bind(column(decided, |one| one.event_id))
    .bind(column(decided, |one| one.again.map(|(due, _)| due)))
    .bind(column(decided, |one| one.again.is_some_and(|(_, while_present)| while_present)))
    .execute(db)
    .await
    .map(drop)
}

/// Deletes what waits of these users although it is no longer unread, its type has no reminders of the step any longer,
/// or the step began after it.
pub async fn delete_obsolete(db: &mut PgConnection, scope: Scope<'_>, users: &[i64]) -> sqlx::Result<()> {
    postgres::query(concat!(
        "delete from reminded where user_id = any($3) and step = $1 and told_at is null and (
            (since > (select began from sweeps where sweeps.step = $1)) is not true or not exists (
                select from notifications
                where notifications.user_id = reminded.user_id and read_at is null
                  and notifications.since = reminded.since and replace(type, '.', '-') = any($2) and ",
        subject!(),
        " = subject))"
    ))
    .bind(scope.step)
    .bind(scope.types)
    .bind(users)
    .execute(db)
    .await
    .map(drop)
}

/// Lets each step decide again now about what it has not reminded a user of.
pub async fn decide_again(db: &mut PgConnection, user: i64) -> sqlx::Result<()> {
    let query = "update reminded set due_at = since, told_at = null where user_id = $1 and event_id is null";
    postgres::query(query).bind(user).execute(db).await.map(drop)
}

/// The same about some of a user's subjects; without `waiting`, only if a step has decided not to remind of them.
pub async fn decide_subjects_again(
    db: &mut PgConnection,
    users: &[i64],
    subjects: &[String],
    waiting: bool,
) -> sqlx::Result<()> {
    postgres::query(
        "update reminded set due_at = reminded.since, told_at = null
        from unnest($1::bigint[], $2::text[]) as other (user_id, subject)
        where reminded.user_id = other.user_id and reminded.subject = other.subject and event_id is null
          and (told_at is not null or $3)",
    )
    .bind(users)
    .bind(subjects)
    .bind(waiting)
    .execute(db)
    .await
    .map(drop)
}

/// Saves mutes, unless later changes are saved.
pub async fn save_mutes(db: &mut PgConnection, mutes: &HashMap<Membership, Mute>) -> sqlx::Result<()> {
    let users: Vec<i64> = mutes.keys().map(|(user, _)| user.get()).collect();
    let conversations: Vec<i64> = mutes.keys().map(|(_, conversation)| conversation.get()).collect();
    let ends: Vec<Option<OffsetDateTime>> = mutes
        .values()
        .map(|mute| match mute.until {
            Some(MutedUntil::At(at)) => Some(at.into()),
            _ => None,
        })
        .collect();
    let endless: Vec<bool> = mutes.values().map(|mute| mute.until == Some(MutedUntil::Forever)).collect();
    postgres::query(
        "insert into markers (user_id, conversation_id, message_id, muted_until, mute_change)
        select user_id, conversation_id, 0, case when endless then 'infinity' else muted_until end, change
        from unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::bool[], $5::bigint[])
            as new (user_id, conversation_id, muted_until, endless, change)
        on conflict (user_id, conversation_id)
        do update set muted_until = excluded.muted_until, mute_change = excluded.mute_change
        where coalesce(markers.mute_change, -1) < excluded.mute_change",
    )
    .bind(users)
    .bind(conversations)
    .bind(ends)
    .bind(endless)
    .bind(mutes.values().map(|mute| mute.change).collect::<Vec<_>>())
    .execute(db)
    .await
    .map(drop)
}
