//! The queries on the schema `notify`. Whoever changes anything of a user's has locked the user's inbox first.

use crate::plan::{Added, Inbox, LastRead, Reached, Standing, StandsFor};
use contract::{
    ConversationId, Lang, NotificationId, Seq, Timestamp, UserId,
    ids::InvalidId,
    notify::{InboxHead, Notification},
};
use serde_json::value::RawValue;
use sqlx::{FromRow, PgConnection, PgExecutor};
use std::collections::{BTreeMap, HashMap};
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
}

impl Row {
    fn shown(self, unread_count: i64) -> sqlx::Result<Notification> {
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
            replaces: self.replaces.map(|id| valid(NotificationId::new(id))).transpose()?,
        })
    }
}

fn valid<T>(id: Result<T, InvalidId>) -> sqlx::Result<T> {
    id.map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Makes inboxes where there are none. In ascending order, so that two replicas never wait for each other in a circle.
pub async fn add_inboxes(db: impl PgExecutor<'_>, users: &[i64]) -> sqlx::Result<()> {
    let query = "insert into inboxes (user_id) select unnest($1::bigint[]) on conflict do nothing";
    sqlx::query(query).bind(users).execute(db).await.map(drop)
}

/// A user's inbox.
#[derive(FromRow)]
struct InboxRow {
    user_id: i64,
    last_seq: Seq,
    last_id: i64,
    unread_count: i64,
    reads: i64,
    moves: i64,
    last_moved: Option<String>,
    lang: Option<String>,
    last_read_id: Option<i64>,
    last_read_at: Option<OffsetDateTime>,
    last_read_all: bool,
}

macro_rules! select_inboxes {
    ($where:literal) => {
        concat!(
            "select user_id, last_seq, last_id, unread_count, reads, moves, last_moved, lang, last_read_id, last_read_at, last_read_all
            from inboxes where ",
            $where
        )
    };
}

impl InboxRow {
    fn inbox(self) -> sqlx::Result<(UserId, Inbox)> {
        let read =
            self.last_read_id.map(|id| valid(NotificationId::new(id))).transpose()?.zip(self.last_read_at);
        let last_read = read.map(|(id, at)| LastRead { id, at: at.into(), all: self.last_read_all });
        let last_moved = self.last_moved.as_deref().map(serde_json::from_str).transpose();
        let last_moved = last_moved.map_err(|error| sqlx::Error::Decode(error.into()))?;
        let Self { last_seq, last_id, unread_count, reads, moves, lang, .. } = self;
        let inbox = Inbox { last_seq, last_id, unread_count, reads, moves, last_moved, lang, last_read };
        Ok((valid(UserId::new(self.user_id))?, inbox))
    }
}

/// Locks the inboxes of these users that there are, in ascending order.
pub async fn lock_inboxes(db: &mut PgConnection, users: &[i64]) -> sqlx::Result<HashMap<UserId, Inbox>> {
    let query = select_inboxes!("user_id = any($1) order by user_id for update");
    let rows: Vec<InboxRow> = sqlx::query_as(query).bind(users).fetch_all(db).await?;
    rows.into_iter().map(InboxRow::inbox).collect()
}

/// The notifications that these events have made of these users, with an `unread_count` of 0.
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
    let rows: Vec<Repeated> = sqlx::query_as(
        "select user_id, event_key, notification_id, seq, type, title, message, data, created_at,
            read_at is not null as is_read, replaces
        from unnest($1::bigint[], $2::text[]) as event (user_id, event_key)
        join notifications using (user_id, event_key)",
    )
    .bind(users)
    .bind(keys)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|found| Ok(((valid(UserId::new(found.user_id))?, found.event_key), found.row.shown(0)?)))
        .collect()
}

