//! The queries of erasures.

use crate::catalogue::Text;
use contract::{ConversationId, UserId};
use service::postgres;
use sqlx::{FromRow, PgConnection};

/// The sender whose name is to be replaced.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    pub user: UserId,
    /// The new name.
    pub username: &'a str,
    /// Messages of the sender in one conversation, to find notifications of earlier releases.
    pub conversation: ConversationId,
    pub messages: &'a [i64],
}

/// A `message_received` that names the sender of a message.
#[derive(FromRow)]
pub struct Named {
    pub user_id: i64,
    pub notification_id: i64,
    pub conversation_id: i64,
    pub message_id: i64,
    pub kind: Option<String>,
    pub count: i64,
    /// The language of the inbox.
    pub lang: Option<String>,
}

/// Notifications that name the sender, up to `limit`. With `users`, only theirs.
pub async fn named_notifications(
    db: &mut PgConnection,
    sender: Sender<'_>,
    users: Option<&[i64]>,
    limit: i64,
) -> sqlx::Result<Vec<Named>> {
    postgres::query_as(concat!(
        "select user_id, notification_id, conversation_id, message_id, coalesce(message_count, 0) as count, lang, ",
        kind!(),
        " from (
            (select * from notifications where sender_id = $1 limit $6)
            union all
            (select * from notifications
            where sender_id is null and conversation_id = $2 and message_id = any($3)
              and sender_username is distinct from $4 limit $6)
        ) as named join inboxes using (user_id)
        where $5::bigint[] is null or user_id = any($5) limit $6"
    ))
    .bind(sender.user.get())
    .bind(sender.conversation.get())
    .bind(sender.messages)
    .bind(sender.username)
    .bind(users)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Replaces the texts of notifications, and the name of their sender. The inboxes are locked.
pub async fn rename_sender(
    db: &mut PgConnection,
    texts: &[(i64, i64, Text)],
    sender_username: &str,
) -> sqlx::Result<()> {
    let column = |value: fn(&(i64, i64, Text)) -> i64| texts.iter().map(value).collect::<Vec<_>>();
    let text = |value: fn(&Text) -> &str| texts.iter().map(|(_, _, text)| value(text)).collect::<Vec<_>>();
    postgres::query(
        "update notifications set title = new.title, message = new.message, sender_username = $5, sender_id = null
        from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) as new (user_id, id, title, message)
        where notifications.user_id = new.user_id and notification_id = new.id",
    )
    .bind(column(|(user, ..)| *user))
    .bind(column(|(_, id, _)| *id))
    .bind(text(|text| &text.title))
    .bind(text(|text| &text.message))
    .bind(sender_username)
    .execute(db)
    .await
    .map(drop)
}

/// Deletes the oldest notifications of a user. Returns their number.
pub async fn delete_notifications(db: &mut PgConnection, user: UserId, limit: i64) -> sqlx::Result<u64> {
    let deleted = postgres::query(
        "delete from notifications where user_id = $1 and notification_id = any (array(
             select notification_id from notifications where user_id = $1 order by notification_id limit $2
         ))",
    )
    .bind(user.get())
    .bind(limit)
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}

/// Deletes everything else about a user: at last the inbox.
pub async fn delete_inbox(db: &mut PgConnection, user: UserId) -> sqlx::Result<()> {
    for query in [
        "delete from markers where user_id = $1",
        "delete from reminded where user_id = $1",
        "delete from reminder_times where user_id = $1",
        "delete from telling where user_id = $1",
        "delete from preferences where user_id = $1",
        "delete from quiet where user_id = $1",
        "delete from inboxes where user_id = $1",
    ] {
        postgres::query(query).bind(user.get()).execute(&mut *db).await?;
    }
    Ok(())
}
