//! The queries of notifications.

use super::{Command, bind_inboxes, membership, valid};
use crate::{
    ops::Membership,
    plan::{Added, Inbox, MessageSummary, UnreadMessages},
};
use contract::{NotificationId, Seq, UserId, notify::Notification};
use serde_json::value::RawValue;
use service::postgres;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::collections::HashMap;
use time::OffsetDateTime;

/// A stored notification.
#[derive(FromRow)]
struct Row {
    notification_id: i64,
    seq: Seq,
    r#type: String,
    title: String,
    message: String,
    data: String,
    created_at: OffsetDateTime,
    is_read: bool,
    replaces: Option<i64>,
    archived_at: Option<OffsetDateTime>,
}

impl Row {
    fn into_notification(self, unread_count: i64) -> sqlx::Result<Notification> {
        Ok(Notification {
            kind: self.r#type,
            notification_id: valid(NotificationId::new(self.notification_id))?,
            seq: self.seq,
            title: self.title,
            message: self.message,
            data: RawValue::from_string(self.data).map_err(|error| sqlx::Error::Decode(error.into()))?,
            created_at: self.created_at.into(),
            is_read: self.is_read,
            unread_count,
            unseen_count: None,
            archived_at: self.archived_at.map(Into::into),
            replaces: self.replaces.map(|id| valid(NotificationId::new(id))).transpose()?,
        })
    }
}

/// Notifications that these events have already created for these users, with an `unread_count` of 0.
pub async fn repeated(
    db: &mut PgConnection,
    users: &[i64],
    keys: &[&str],
) -> sqlx::Result<HashMap<(UserId, String), Notification>> {
    #[derive(FromRow)]
    struct Repeated {
        user_id: i64,
        event_key: String,
        #[sqlx(flatten)]
        row: Row,
    }
    let rows: Vec<Repeated> = postgres::query_as(
        "select user_id, event_key, notification_id, seq, type, title, message, data, created_at,
            read_at is not null as is_read, replaces, archived_at
        from unnest($1::bigint[], $2::text[]) as event (user_id, event_key)
        join notifications using (user_id, event_key)",
    )
    .bind(users)
    .bind(keys)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|found| {
            Ok(((valid(UserId::new(found.user_id))?, found.event_key), found.row.into_notification(0)?))
        })
        .collect()
}

/// The unread notifications of these users' conversations.
pub async fn unread_of_conversations(
    db: &mut PgConnection,
    users: &[i64],
    conversations: &[i64],
) -> sqlx::Result<HashMap<Membership, UnreadMessages>> {
    #[derive(FromRow)]
    struct Unread {
        user_id: i64,
        conversation_id: i64,
        notification_id: i64,
        message: i64,
        message_seq: Option<Seq>,
        sender_id: Option<i64>,
        sender_username: Option<String>,
        kind: Option<String>,
        muted: bool,
        count: i64,
        created_at: OffsetDateTime,
        since: Option<OffsetDateTime>,
    }
    let rows: Vec<Unread> = postgres::query_as(concat!(
        "select user_id, conversation_id, notification_id, coalesce(message_id, 0) as message, message_seq,
            sender_id, sender_username, ",
        kind!(),
        r#", data like '%"muted":true}' as muted, coalesce(message_count, 0) as count, created_at, since
        from unnest($1::bigint[], $2::bigint[]) as place (user_id, conversation_id)
        join notifications using (user_id, conversation_id)
        where read_at is null and conversation_id is not null"#
    ))
    .bind(users)
    .bind(conversations)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let membership = membership(row.user_id, row.conversation_id)?;
            let summary = MessageSummary {
                conversation: membership.1,
                message: row.message,
                seq: row.message_seq,
                sender: row.sender_id.map(|sender| valid(UserId::new(sender))).transpose()?,
                sender_username: row.sender_username,
                kind: row.kind,
                count: row.count,
                muted: row.muted,
            };
            let id = valid(NotificationId::new(row.notification_id))?;
            Ok((
                membership,
                UnreadMessages { id, summary, created_at: row.created_at.into(), since: row.since },
            ))
        })
        .collect()
}