/// What stands for these users' conversations.
pub async fn standing(
    db: &mut PgConnection,
    users: &[i64],
    conversations: &[i64],
) -> sqlx::Result<HashMap<(UserId, ConversationId), Standing>> {
    let rows: Vec<(i64, i64, i64, i64, Option<Seq>, i64)> = sqlx::query_as(
        "select user_id, conversation_id, notification_id, coalesce(message_id, 0), message_seq,
            coalesce(message_count, 0)
        from (select distinct * from unnest($1::bigint[], $2::bigint[])) as place (user_id, conversation_id)
        join notifications using (user_id, conversation_id)
        where read_at is null and conversation_id is not null",
    )
    .bind(users)
    .bind(conversations)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(user, conversation, id, message, seq, count)| {
            let id = valid(NotificationId::new(id))?;
            Ok((place(user, conversation)?, Standing { id, message, seq, count, added: None }))
        })
        .collect()
}

/// How far these users have read these conversations.
pub async fn markers(
    db: &mut PgConnection,
    users: &[i64],
    conversations: &[i64],
) -> sqlx::Result<HashMap<(UserId, ConversationId), Reached>> {
    let rows: Vec<(i64, i64, i64, Option<Seq>)> = sqlx::query_as(
        "select user_id, conversation_id, message_id, case when seq_of = message_id then seq end
        from (select distinct * from unnest($1::bigint[], $2::bigint[])) as place (user_id, conversation_id)
        join markers using (user_id, conversation_id)",
    )
    .bind(users)
    .bind(conversations)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(user, conversation, message, seq)| Ok((place(user, conversation)?, Reached { message, seq })))
        .collect()
}

fn place(user: i64, conversation: i64) -> sqlx::Result<(UserId, ConversationId)> {
    Ok((valid(UserId::new(user))?, valid(ConversationId::new(conversation))?))
}

/// The time, and that many new ids in ascending order.
pub async fn next_ids(
    db: &mut PgConnection,
    count: usize,
) -> sqlx::Result<(OffsetDateTime, Vec<NotificationId>)> {
    // Not now(), which is when the transaction began: before it waited for the inboxes.
    let (at, mut ids): (OffsetDateTime, Vec<i64>) = sqlx::query_as(
        "select clock_timestamp(), array(select nextval('notification_ids') from generate_series(1, $1))",
    )
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .fetch_one(db)
    .await?;
    ids.sort_unstable();
    let ids = ids.into_iter().map(|id| valid(NotificationId::new(id))).collect::<sqlx::Result<_>>()?;
    Ok((at, ids))
}

/// Stores notifications.
pub async fn insert(db: &mut PgConnection, added: &[Added], at: OffsetDateTime) -> sqlx::Result<()> {
    fn column<'a, T>(added: &'a [Added], value: impl Fn(&'a Added) -> T) -> Vec<T> {
        added.iter().map(value).collect()
    }
    sqlx::query(
        "insert into notifications (user_id, notification_id, seq, type, title, message, data, event_key, replaces,
            conversation_id, message_id, message_seq, message_count, created_at, read_at)
        select user_id, notification_id, seq, type, title, message, data, event_key, replaces,
            conversation_id, message_id, message_seq, message_count, $15, case when is_read then $15 end
        from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bool[])
        as added (user_id, notification_id, seq, type, title, message, data, event_key, replaces,
            conversation_id, message_id, message_seq, message_count, is_read)",
    )
    .bind(column(added, |added| added.user.get()))
    .bind(column(added, |added| added.shown.notification_id.get()))
    .bind(column(added, |added| added.shown.seq))
    .bind(column(added, |added| added.shown.kind.as_str()))
    .bind(column(added, |added| added.shown.title.as_str()))
    .bind(column(added, |added| added.shown.message.as_str()))
    .bind(column(added, |added| added.shown.data.get()))
    .bind(column(added, |added| added.key.as_str()))
    .bind(column(added, |added| added.shown.replaces.map(NotificationId::get)))
    .bind(column(added, |added| added.stands_for.map(|StandsFor { conversation, .. }| conversation.get())))
    .bind(column(added, |added| added.stands_for.map(|stands_for| stands_for.message)))
    .bind(column(added, |added| added.stands_for.and_then(|stands_for| stands_for.seq)))
    .bind(column(added, |added| added.stands_for.map(|stands_for| stands_for.count)))
    .bind(column(added, |added| added.read))
    .bind(at)
    .execute(db)
    .await
    .map(drop)
}

