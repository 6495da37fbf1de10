//! Messages: storing batches of them, and reading pages.

use super::{id, timestamp};
use contract::{ConversationId, Deadline, UserId};
use contract::{
    chat::{Message, Send},
    log::Range,
};
use sqlx::{PgExecutor, Row, postgres::PgRow};
use std::collections::HashMap;
use time::OffsetDateTime;

/// What became of one message of a batch.
#[derive(Debug)]
pub enum Outcome {
    /// It is stored now. The first of its conversation in the batch brings along everyone who is in it.
    Stored(Message, Option<Vec<UserId>>),
    /// It was stored before, as this.
    Repeated(Message),
    /// The sender isn't in the conversation, or there is none.
    Forbidden,
    /// The other of two wants to hear nothing from the sender.
    Blocked,
    /// Another transaction has locked its conversation; nothing is stored.
    Busy,
    /// Its deadline has passed; nothing is stored.
    Late,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Batch {
    /// In the order of the messages.
    pub outcomes: Vec<Outcome>,
    /// What the outbox calls it, if anything was stored.
    pub outbox_id: Option<i64>,
}

/// Stores messages, each before its deadline, in one commit. Doing it again is harmless: every send has a `client_id`.
///
/// With `wait`, waits for conversations that another transaction has locked; otherwise those are [`Outcome::Busy`].
pub async fn store_messages(
    db: impl PgExecutor<'_>,
    sends: &[(&Send, Deadline)],
    wait: bool,
) -> sqlx::Result<Batch> {
    let mut firsts = HashMap::with_capacity(sends.len());
    let mut asked: Vec<&Send> = Vec::with_capacity(sends.len());
    let mut deadlines: Vec<OffsetDateTime> = Vec::with_capacity(sends.len());
    // Of each send, the place of the first one like it, and whether it is that.
    let places: Vec<(usize, bool)> = sends
        .iter()
        .map(|&(send, deadline)| {
            let key = (send.conversation_id, send.sender_id, send.client_id.as_deref());
            let place = *firsts.entry(key).or_insert(asked.len());
            let is_first = place == asked.len();
            if is_first {
                asked.push(send);
                deadlines.push(moment(deadline));
            }
            (place, is_first)
        })
        .collect();
    let column = |of: fn(&Send) -> i64| asked.iter().map(|send| of(send)).collect::<Vec<i64>>();
    let rows = sqlx::query("select * from store_messages($1, $2, $3, $4, $5, $6, $7, $8)")
        .bind(column(|send| send.conversation_id.get()))
        .bind(column(|send| send.sender_id.get()))
        .bind(asked.iter().map(|send| send.sender_username.as_deref()).collect::<Vec<_>>())
        .bind(asked.iter().map(|send| send.sender_named_at).collect::<Vec<_>>())
        .bind(asked.iter().map(|send| send.message.as_str()).collect::<Vec<_>>())
        .bind(asked.iter().map(|send| send.client_id.as_deref().unwrap_or_default()).collect::<Vec<_>>())
        .bind(deadlines)
        .bind(wait)
        .fetch_all(db)
        .await?;
    if rows.len() != asked.len() {
        return Err(sqlx::Error::Protocol(format!("{} answers for {} messages", rows.len(), asked.len())));
    }
    let outbox_id = rows.first().map(|row| row.try_get("outbox_id")).transpose()?.flatten();
    let outcome = |&(place, is_first): &(usize, bool)| {
        let outcome = outcome(&rows[place], asked[place])?;
        Ok(match outcome {
            Outcome::Stored(message, _) if !is_first => Outcome::Repeated(message),
            outcome => outcome,
        })
    };
    let outcomes = places.iter().map(outcome).collect::<sqlx::Result<_>>()?;
    Ok(Batch { outcomes, outbox_id })
}

fn outcome(row: &PgRow, send: &Send) -> sqlx::Result<Outcome> {
    let kind: &str = row.try_get("outcome")?;
    match kind {
        "forbidden" => return Ok(Outcome::Forbidden),
        "blocked" => return Ok(Outcome::Blocked),
        "busy" => return Ok(Outcome::Busy),
        "late" => return Ok(Outcome::Late),
        _ => {}
    }
    let message = Message {
        conversation_id: send.conversation_id,
        message_id: id(row.try_get("message_id")?)?,
        seq: row.try_get("seq")?,
        sender_id: send.sender_id,
        sender_username: row.try_get("sender_username")?,
        content: row.try_get("content")?,
        created_at: timestamp(row, "created_at")?,
        is_read: row.try_get("is_read")?,
        client_id: send.client_id.clone().and_then(Send::public_key),
    };
    if kind == "repeated" {
        return Ok(Outcome::Repeated(message));
    }
    let everyone: Option<Vec<i64>> = row.try_get("recipients")?;
    let everyone = everyone.map(|users| users.into_iter().map(id).collect()).transpose()?;
    Ok(Outcome::Stored(message, everyone))
}

/// Messages of a conversation. `is_read` is left to [`Members::is_read`].
pub async fn page(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    range: Range,
    limit: i64,
) -> sqlx::Result<Vec<Message>> {
    let (query, from) = match range {
        Range::Newest => (PAGE_BEFORE, i64::MAX),
        Range::Before(id) => (PAGE_BEFORE, id),
        Range::After(id) => (PAGE_AFTER, id),
    };
    let rows = sqlx::query(query).bind(conversation.get()).bind(from).bind(limit).fetch_all(db).await?;
    rows.iter().map(message).collect()
}

const PAGE_BEFORE: &str =
    "select * from messages where conversation_id = $1 and message_id < $2 order by message_id desc limit $3";

const PAGE_AFTER: &str =
    "select * from messages where conversation_id = $1 and message_id > $2 order by message_id limit $3";

/// Messages by their keys, in the order of ids.
pub async fn messages(
    db: impl PgExecutor<'_>,
    conversations: &[i64],
    messages: &[i64],
) -> sqlx::Result<Vec<Message>> {
    let rows = sqlx::query(
        // Compared as rows, the keys fit one index alone. Else Postgres might take the other one, where most conversations
        // are short, and read the whole of one that isn't.
        "select m.* from unnest($1::bigint[], $2::bigint[]) as k (conversation_id, message_id)
         cross join lateral (
             select * from messages m
             where (m.conversation_id, m.message_id) >= (k.conversation_id, k.message_id)
             order by m.conversation_id, m.message_id limit 1
         ) m
         where m.conversation_id = k.conversation_id and m.message_id = k.message_id
         order by m.message_id",
    )
    .bind(conversations)
    .bind(messages)
    .fetch_all(db)
    .await?;
    rows.iter().map(message).collect()
}

pub fn message(row: &PgRow) -> sqlx::Result<Message> {
    Ok(Message {
        conversation_id: id(row.try_get("conversation_id")?)?,
        message_id: id(row.try_get("message_id")?)?,
        seq: row.try_get("seq")?,
        sender_id: id(row.try_get("sender_id")?)?,
        sender_username: row.try_get("sender_username")?,
        content: row.try_get("content")?,
        created_at: timestamp(row, "created_at")?,
        is_read: false,
        client_id: Send::public_key(row.try_get("client_id")?),
    })
}

/// A deadline as Postgres knows it: later than any message for one that never passes.
fn moment(deadline: Deadline) -> OffsetDateTime {
    let nanos = i128::from(deadline.unix_ms()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH + time::Duration::days(365 * 1_000))
}
