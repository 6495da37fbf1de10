//! Erasures of users: their state, and what they delete.

use super::{id, timestamp};
use contract::{ConversationId, MessageId, Timestamp, UserId};
use service::postgres;
use sqlx::{PgConnection, PgExecutor, Row, postgres::PgRow};

/// An erasure that is not done.
#[derive(Debug)]
pub struct Pending {
    pub user_id: UserId,
    pub erasure_id: i64,
    pub requested_at: Timestamp,
    pub stage: Stage,
    /// Last conversation that the stage has finished; 0 if none.
    pub place: i64,
    /// Last message of the next conversation that the stage has finished; 0 if none.
    pub message: i64,
    /// Last row of the outbox when the last messages were erased.
    pub outbox_id: Option<i64>,
    /// Last message of the stream CHAT at that time.
    pub chat_seq: Option<u64>,
    /// Last message of the stream EVENTS at that time.
    pub events_seq: Option<u64>,
}

impl Pending {
    /// Notes that a stage has reached a message of a conversation, or its end.
    pub const fn advance(&mut self, conversation: ConversationId, upto: Option<i64>) {
        match upto {
            Some(message) => self.message = message,
            None => (self.place, self.message) = (conversation.get(), 0),
        }
    }
}

/// The stages of an erasure, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The user's sessions are revoked.
    Sessions,
    /// The user's messages are erased, conversation by conversation.
    Messages,
    /// Everything that was published before has been consumed.
    Streams,
    /// The user's name disappears from others' notifications, conversation by conversation.
    Names,
    /// The user's inbox is deleted.
    Inbox,
}

impl Stage {
    const fn text(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Messages => "messages",
            Self::Streams => "streams",
            Self::Names => "names",
            Self::Inbox => "inbox",
        }
    }

    fn parse(text: &str) -> sqlx::Result<Self> {
        [Self::Sessions, Self::Messages, Self::Streams, Self::Names, Self::Inbox]
            .into_iter()
            .find(|stage| stage.text() == text)
            .ok_or_else(|| sqlx::Error::Protocol(format!("the stage {text:?}")))
    }
}

/// Starts an erasure, unless one of this user is in progress. Returns its id.
pub async fn start_erasure(db: &mut PgConnection, user: UserId, reason: Option<&str>) -> sqlx::Result<i64> {
    // Without this, the request would wait for the step in progress, which has locked the row.
    let running =
        postgres::query_scalar("select erasure_id from erasures where user_id = $1 and done_at is null");
    if let Some(running) = running.bind(user.get()).fetch_optional(&mut *db).await? {
        return Ok(running);
    }
    postgres::query_scalar(
        "insert into erasures as e (user_id, reason) values ($1, $2)
         on conflict (user_id) do update
         set reason = excluded.reason, requested_at = clock_timestamp(), next_at = clock_timestamp(), done_at = null,
             stage = 'sessions', place = 0, message = 0, outbox_id = null, chat_seq = null, events_seq = null
         returning erasure_id",
    )
    .bind(user.get())
    .bind(reason)
    .fetch_one(db)
    .await
}

/// Locks the erasure that is due first and that no other replica is working on.
pub async fn lock_erasure(db: &mut PgConnection) -> sqlx::Result<Option<Pending>> {
    let row = postgres::query(
        "select * from erasures where done_at is null and next_at <= clock_timestamp()
         order by next_at limit 1 for update skip locked",
    )
    .fetch_optional(db)
    .await?;
    let seq = |row: &PgRow, column| -> sqlx::Result<Option<u64>> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(i64::unsigned_abs))
    };
    row.map(|row| {
        Ok(Pending {
            user_id: id(row.try_get("user_id")?)?,
            erasure_id: row.try_get("erasure_id")?,
            requested_at: timestamp(&row, "requested_at")?,
            stage: Stage::parse(row.try_get("stage")?)?,
            place: row.try_get("place")?,
            message: row.try_get("message")?,
            outbox_id: row.try_get("outbox_id")?,
            chat_seq: seq(&row, "chat_seq")?,
            events_seq: seq(&row, "events_seq")?,
        })
    })
    .transpose()
}

/// Saves the progress of an erasure, which continues after so many seconds.
pub async fn save_erasure(db: &mut PgConnection, pending: &Pending, wait_secs: f64) -> sqlx::Result<()> {
    let seq = |seq: Option<u64>| seq.and_then(|seq| i64::try_from(seq).ok());
    postgres::query(
        "update erasures
         set stage = $2, place = $3, message = $4, outbox_id = $5, chat_seq = $6, events_seq = $7,
             next_at = clock_timestamp() + make_interval(secs => $8)
         where user_id = $1",
    )
    .bind(pending.user_id.get())
    .bind(pending.stage.text())
    .bind(pending.place)
    .bind(pending.message)
    .bind(pending.outbox_id)
    .bind(seq(pending.chat_seq))
    .bind(seq(pending.events_seq))
    .bind(wait_secs)
    .execute(db)
    .await?;
    Ok(())
}

