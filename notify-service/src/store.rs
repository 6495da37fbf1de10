//! All queries of the schema `notify`: inboxes and markers here, notifications in [`notifications`]. A transaction
//! locks a user's inbox before it changes any data of that user.

/// Column of a query: the kind of a notification's newest message.
macro_rules! kind {
    () => {
        r#"substring(data from '"kind":"([a-z0-9_.]+)"') as kind"#
    };
}

/// Query that updates inboxes, with the parameters of [`bind_inboxes`].
macro_rules! update_inboxes {
    () => {
        "update inboxes set last_seq = new.last_seq, last_id = new.last_id, unread_count = new.unread_count,
            reads = new.reads, moves = new.moves, last_moved = new.last_moved,
            last_read_id = new.last_read_id, last_read_at = new.last_read_at, last_read_all = new.last_read_all,
            unseen_count = new.unseen_count
        from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bool[],
            $8::bigint[], $9::bigint[], $10::text[], $11::bigint[])
            as new (user_id, last_seq, last_id, unread_count, last_read_id, last_read_at, last_read_all, reads, moves,
                last_moved, unseen_count)
        where inboxes.user_id = new.user_id"
    };
}

mod erasure;
mod notifications;
mod preferences;
mod presence;
mod reminders;
pub mod telling;

pub use erasure::{Sender, delete_inbox, delete_notifications, named_notifications, rename_sender};
pub use notifications::{
    Marked, PageQuery, archive, insert, lock_retention, mark, mark_all, mark_one, next_ids,
    old_notifications, page_after, page_before, read_at, remove_notifications, repeated,
    unread_of_conversations,
};
pub use preferences::{
    QuietRow, delete_quiet, delete_settings, delete_single_settings, quiet, save_quiet, save_settings,
    settings,
};
pub use reminders::{
    Decided, DecisionPlace, DueTypes, ItemRow, Many, Scope, SettledRow, UnreadRow, add_sweeps, advance_sweep,
    busy_steps, count_waiting, decide_again, decide_subjects_again, delete_obsolete, delete_old_times,
    due_again, end_all_episodes, end_episodes, forget_needless, items, last_seen, last_told, lock_sweep,
    needless, newest_of_many, progress, recent_steps, save as save_decisions, save_many, save_mutes,
    save_told, shorten_episodes, sweep_progress, undecided, unread, unread_counts, waiting_while_present,
    without_unread,
};

pub use presence::{
    PresenceRow, Telling, came, forget_undecided, presences, seen, set_hidden, tell, told_online,
};

use crate::{
    ops::Membership,
    plan::{Inbox, LastRead, Reached},
};
use contract::{
    ConversationId, Lang, NotificationId, Seq, UserId,
    ids::InvalidId,
    notify::{InboxHead, InboxSeen},
};
use service::postgres;
use sqlx::{FromRow, PgConnection, PgExecutor, Postgres, postgres::PgArguments, query::Query};
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;

fn valid<T>(id: Result<T, InvalidId>) -> sqlx::Result<T> {
    id.map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Creates missing inboxes. The ids must be in ascending order, so that two replicas never deadlock.
pub async fn add_inboxes(db: impl PgExecutor<'_>, users: &[i64]) -> sqlx::Result<()> {
    let query = "insert into inboxes (user_id) select unnest($1::bigint[]) on conflict do nothing";
    postgres::query(query).bind(users).execute(db).await.map(drop)
}

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
    /// 0 if the user has never seen anything.
    seen_id: i64,
    unseen_count: i64,
}