/// Marks notifications as read.
pub async fn mark(
    db: &mut PgConnection,
    read: &[(UserId, NotificationId)],
    at: OffsetDateTime,
) -> sqlx::Result<()> {
    let (users, ids): (Vec<i64>, Vec<i64>) = read.iter().map(|(user, id)| (user.get(), id.get())).unzip();
    sqlx::query(
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

/// Moves markers, forward only.
pub async fn move_markers(
    db: &mut PgConnection,
    markers: &HashMap<(UserId, ConversationId), Reached>,
) -> sqlx::Result<()> {
    let users: Vec<i64> = markers.keys().map(|(user, _)| user.get()).collect();
    let conversations: Vec<i64> = markers.keys().map(|(_, conversation)| conversation.get()).collect();
    let (messages, seqs): (Vec<i64>, Vec<Option<Seq>>) =
        markers.values().map(|reached| (reached.message, reached.seq)).unzip();
    sqlx::query(
        "insert into markers (user_id, conversation_id, message_id, seq, seq_of)
        select user_id, conversation_id, message_id, seq, message_id
        from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
            as moved (user_id, conversation_id, message_id, seq)
        on conflict (user_id, conversation_id)
        do update set message_id = excluded.message_id, seq = excluded.seq, seq_of = excluded.seq_of
        where markers.message_id < excluded.message_id",
    )
    .bind(users)
    .bind(conversations)
    .bind(messages)
    .bind(seqs)
    .execute(db)
    .await
    .map(drop)
}

/// Writes what has become of inboxes.
pub async fn update_inboxes(db: &mut PgConnection, inboxes: &HashMap<UserId, Inbox>) -> sqlx::Result<()> {
    fn column<T>(inboxes: &HashMap<UserId, Inbox>, value: impl Fn(&Inbox) -> T) -> Vec<T> {
        inboxes.values().map(value).collect()
    }
    let read = |inbox: &Inbox| inbox.last_read;
    let users: Vec<i64> = inboxes.keys().map(|user| user.get()).collect();
    sqlx::query(
        "update inboxes set last_seq = new.last_seq, last_id = new.last_id, unread_count = new.unread_count,
            reads = new.reads, moves = new.moves, last_moved = new.last_moved,
            last_read_id = new.last_read_id, last_read_at = new.last_read_at, last_read_all = new.last_read_all
        from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bool[],
            $8::bigint[], $9::bigint[], $10::text[])
            as new (user_id, last_seq, last_id, unread_count, last_read_id, last_read_at, last_read_all, reads, moves,
                last_moved)
        where inboxes.user_id = new.user_id",
    )
    .bind(users)
    .bind(column(inboxes, |inbox| inbox.last_seq))
    .bind(column(inboxes, |inbox| inbox.last_id))
    .bind(column(inboxes, |inbox| inbox.unread_count))
    .bind(column(inboxes, |inbox| read(inbox).map(|read| read.id.get())))
    .bind(column(inboxes, |inbox| read(inbox).map(|read| OffsetDateTime::from(read.at))))
    .bind(column(inboxes, |inbox| read(inbox).is_some_and(|read| read.all)))
    .bind(column(inboxes, |inbox| inbox.reads))
    .bind(column(inboxes, |inbox| inbox.moves))
    .bind(column(inboxes, |inbox| inbox.last_moved.and_then(|marker| serde_json::to_string(&marker).ok())))
    .execute(db)
    .await
    .map(drop)
}

/// Marks one notification of a user as read: when; `None` if it isn't one of the user's unread ones.
pub async fn mark_one(
    db: &mut PgConnection,
    user: UserId,
    id: NotificationId,
) -> sqlx::Result<Option<Timestamp>> {
    let at: Option<OffsetDateTime> = sqlx::query_scalar(
        "update notifications set read_at = clock_timestamp()
        where user_id = $1 and notification_id = $2 and read_at is null returning read_at",
    )
    .bind(user.get())
    .bind(id.get())
    .fetch_optional(db)
    .await?;
    Ok(at.map(Timestamp::from))
}

/// Since when a notification of a user is read; `None` if it isn't, or isn't the user's.
pub async fn read_at(
    db: &mut PgConnection,
    user: UserId,
    id: NotificationId,
) -> sqlx::Result<Option<Timestamp>> {
    let at: Option<OffsetDateTime> = sqlx::query_scalar(
        "select read_at from notifications
        where user_id = $1 and notification_id = $2 and read_at is not null",
    )
    .bind(user.get())
    .bind(id.get())
    .fetch_optional(db)
    .await?;
    Ok(at.map(Timestamp::from))
}

/// Marks all notifications of a user as read: when, and how many that were.
pub async fn mark_all(db: &mut PgConnection, user: UserId) -> sqlx::Result<(Timestamp, i64)> {
    let (at, count): (OffsetDateTime, i64) = sqlx::query_as(
        "with moment as (select clock_timestamp() as at),
        marked as (update notifications set read_at = moment.at from moment
            where user_id = $1 and read_at is null returning 1)
        select moment.at, (select count(*) from marked) from moment",
    )
    .bind(user.get())
    .fetch_one(db)
    .await?;
    Ok((at.into(), count))
}

/// A user's inbox as it is.
pub async fn inbox(db: impl PgExecutor<'_>, user: UserId) -> sqlx::Result<Option<Inbox>> {
    let query = select_inboxes!("user_id = $1");
    let row: Option<InboxRow> = sqlx::query_as(query).bind(user.get()).fetch_optional(db).await?;
    Ok(row.map(InboxRow::inbox).transpose()?.map(|(_, inbox)| inbox))
}

/// Remembers users' languages. Rows that say so already are not locked; the others in ascending order, so that this
/// and a batch never wait for each other in a circle.
pub async fn remember_languages(db: impl PgExecutor<'_>, seen: &BTreeMap<UserId, Lang>) -> sqlx::Result<()> {
    let (users, langs): (Vec<i64>, Vec<&str>) =
        seen.iter().map(|(user, lang)| (user.get(), lang.as_str())).unzip();
    sqlx::query(
        "insert into inboxes (user_id, lang)
        select seen.user_id, seen.lang from unnest($1::bigint[], $2::text[]) as seen (user_id, lang)
        left join inboxes using (user_id) where inboxes.lang is distinct from seen.lang order by seen.user_id
        on conflict (user_id) do update set lang = excluded.lang",
    )
    .bind(users)
    .bind(langs)
    .execute(db)
    .await
    .map(drop)
}

/// Where these inboxes end, of those that were ever written to.
pub async fn heads(db: impl PgExecutor<'_>, users: &[i64]) -> sqlx::Result<Vec<InboxHead>> {
    let query = select_inboxes!("user_id = any($1) and last_seq > 0");
    let rows: Vec<InboxRow> = sqlx::query_as(query).bind(users).fetch_all(db).await?;
    let heads = rows.into_iter().map(|row| {
        let (user_id, inbox) = row.inbox()?;
        let (seq, unread_count, last_read) = (inbox.last_seq, inbox.unread_count, inbox.read());
        let (reads, moves, last_moved) = (Some(inbox.reads), Some(inbox.moves), inbox.last_moved);
        Ok(InboxHead { user_id, seq, unread_count, last_read, reads, moves, last_moved })
    });
    heads.collect()
}

/// A part of an inbox: at most so many, at most so many bytes (but one at least).
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Whose.
    pub user: UserId,
    /// Only unread ones.
    pub unread: bool,
    /// How many at most.
    pub limit: u16,
    /// Bytes of JSON at most, roughly and from above.
    pub bytes: i64,
}