/// The current time, and new notification ids in ascending order.
pub async fn next_ids(
    db: &mut PgConnection,
    count: usize,
) -> sqlx::Result<(OffsetDateTime, Vec<NotificationId>)> {
    // Not now(): the transaction may have started long before it got the locks.
    let (at, mut ids): (OffsetDateTime, Vec<i64>) = postgres::query_as(
        "select clock_timestamp(), array(select nextval('notification_ids') from generate_series(1, $1))",
    )
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .fetch_one(db)
    .await?;
    ids.sort_unstable();
    let ids = ids.into_iter().map(|id| valid(NotificationId::new(id))).collect::<sqlx::Result<_>>()?;
    Ok((at, ids))
}

/// Query that inserts notifications, with the parameters of [`bind_added`].
macro_rules! insert {
    () => {
        "insert into notifications (user_id, notification_id, seq, type, title, message, data, event_key, replaces,
            conversation_id, message_id, message_seq, message_count, sender_id, sender_username, since, created_at)
        select user_id, notification_id, seq, type, title, message, data, event_key, replaces,
            conversation_id, message_id, message_seq, message_count, sender_id, sender_username, since, $28
        from unnest($12::bigint[], $13::bigint[], $14::bigint[], $15::text[], $16::text[], $17::text[], $18::text[],
            $19::text[], $20::bigint[], $21::bigint[], $22::bigint[], $23::bigint[], $24::bigint[], $25::bigint[],
            $26::text[], $27::timestamptz[])
        as added (user_id, notification_id, seq, type, title, message, data, event_key, replaces,
            conversation_id, message_id, message_seq, message_count, sender_id, sender_username, since)"
    };
}

/// Binds the parameters from the 12th to the 28th.
fn bind_added(query: Command, added: &[Added], at: OffsetDateTime) -> Command {
    fn column<'a, T>(added: &'a [Added], value: impl Fn(&'a Added) -> T) -> Vec<T> {
        added.iter().map(value).collect()
    }
    fn of_messages<'a, T>(
        added: &'a [Added],
        value: impl Fn(&'a MessageSummary) -> Option<T>,
    ) -> Vec<Option<T>> {
        added.iter().map(|added| added.summary.as_ref().and_then(&value)).collect()
    }
    query
        .bind(column(added, |added| added.user.get()))
        .bind(column(added, |added| added.shown.notification_id.get()))
        .bind(column(added, |added| added.shown.seq))
        .bind(column(added, |added| added.shown.kind.as_str()))
        .bind(column(added, |added| added.shown.title.as_str()))
        .bind(column(added, |added| added.shown.message.as_str()))
        .bind(column(added, |added| added.shown.data.get()))
        .bind(column(added, |added| added.key.as_str()))
        .bind(column(added, |added| added.shown.replaces.map(NotificationId::get)))
        .bind(of_messages(added, |summary| Some(summary.conversation.get())))
        .bind(of_messages(added, |summary| Some(summary.message)))
        .bind(of_messages(added, |summary| summary.seq))
        .bind(of_messages(added, |summary| Some(summary.count)))
        .bind(of_messages(added, |summary| Some(summary.sender?.get())))
        .bind(of_messages(added, |summary| summary.sender_username.as_deref()))
        .bind(column(added, |added| added.since))
        .bind(at)
}

/// Inserts notifications and updates their inboxes, in one round trip.
pub async fn insert(
    db: &mut PgConnection,
    added: &[Added],
    inboxes: &HashMap<UserId, Inbox>,
    at: OffsetDateTime,
) -> sqlx::Result<()> {
    let query = concat!("with added as (", insert!(), ") ", update_inboxes!());
    let query = bind_inboxes(postgres::query(query), inboxes);
    bind_added(query, added, at).execute(db).await.map(drop)
}

/// Marks notifications as read.
pub async fn mark(
    db: &mut PgConnection,
    read: &[(UserId, NotificationId)],
    at: OffsetDateTime,
) -> sqlx::Result<()> {
    let (users, ids): (Vec<i64>, Vec<i64>) = read.iter().map(|(user, id)| (user.get(), id.get())).unzip();
    postgres::query(
        "update notifications set read_at = $3 from unnest($1::bigint[], $2::bigint[]) as read (user_id, id)
        where notifications.user_id = read.user_id and notification_id = read.id and read_at is null",
    )
    .bind(users)
    .bind(ids)
    .bind(at)
    .execute(db)
    .await
    .map(drop)
}

/// Part of a query: remembers the newest messages that the notifications in `marked` of the user `$1` covered.
macro_rules! remember_covered {
    () => {
        " covered as (insert into markers (user_id, conversation_id, message_id, notified)
            select $1, conversation_id, 0, message_id from marked where conversation_id is not null
            on conflict (user_id, conversation_id) do update set notified = excluded.notified) "
    };
}