macro_rules! select_inboxes {
    ($where:literal) => {
        concat!(
            "select user_id, last_seq, last_id, unread_count, reads, moves, last_moved, lang, last_read_id, last_read_at,
                last_read_all, seen_id, unseen_count from inboxes where ",
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
        let seen = NotificationId::new(self.seen_id).ok();
        let seen = seen.map(|id| InboxSeen { notification_id: id, unseen_count: self.unseen_count });
        let Self { last_seq, last_id, unread_count, reads, moves, lang, .. } = self;
        let inbox =
            Inbox { last_seq, last_id, unread_count, reads, moves, last_moved, lang, last_read, seen };
        Ok((valid(UserId::new(self.user_id))?, inbox))
    }
}

/// Locks the existing inboxes of these users, in ascending order.
pub async fn lock_inboxes(db: &mut PgConnection, users: &[i64]) -> sqlx::Result<HashMap<UserId, Inbox>> {
    let query = select_inboxes!("user_id = any($1) order by user_id for update");
    let rows: Vec<InboxRow> = postgres::query_as(query).bind(users).fetch_all(db).await?;
    rows.into_iter().map(InboxRow::inbox).collect()
}

/// Moves the marker of what a user has seen forward, counts the unread notifications after it, and counts the move
/// among the inbox's reads. Changes nothing if the marker is already there. Returns whether the user has such a
/// notification. The inbox is locked.
pub async fn mark_seen(db: &mut PgConnection, user: UserId, id: NotificationId) -> sqlx::Result<bool> {
    let query = "with seen as (select from notifications where user_id = $1 and notification_id = $2),
        moved as (
            update inboxes set seen_id = $2, reads = reads + 1, unseen_count = (select count(*) from notifications
                where notifications.user_id = $1 and read_at is null and notification_id > $2)
            where user_id = $1 and seen_id < $2 and exists (select from seen)
        ) select exists (select from seen)";
    postgres::query_scalar(query).bind(user.get()).bind(id.get()).fetch_one(db).await
}

/// How far these users have read these conversations, and the newest messages of notifications that they have read
/// without the marker.
pub async fn markers(
    db: &mut PgConnection,
    users: &[i64],
    conversations: &[i64],
) -> sqlx::Result<(HashMap<Membership, Reached>, HashMap<Membership, i64>)> {
    type Row = (i64, i64, i64, Option<Seq>, Option<i64>);
    let rows: Vec<Row> = postgres::query_as(
        "select user_id, conversation_id, message_id, case when seq_of = message_id then seq end, notified
        from unnest($1::bigint[], $2::bigint[]) as place (user_id, conversation_id)
        join markers using (user_id, conversation_id)",
    )
    .bind(users)
    .bind(conversations)
    .fetch_all(db)
    .await?;
    let (mut markers, mut covered) = (HashMap::new(), HashMap::new());
    for (user, conversation, message, seq, notified) in rows {
        let membership = membership(user, conversation)?;
        if message > 0 || seq.is_some() {
            markers.insert(membership, Reached { message, seq });
        }
        if let Some(notified) = notified {
            covered.insert(membership, notified);
        }
    }
    Ok((markers, covered))
}

fn membership(user: i64, conversation: i64) -> sqlx::Result<Membership> {
    Ok((valid(UserId::new(user))?, valid(ConversationId::new(conversation))?))
}

/// Moves markers forward.
pub async fn move_markers(db: &mut PgConnection, markers: &HashMap<Membership, Reached>) -> sqlx::Result<()> {
    let users: Vec<i64> = markers.keys().map(|(user, _)| user.get()).collect();
    let conversations: Vec<i64> = markers.keys().map(|(_, conversation)| conversation.get()).collect();
    let (messages, seqs): (Vec<i64>, Vec<Option<Seq>>) =
        markers.values().map(|reached| (reached.message, reached.seq)).unzip();
    postgres::query(
        "insert into markers (user_id, conversation_id, message_id, seq, seq_of)
        select user_id, conversation_id, message_id, seq, message_id
        from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
            as moved (user_id, conversation_id, message_id, seq)
        on conflict (user_id, conversation_id)
        do update set message_id = excluded.message_id, seq = excluded.seq, seq_of = excluded.seq_of
        where (markers.message_id, coalesce(markers.seq_of, -1)) < (excluded.message_id, excluded.seq_of)",
    )
    .bind(users)
    .bind(conversations)
    .bind(messages)
    .bind(seqs)
    .execute(db)
    .await
    .map(drop)
}

/// A query without a result.
type Command = Query<'static, Postgres, PgArguments>;

/// Binds the first 11 parameters.
fn bind_inboxes(query: Command, inboxes: &HashMap<UserId, Inbox>) -> Command {
    fn column<T>(inboxes: &HashMap<UserId, Inbox>, value: impl Fn(&Inbox) -> T) -> Vec<T> {
        inboxes.values().map(value).collect()
    }
    let read = |inbox: &Inbox| inbox.last_read;
    let users: Vec<i64> = inboxes.keys().map(|user| user.get()).collect();
    query
        .bind(users)
        .bind(column(inboxes, |inbox| inbox.last_seq))
        .bind(column(inboxes, |inbox| inbox.last_id))
        .bind(column(inboxes, |inbox| inbox.unread_count))
        .bind(column(inboxes, |inbox| read(inbox).map(|read| read.id.get())))
        .bind(column(inboxes, |inbox| read(inbox).map(|read| OffsetDateTime::from(read.at))))
        .bind(column(inboxes, |inbox| read(inbox).is_some_and(|read| read.all)))
        .bind(column(inboxes, |inbox| inbox.reads))
        .bind(column(inboxes, |inbox| inbox.moves))
        .bind(column(inboxes, |inbox| {
            inbox.last_moved.and_then(|marker| serde_json::to_string(&marker).ok())
        }))
        .bind(column(inboxes, |inbox| inbox.seen.map_or(0, |seen| seen.unseen_count)))
}

/// Updates inboxes.
pub async fn update_inboxes(db: &mut PgConnection, inboxes: &HashMap<UserId, Inbox>) -> sqlx::Result<()> {
    bind_inboxes(postgres::query(update_inboxes!()), inboxes).execute(db).await.map(drop)
}

/// A user's inbox.
pub async fn inbox(db: impl PgExecutor<'_>, user: UserId) -> sqlx::Result<Option<Inbox>> {
    let query = select_inboxes!("user_id = $1");
    let row: Option<InboxRow> = postgres::query_as(query).bind(user.get()).fetch_optional(db).await?;
    Ok(row.map(InboxRow::inbox).transpose()?.map(|(_, inbox)| inbox))
}

/// Saves users' languages. Locks only the rows that change, in ascending order, so that this never deadlocks with a
/// batch.
pub async fn save_languages(db: impl PgExecutor<'_>, seen: &BTreeMap<UserId, Lang>) -> sqlx::Result<()> {
    let (users, langs): (Vec<i64>, Vec<&str>) =
        seen.iter().map(|(user, lang)| (user.get(), lang.as_str())).unzip();
    postgres::query(
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

/// The heads of these inboxes, without empty ones.
pub async fn heads(db: impl PgExecutor<'_>, users: &[i64]) -> sqlx::Result<Vec<InboxHead>> {
    let query = select_inboxes!("user_id = any($1) and last_seq > 0");
    let rows: Vec<InboxRow> = postgres::query_as(query).bind(users).fetch_all(db).await?;
    let heads = rows.into_iter().map(|row| {
        let (user_id, inbox) = row.inbox()?;
        let (seq, unread_count, last_read) = (inbox.last_seq, inbox.unread_count, inbox.read());
        let (reads, moves, last_moved) = (Some(inbox.reads), Some(inbox.moves), inbox.last_moved);
        Ok(InboxHead { user_id, seq, unread_count, last_read, reads, moves, last_moved, seen: inbox.seen })
    });
    heads.collect()
}

#[cfg(test)]
mod plans;
#[cfg(test)]
mod presence_tests;