/// One of the four queries of a page. The innermost reads the index; the next adds up bytes, without fetching what is
/// stored apart; a text may grow sixfold in JSON.
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
                        read_at is not null as is_read, replaces
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
    part: Part,
) -> sqlx::Result<(Vec<Notification>, bool)> {
    #[derive(FromRow)]
    struct Placed {
        rows: i64,
        #[sqlx(flatten)]
        row: Row,
    }
    let rows: Vec<Placed> = sqlx::query_as(query)
        .bind(part.user.get())
        .bind(beyond)
        .bind(i64::from(part.limit))
        .bind(part.bytes)
        .fetch_all(db)
        .await?;
    let more = rows.first().is_some_and(|first| first.rows > i64::try_from(rows.len()).unwrap_or(i64::MAX));
    let items = rows.into_iter().map(|placed| placed.row.shown(0)).collect::<sqlx::Result<_>>()?;
    Ok((items, more))
}

/// Those before an id, newest first, with an `unread_count` of 0; and whether there are more.
pub async fn page_before(
    db: impl PgExecutor<'_>,
    before: i64,
    part: Part,
) -> sqlx::Result<(Vec<Notification>, bool)> {
    let query = if part.unread { page!("<", "desc", "and read_at is null") } else { page!("<", "desc", "") };
    page(db, query, before, part).await
}