/// What was marked as read.
#[derive(Debug, FromRow)]
pub struct Marked {
    pub at: OffsetDateTime,
    /// Number of notifications that were unread.
    pub count: i64,
    /// Whether reminders of any of the user's notifications were sent or wait.
    pub reminded: bool,
}

/// Part of a query: whether the user `$1` has a row in `reminded`.
macro_rules! is_reminded {
    () => {
        "exists (select from reminded where user_id = $1) as reminded"
    };
}

/// Marks one notification of a user as read. `None` if it isn't an unread notification of the user.
pub async fn mark_one(
    db: &mut PgConnection,
    user: UserId,
    id: NotificationId,
) -> sqlx::Result<Option<(Marked, Option<i64>)>> {
    #[derive(FromRow)]
    struct One {
        #[sqlx(flatten)]
        marked: Marked,
        conversation_id: Option<i64>,
    }
    let one: Option<One> = postgres::query_as(concat!(
        "with marked as (update notifications set read_at = clock_timestamp()
            where user_id = $1 and notification_id = $2 and read_at is null
            returning read_at, conversation_id, message_id),",
        remember_covered!(),
        "select read_at as at, 1::bigint as count, conversation_id, ",
        is_reminded!(),
        " from marked",
    ))
    .bind(user.get())
    .bind(id.get())
    .fetch_optional(db)
    .await?;
    Ok(one.map(|one| (one.marked, one.conversation_id)))
}

/// The time at which a notification of a user was read. `None` if it is unread or not the user's.
pub async fn read_at(
    db: &mut PgConnection,
    user: UserId,
    id: NotificationId,
) -> sqlx::Result<Option<OffsetDateTime>> {
    postgres::query_scalar(
        "select read_at from notifications
        where user_id = $1 and notification_id = $2 and read_at is not null",
    )
    .bind(user.get())
    .bind(id.get())
    .fetch_optional(db)
    .await
}

/// Marks all notifications of a user as read.
pub async fn mark_all(db: &mut PgConnection, user: UserId) -> sqlx::Result<Marked> {
    postgres::query_as(concat!(
        "with moment as (select clock_timestamp() as at),
        marked as (update notifications set read_at = moment.at from moment
            where user_id = $1 and read_at is null returning conversation_id, message_id),",
        remember_covered!(),
        "select moment.at, (select count(*) from marked) as count, ",
        is_reminded!(),
        " from moment",
    ))
    .bind(user.get())
    .fetch_one(db)
    .await
}

/// The bounds of a page of an inbox. A page has at least one notification if there is any.
#[derive(Debug, Clone, Copy)]
pub struct PageQuery {
    pub user: UserId,
    /// Whether the page has only unread notifications.
    pub unread: bool,
    /// Whether archived notifications are left out.
    pub hides_archived: bool,
    /// Maximum number of notifications.
    pub limit: u16,
    /// Maximum size in bytes of JSON, compared with an upper estimate.
    pub bytes: i64,
}

