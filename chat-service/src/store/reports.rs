//! Reports, which are stored before they are published.

use super::{
    id, messages,
    messages::{data_of, message},
    timestamp,
};
use contract::chat::{Data, Message, Reported};
use contract::{MessageId, Timestamp, UserId};
use service::postgres;
use sqlx::{PgConnection, PgExecutor, Row, postgres::PgRow};
use std::collections::HashMap;

/// A message by its id alone, if the user is a participant of its conversation.
pub async fn message_seen_by(
    db: impl PgExecutor<'_>,
    message_id: MessageId,
    user: UserId,
) -> sqlx::Result<Option<Message>> {
    let row = postgres::query(
        "select m.* from messages m
         join participants p on p.conversation_id = m.conversation_id and p.user_id = $2
         where m.message_id = $1",
    )
    .bind(message_id.get())
    .bind(user.get())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(message).transpose()
}

/// Stores a report, with a copy of the message.
pub async fn report(
    db: impl PgExecutor<'_>,
    reporter: UserId,
    user: UserId,
    message: Option<&Message>,
    reason: &str,
) -> sqlx::Result<(i64, Timestamp)> {
    let row = postgres::query(
        "insert into reports (reporter_id, user_id, conversation_id, message_id, content, kind, data, reason)
         values ($1, $2, $3, $4, $5, $6, $7, $8) returning report_id, created_at",
    )
    .bind(reporter.get())
    .bind(user.get())
    .bind(message.map(|message| message.conversation_id.get()))
    .bind(message.map(|message| message.message_id.get()))
    .bind(message.map(|message| message.content.as_str()))
    .bind(message.and_then(|message| message.kind.as_deref()))
    .bind(message.and_then(|message| message.data.as_ref()).map(Data::get))
    .bind(reason)
    .fetch_one(db)
    .await?;
    Ok((row.try_get("report_id")?, timestamp(&row, "created_at")?))
}

/// Locks up to `limit` unpublished reports that are older than this and that no other replica is publishing. Their messages
/// are as they were reported.
pub async fn lock_unpublished(
    db: &mut PgConnection,
    older_than_secs: f64,
    limit: i64,
) -> sqlx::Result<Vec<Reported>> {
    let rows = postgres::query(
        "select * from reports where not told and created_at < clock_timestamp() - make_interval(secs => $1)
         order by report_id limit $2 for update skip locked",
    )
    .bind(older_than_secs)
    .bind(limit)
    .fetch_all(&mut *db)
    .await?;
    let (mut conversations, mut ids) = (Vec::new(), Vec::new());
    for row in &rows {
        if let (Some(conversation), Some(message)) =
            (row.try_get::<Option<i64>, _>("conversation_id")?, row.try_get::<Option<i64>, _>("message_id")?)
        {
            conversations.push(conversation);
            ids.push(message);
        }
    }
    let found = messages(db, &conversations, &ids).await?;
    let found: HashMap<i64, Message> =
        found.into_iter().map(|message| (message.message_id.get(), message)).collect();
    rows.iter()
        .map(|row| {
            let message: Option<i64> = row.try_get("message_id")?;
            let message = message.and_then(|message| found.get(&message).cloned());
            let message = message.map(|message| as_reported(row, message)).transpose()?;
            Ok(Reported {
                report_id: row.try_get("report_id")?,
                reporter_id: id(row.try_get("reporter_id")?)?,
                user_id: id(row.try_get("user_id")?)?,
                message,
                reason: row.try_get("reason")?,
                created_at: timestamp(row, "created_at")?,
            })
        })
        .collect()
}

/// The message as it was at the time of its report. If it was changed later, the number of its change at that time is not
/// known.
fn as_reported(report: &PgRow, now: Message) -> sqlx::Result<Message> {
    let at = timestamp(report, "created_at")?;
    let is_changed = [now.edited_at, now.deleted_at].into_iter().flatten().any(|change| change > at);
    let deletion = now.deleted_at.filter(|deletion| *deletion <= at);
    // A report of an earlier release has no kind and no data.
    let data = if report.try_get::<Option<&str>, _>("kind")?.is_some() { data_of(report)? } else { now.data };
    Ok(Message {
        client_id: None,
        content: report.try_get::<Option<String>, _>("content")?.unwrap_or_default(),
        data,
        change: now.change.filter(|_| !is_changed),
        edited_at: now.edited_at.filter(|edit| *edit <= at),
        deleted_at: deletion,
        deleted_by: now.deleted_by.filter(|_| deletion.is_some()),
        ..now
    })
}

/// Marks reports as published to JetStream.
pub async fn mark_published(db: impl PgExecutor<'_>, reports: &[i64]) -> sqlx::Result<()> {
    postgres::query("update reports set told = true where report_id = any ($1)")
        .bind(reports)
        .execute(db)
        .await?;
    Ok(())
}
