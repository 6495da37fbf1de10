//! What is stored about a user.

use super::{
    id, message,
    mine::{mine, muted_until},
    timestamp,
};
use contract::{ConversationId, MessageId, Timestamp, UserId, chat::Message, erasure::Record};
use service::postgres;
use sqlx::{PgExecutor, Row, postgres::PgRow};
use time::OffsetDateTime;

/// The user's name, if it is known.
pub async fn user(db: impl PgExecutor<'_>, user: UserId) -> sqlx::Result<Option<Record>> {
    let name = postgres::query_scalar("select username from users where user_id = $1");
    let name: Option<String> = name.bind(user.get()).fetch_optional(db).await?;
    Ok(name.map(|username| Record::User { user_id: user, username }))
}

/// The user's next conversation by id.
pub async fn conversation_after(
    db: impl PgExecutor<'_>,
    user: UserId,
    after: i64,
) -> sqlx::Result<Option<(ConversationId, Record)>> {
    let row = postgres::query(concat!(
        "select c.*, p.read_message_id, p.read_at, ",
        mine!(),
        " from participants p join conversations c on c.conversation_id = p.conversation_id
         where p.user_id = $1 and p.conversation_id > $2 order by p.conversation_id limit 1"
    ))
    .bind(user.get())
    .bind(after)
    .fetch_optional(db)
    .await?;
    let conversation = |row: &PgRow| {
        let conversation_id = id(row.try_get("conversation_id")?)?;
        let read_at: Option<OffsetDateTime> = row.try_get("read_at")?;
        let record = Record::Conversation {
            conversation_id,
            listing_id: row.try_get("listing_id")?,
            title: row.try_get("title")?,
            created_at: timestamp(row, "created_at")?,
            read_message_id: MessageId::new(row.try_get("read_message_id")?).ok(),
            read_at: read_at.map(Timestamp::from),
            muted_until: muted_until(row)?,
            archived: row.try_get("archived")?,
            pinned: row.try_get("pinned")?,
        };
        Ok((conversation_id, record))
    };
    row.as_ref().map(conversation).transpose()
}

/// Looks at up to `limit` messages of a conversation after one. Returns those of the user, and the last message that
/// was looked at: `None` at the end of the conversation. The caller sets `is_read`.
pub async fn messages(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    user: UserId,
    after: i64,
    limit: i64,
) -> sqlx::Result<(Vec<Message>, Option<i64>)> {
    let rows = postgres::query(
        "select * from messages where (conversation_id, message_id) > ($1, $2)
         order by conversation_id, message_id limit $3",
    )
    .bind(conversation.get())
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await?;
    let seen: Vec<Message> = rows.iter().map(message).collect::<sqlx::Result<_>>()?;
    let seen: Vec<Message> =
        seen.into_iter().take_while(|message| message.conversation_id == conversation).collect();
    let is_full = i64::try_from(seen.len()).is_ok_and(|seen| seen == limit);
    let upto = seen.last().filter(|_| is_full).map(|last| last.message_id.get());
    Ok((seen.into_iter().filter(|message| message.sender_id == user).collect(), upto))
}

/// Users that the user blocks, after an id.
pub async fn blocks(
    db: impl PgExecutor<'_>,
    user: UserId,
    after: i64,
    limit: i64,
) -> sqlx::Result<Vec<(i64, Record)>> {
    let rows = postgres::query(
        "select * from blocks where user_id = $1 and blocked_id > $2 order by blocked_id limit $3",
    )
    .bind(user.get())
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await?;
    let block = |row: &PgRow| {
        let blocked: i64 = row.try_get("blocked_id")?;
        Ok((blocked, Record::Block { user_id: id(blocked)?, created_at: timestamp(row, "created_at")? }))
    };
    rows.iter().map(block).collect()
}

/// The reports that the user made, after an id. They do not have the reported text.
pub async fn reports(
    db: impl PgExecutor<'_>,
    user: UserId,
    after: i64,
    limit: i64,
) -> sqlx::Result<Vec<(i64, Record)>> {
    let rows = postgres::query(
        "select * from reports where reporter_id = $1 and report_id > $2 order by report_id limit $3",
    )
    .bind(user.get())
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await?;
    let report = |row: &PgRow| {
        let report_id = row.try_get("report_id")?;
        let message: Option<i64> = row.try_get("message_id")?;
        let record = Record::Report {
            report_id,
            user_id: id(row.try_get("user_id")?)?,
            message_id: message.map(id).transpose()?,
            reason: row.try_get("reason")?,
            created_at: timestamp(row, "created_at")?,
        };
        Ok((report_id, record))
    };
    rows.iter().map(report).collect()
}