/// One of the queries of a page. The innermost query reads the index. The next one adds up sizes without fetching
/// out-of-line values. A text may grow sixfold in JSON.
macro_rules! page {
    ($beyond:literal, $order:literal, $unread:literal) => {
        concat!(
            "select * from (
                select *, count(*) over () as rows,
                    sum(400 + octet_length(data) + 6 * (octet_length(title) + octet_length(message)))
                        over (order by notification_id ",
            $order,
            ") as bytes,
                    row_number() over (order by notification_id ",
            $order,
            ") as place
                from (
                    select notification_id, seq, type, title, message, data, created_at,
                        read_at is not null as is_read, replaces, archived_at
                    from notifications where user_id = $1 and notification_id ",
            $beyond,
            " $2 ",
            $unread,
            "
                    order by notification_id ",
            $order,
            " limit $3 + 1
                ) as page
            ) as page where place <= $3 and (bytes <= $4 or place = 1) order by place"
        )
    };
}

async fn page(
    db: impl PgExecutor<'_>,
    query: &'static str,
    beyond: i64,
    bounds: PageQuery,
) -> sqlx::Result<(Vec<Notification>, bool)> {
    #[derive(FromRow)]
    struct Placed {
        rows: i64,
        #[sqlx(flatten)]
        row: Row,
    }
    let rows: Vec<Placed> = postgres::query_as(query)
        .bind(bounds.user.get())
        .bind(beyond)
        .bind(i64::from(bounds.limit))
        .bind(bounds.bytes)
        .fetch_all(db)
        .await?;
    let more = rows.first().is_some_and(|first| first.rows > i64::try_from(rows.len()).unwrap_or(i64::MAX));
    let items =
        rows.into_iter().map(|placed| placed.row.into_notification(0)).collect::<sqlx::Result<_>>()?;
    Ok((items, more))
}

/// Notifications before an id, newest first, with an `unread_count` of 0; and whether there are more.
pub async fn page_before(
    db: impl PgExecutor<'_>,
    before: i64,
    bounds: PageQuery,
) -> sqlx::Result<(Vec<Notification>, bool)> {
    let query = match (bounds.unread, bounds.hides_archived) {
        // What is archived is read.
        (true, _) => page!("<", "desc", "and read_at is null"),
        (false, true) => page!("<", "desc", "and archived_at is null"),
        (false, false) => page!("<", "desc", ""),
    };
    page(db, query, before, bounds).await
}

/// Notifications after an id, oldest first, with an `unread_count` of 0; and whether there are more.
pub async fn page_after(
    db: impl PgExecutor<'_>,
    after: i64,
    bounds: PageQuery,
) -> sqlx::Result<(Vec<Notification>, bool)> {
    let query = match (bounds.unread, bounds.hides_archived) {
        (true, _) => page!(">", "asc", "and read_at is null"),
        (false, true) => page!(">", "asc", "and archived_at is null"),
        (false, false) => page!(">", "asc", ""),
    };
    page(db, query, after, bounds).await
}

/// Archives a notification of a user. Returns whether there is such a notification.
pub async fn archive(db: &mut PgConnection, user: UserId, id: NotificationId) -> sqlx::Result<bool> {
    let query = "update notifications set archived_at = coalesce(archived_at, clock_timestamp())
        where user_id = $1 and notification_id = $2";
    let archived = postgres::query(query).bind(user.get()).bind(id.get()).execute(db).await?;
    Ok(archived.rows_affected() > 0)
}

/// Tries to take the lock with which one replica at a time removes old notifications, until the transaction ends.
pub async fn lock_retention(db: &mut PgConnection) -> sqlx::Result<bool> {
    /// An arbitrary key that only this service uses.
    const KEY: i64 = 0x6e6f_7469_6679;
    postgres::query_scalar("select pg_try_advisory_xact_lock($1)").bind(KEY).fetch_one(db).await
}

/// The oldest notifications among those older than `days`: user and id.
pub async fn old_notifications(
    db: &mut PgConnection,
    days: i32,
    limit: i64,
) -> sqlx::Result<Vec<(i64, i64)>> {
    postgres::query_as(
        "select user_id, notification_id from notifications
        where created_at < now() - make_interval(days => $1) order by created_at limit $2",
    )
    .bind(days)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Removes notifications of locked inboxes and corrects the inboxes' unread counts.
pub async fn remove_notifications(db: &mut PgConnection, old: &[(i64, i64)]) -> sqlx::Result<u64> {
    let (users, ids): (Vec<i64>, Vec<i64>) = old.iter().copied().unzip();
    let removed: i64 = postgres::query_scalar(
        "with removed as (
            delete from notifications using unnest($1::bigint[], $2::bigint[]) as old (user_id, id)
            where notifications.user_id = old.user_id and notification_id = old.id
            returning notifications.user_id, notification_id, read_at is null as unread,
                coalesce('c' || conversation_id, 'n' || notification_id) as subject
        ), forgotten as (
            delete from reminded using removed
            where unread and reminded.user_id = removed.user_id and reminded.subject = removed.subject
        ), counted as (
            update inboxes set unread_count = unread_count - missing.unread,
                unseen_count = case when seen_id > 0
                    then unseen_count - (select count(*) from unnest(missing.ids) as id where id > seen_id)
                    else unseen_count end
            from (
                select user_id, count(*) as unread, array_agg(notification_id) as ids
                from removed where unread group by user_id
            ) as missing
            where inboxes.user_id = missing.user_id
        ) select count(*) from removed",
    )
    .bind(users)
    .bind(ids)
    .fetch_one(db)
    .await?;
    Ok(u64::try_from(removed).unwrap_or(0))
}