/// Those after an id, oldest first, with an `unread_count` of 0; and whether there are more.
pub async fn page_after(
    db: impl PgExecutor<'_>,
    after: i64,
    part: Part,
) -> sqlx::Result<(Vec<Notification>, bool)> {
    let query = if part.unread { page!(">", "asc", "and read_at is null") } else { page!(">", "asc", "") };
    page(db, query, after, part).await
}

/// Takes the one place among all replicas in which old notifications are removed, until the transaction ends.
pub async fn lock_retention(db: &mut PgConnection) -> sqlx::Result<bool> {
    /// Of no meaning, but of this service alone.
    const KEY: i64 = 0x6e6f_7469_6679;
    sqlx::query_scalar("select pg_try_advisory_xact_lock($1)").bind(KEY).fetch_one(db).await
}

/// The oldest notifications that are older than so many days: user and id.
pub async fn old(db: &mut PgConnection, days: i32, limit: i64) -> sqlx::Result<Vec<(i64, i64)>> {
    sqlx::query_as(
        "select user_id, notification_id from notifications
        where created_at < now() - make_interval(days => $1) order by created_at limit $2",
    )
    .bind(days)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Removes notifications of locked inboxes; these keep an exact count of what is unread.
pub async fn remove(db: &mut PgConnection, old: &[(i64, i64)]) -> sqlx::Result<u64> {
    let (users, ids): (Vec<i64>, Vec<i64>) = old.iter().copied().unzip();
    let removed: i64 = sqlx::query_scalar(
        "with removed as (
            delete from notifications using unnest($1::bigint[], $2::bigint[]) as old (user_id, id)
            where notifications.user_id = old.user_id and notification_id = old.id
            returning notifications.user_id, read_at is null as unread
        ), counted as (
            update inboxes set unread_count = unread_count - missing.unread
            from (select user_id, count(*) as unread from removed where unread group by user_id) as missing
            where inboxes.user_id = missing.user_id
        ) select count(*) from removed",
    )
    .bind(users)
    .bind(ids)
    .fetch_one(db)
    .await?;
    Ok(u64::try_from(removed).unwrap_or(0))
}

#[cfg(test)]
mod plans;