/// Ends an erasure.
pub async fn end_erasure(db: &mut PgConnection, user: UserId) -> sqlx::Result<()> {
    postgres::query("update erasures set done_at = clock_timestamp() where user_id = $1")
        .bind(user.get())
        .execute(db)
        .await?;
    Ok(())
}

/// Number of erasures that are not done.
pub async fn count_erasures(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    postgres::query_scalar("select count(*) from erasures where done_at is null").fetch_one(db).await
}

/// The user's next conversation by id.
pub async fn conversation_after(
    db: impl PgExecutor<'_>,
    user: UserId,
    after: i64,
) -> sqlx::Result<Option<ConversationId>> {
    let found: Option<i64> = postgres::query_scalar(
        "select conversation_id from participants where user_id = $1 and conversation_id > $2
         order by conversation_id limit 1",
    )
    .bind(user.get())
    .bind(after)
    .fetch_optional(db)
    .await?;
    found.map(id).transpose()
}

/// Messages that were erased in one step.
#[derive(Debug)]
pub struct ErasedMessages {
    /// The last message that was looked at. `None` at the end of the conversation.
    pub upto: Option<i64>,
    /// Number of the first change. The others follow it.
    pub first_change: i64,
    /// The messages, in the order of their changes.
    pub message_ids: Vec<i64>,
    /// The row of the outbox of each change.
    pub outbox_ids: Vec<i64>,
    /// The users whose markers moved.
    pub moved: Vec<UserId>,
}

/// Looks at up to `limit` messages of a conversation after one, and erases those of a user.
pub async fn erase_messages(
    db: &mut PgConnection,
    conversation: ConversationId,
    user: UserId,
    after: i64,
    limit: i32,
) -> sqlx::Result<ErasedMessages> {
    let row = postgres::query("select * from erase_messages($1, $2, $3, $4)")
        .bind(conversation.get())
        .bind(user.get())
        .bind(after)
        .bind(limit)
        .fetch_one(db)
        .await?;
    Ok(ErasedMessages {
        upto: row.try_get("upto")?,
        first_change: row.try_get("first_change")?,
        message_ids: row.try_get("message_ids")?,
        outbox_ids: row.try_get("outbox_ids")?,
        moved: moved(&row)?,
    })
}

/// The users whose markers moved.
pub fn moved(row: &PgRow) -> sqlx::Result<Vec<UserId>> {
    row.try_get::<Vec<i64>, _>("moved")?.into_iter().map(id).collect()
}

/// Deletes a user's name and blocks, and returns the last row of the outbox.
pub async fn erase_user(db: &mut PgConnection, user: UserId) -> sqlx::Result<i64> {
    for query in ["delete from users where user_id = $1", "delete from blocks where user_id = $1"] {
        postgres::query(query).bind(user.get()).execute(&mut *db).await?;
    }
    postgres::query_scalar("select coalesce(max(id), 0) from outbox").fetch_one(db).await
}

/// Whether everything up to this row of the outbox is published.
pub async fn is_published(db: impl PgExecutor<'_>, outbox_id: i64) -> sqlx::Result<bool> {
    postgres::query_scalar("select not exists (select from outbox where id <= $1)")
        .bind(outbox_id)
        .fetch_one(db)
        .await
}

/// Looks at up to `limit` messages of a conversation after one. Returns those of a user, and the last message that was
/// looked at: `None` at the end of the conversation.
pub async fn messages_of(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    user: UserId,
    after: i64,
    limit: i64,
) -> sqlx::Result<(Vec<MessageId>, Option<i64>)> {
    let row = postgres::query(
        "select array_agg(message_id order by message_id) filter (where sender_id = $2) as own,
                max(message_id) as upto, count(*) as seen
         from (
             select conversation_id, message_id, sender_id from messages
             where (conversation_id, message_id) > ($1, $3) order by conversation_id, message_id limit $4
         ) m
         where conversation_id = $1",
    )
    .bind(conversation.get())
    .bind(user.get())
    .bind(after)
    .bind(limit)
    .fetch_one(db)
    .await?;
    let own: Option<Vec<i64>> = row.try_get("own")?;
    let upto: Option<i64> = row.try_get("upto")?;
    let is_full = row.try_get::<i64, _>("seen")? == limit;
    Ok((own.unwrap_or_default().into_iter().map(id).collect::<sqlx::Result<_>>()?, upto.filter(|_| is_full)))
}

/// Delays the next step of an erasure by so many seconds.
pub async fn delay_erasure(db: &mut PgConnection, user: UserId, wait_secs: f64) -> sqlx::Result<()> {
    postgres::query(
        "update erasures set next_at = clock_timestamp() + make_interval(secs => $2) where user_id = $1",
    )
    .bind(user.get())
    .bind(wait_secs)
    .execute(db)
    .await?;
    Ok(())
}
