//! Messages: storing batches and reading pages.

use super::{People, id, time_of, timestamp};
use contract::{ConversationId, Deadline, MessageId};
use contract::{
    chat::{Data, DeletedBy, Message, Send},
    log::Range,
};
use serde_json::value::RawValue;
use service::postgres;
use sqlx::{PgExecutor, Row, postgres::PgRow};
use std::collections::HashMap;
use time::OffsetDateTime;

/// Outcome of one message of a batch.
#[derive(Debug)]
pub enum Outcome {
    /// The message is stored. The first message of each conversation in a batch comes with the participants.
    Stored(Message, Option<People>),
    /// The message was already stored, in this form; the fields of its changes are missing.
    Repeated(Message),
    /// The sender isn't a participant, or the conversation doesn't exist.
    Forbidden,
    /// In a conversation of two, the other participant blocks the sender.
    Blocked,
    /// The conversation has no message with the id to which this one replies.
    NoOriginal,
    /// Another transaction has locked the conversation, so the message is not stored.
    Busy,
    /// The deadline has passed, so the message is not stored.
    Late,
}

/// Outcome of a batch.
#[derive(Debug)]
pub struct Batch {
    /// In the order of the messages.
    pub outcomes: Vec<Outcome>,
    /// Id of the outbox row, if any message was stored.
    pub outbox_id: Option<i64>,
}

/// Stores messages, each before its deadline, in one commit. Repeating it is harmless, because each send has a
/// `client_id`.
///
/// With `wait`, waits for conversations that another transaction has locked. Otherwise their messages are
/// [`Outcome::Busy`].
pub async fn store_messages(
    db: impl PgExecutor<'_>,
    sends: &[(&Send, Deadline)],
    wait: bool,
) -> sqlx::Result<Batch> {
    let mut firsts = HashMap::with_capacity(sends.len());
    let mut distinct: Vec<&Send> = Vec::with_capacity(sends.len());
    let mut deadlines: Vec<OffsetDateTime> = Vec::with_capacity(sends.len());
    // For each send: the index of the first send with the same key, and whether it is that send.
    let indexes: Vec<(usize, bool)> = sends
        .iter()
        .map(|&(send, deadline)| {
            let key = (send.conversation_id, send.sender_id, send.client_id.as_deref());
            let index = *firsts.entry(key).or_insert(distinct.len());
            let is_first = index == distinct.len();
            if is_first {
                distinct.push(send);
                deadlines.push(to_postgres(deadline));
            }
            (index, is_first)
        })
        .collect();
    let column = |of: fn(&Send) -> i64| distinct.iter().map(|send| of(send)).collect::<Vec<i64>>();
    let rows = postgres::query(STORE)
        .bind(column(|send| send.conversation_id.get()))
        .bind(column(|send| send.sender_id.get()))
        .bind(distinct.iter().map(|send| send.sender_username.as_deref()).collect::<Vec<_>>())
        .bind(distinct.iter().map(|send| send.sender_named_at).collect::<Vec<_>>())
        .bind(distinct.iter().map(|send| send.message.as_str()).collect::<Vec<_>>())
        .bind(distinct.iter().map(|send| send.client_id.as_deref().unwrap_or_default()).collect::<Vec<_>>())
        .bind(deadlines)
        .bind(wait)
        .bind(optional(&distinct, |send| send.kind.as_deref()))
        .bind(optional(&distinct, |send| send.data.as_ref().map(Data::get)))
        .bind(optional(&distinct, |send| send.reply_to.map(MessageId::get)))
        .bind(optional(&distinct, |send| send.system.then_some(true)))
        .fetch_all(db)
        .await?;
    if rows.len() != distinct.len() {
        return Err(sqlx::Error::Protocol(format!("{} rows for {} messages", rows.len(), distinct.len())));
    }
    let outbox_id = rows.first().map(|row| row.try_get("outbox_id")).transpose()?.flatten();
    let outcome = |&(index, is_first): &(usize, bool)| {
        let outcome = outcome(&rows[index], distinct[index])?;
        Ok(match outcome {
            Outcome::Stored(message, _) if !is_first => Outcome::Repeated(message),
            outcome => outcome,
        })
    };
    let outcomes = indexes.iter().map(outcome).collect::<sqlx::Result<_>>()?;
    Ok(Batch { outcomes, outbox_id })
}

const STORE: &str = "select s.*, case when s.recipients is not null then array(
        select p.user_id from participants p
        where p.conversation_id = ($1::bigint[])[s.ord] and p.muted_until > s.created_at
    ) end as muted
    from store_messages($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) s";

/// A column that few messages have a value in: empty if none has, because the function fills it up with null.
fn optional<'a, T>(sends: &[&'a Send], of: impl Fn(&'a Send) -> Option<T>) -> Vec<Option<T>> {
    let values: Vec<_> = sends.iter().map(|send| of(send)).collect();
    if values.iter().all(Option::is_none) { Vec::new() } else { values }
}

fn outcome(row: &PgRow, send: &Send) -> sqlx::Result<Outcome> {
    let kind: &str = row.try_get("outcome")?;
    match kind {
        "forbidden" => return Ok(Outcome::Forbidden),
        "blocked" => return Ok(Outcome::Blocked),
        "no_original" => return Ok(Outcome::NoOriginal),
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
        kind: send.kind.clone(),
        data: send.data.clone(),
        reply_to: send.reply_to,
        system: send.system,
        change: None,
        edited_at: None,
        deleted_at: None,
        deleted_by: None,
    };
    if kind == "repeated" {
        return Ok(Outcome::Repeated(message));
    }
    let all: Option<Vec<i64>> = row.try_get("recipients")?;
    let people = all.map(|all| People::of(all, row.try_get("muted")?)).transpose()?;
    Ok(Outcome::Stored(message, people))
}

/// Messages of a conversation. The caller sets `is_read` with [`Members::is_read`].
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
    let rows = postgres::query(query).bind(conversation.get()).bind(from).bind(limit).fetch_all(db).await?;
    rows.iter().map(message).collect()
}

const PAGE_BEFORE: &str =
    "select * from messages where conversation_id = $1 and message_id < $2 order by message_id desc limit $3";

const PAGE_AFTER: &str =
    "select * from messages where conversation_id = $1 and message_id > $2 order by message_id limit $3";

/// Messages of a conversation between two ids, oldest first. The caller sets `is_read` with [`Members::is_read`].
pub async fn between(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    after: i64,
    before: MessageId,
    limit: i64,
) -> sqlx::Result<Vec<Message>> {
    let rows = postgres::query(
        "select * from messages where conversation_id = $1 and message_id > $2 and message_id < $3
         order by message_id limit $4",
    )
    .bind(conversation.get())
    .bind(after)
    .bind(before.get())
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter().map(message).collect()
}

/// Messages by their keys, ordered by id.
pub async fn messages(
    db: impl PgExecutor<'_>,
    conversations: &[i64],
    messages: &[i64],
) -> sqlx::Result<Vec<Message>> {
    let rows = postgres::query(
        // Compared as rows, the keys match only one index. Otherwise, if most conversations are short, Postgres might
        // use the other index and read all of a long conversation.
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

/// A conversation, a sender and a `client_id`.
pub type SentKey = (i64, i64, String);

/// The messages with these keys, each with the index of its key.
pub async fn sent(db: impl PgExecutor<'_>, keys: &[&SentKey]) -> sqlx::Result<Vec<(usize, Message)>> {
    let rows = postgres::query(
        "select k.ord, m.*, not exists (
             select from participants p
             where p.conversation_id = m.conversation_id and p.user_id <> m.sender_id and p.read_seq < m.seq
         ) as is_read
         from unnest($1::bigint[], $2::bigint[], $3::text[]) with ordinality
             as k (conversation_id, sender_id, client_id, ord)
         cross join lateral (
             select * from messages m
             where m.conversation_id = k.conversation_id and m.sender_id = k.sender_id and m.client_id = k.client_id
             limit 1
         ) m",
    )
    .bind(keys.iter().map(|(conversation, ..)| *conversation).collect::<Vec<_>>())
    .bind(keys.iter().map(|(_, sender, _)| *sender).collect::<Vec<_>>())
    .bind(keys.iter().map(|(.., client_id)| client_id.as_str()).collect::<Vec<_>>())
    .fetch_all(db)
    .await?;
    let found = |row: &PgRow| {
        let index = usize::try_from(row.try_get::<i64, _>("ord")? - 1).unwrap_or_default();
        Ok((index, Message { is_read: row.try_get("is_read")?, ..message(row)? }))
    };
    rows.iter().map(found).collect()
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
        kind: row.try_get("kind")?,
        data: data_of(row)?,
        reply_to: row.try_get::<Option<i64>, _>("reply_to")?.map(id).transpose()?,
        system: row.try_get::<Option<bool>, _>("system")?.unwrap_or_default(),
        change: Some(row.try_get("change")?).filter(|change| *change > 0),
        edited_at: time_of(row, "edited_at")?,
        deleted_at: time_of(row, "deleted_at")?,
        deleted_by: deleter(row)?,
    })
}

/// Parses the column `data`.
pub fn data_of(row: &PgRow) -> sqlx::Result<Option<Data>> {
    let json: Option<String> = row.try_get("data")?;
    let data = |json| RawValue::from_string(json).map(Data::new);
    json.map(data).transpose().map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Parses the column `deleted_by`.
fn deleter(row: &PgRow) -> sqlx::Result<Option<DeletedBy>> {
    let text: Option<&str> = row.try_get("deleted_by")?;
    let deleter = |text| {
        [DeletedBy::Sender, DeletedBy::Moderation, DeletedBy::Erasure]
            .into_iter()
            .find(|deleter| deleter_text(*deleter) == text)
            .ok_or_else(|| sqlx::Error::Protocol(format!("the deleter {text:?}")))
    };
    text.map(deleter).transpose()
}

/// The value of the column `deleted_by`.
pub const fn deleter_text(deleter: DeletedBy) -> &'static str {
    match deleter {
        DeletedBy::Sender => "sender",
        DeletedBy::Moderation => "moderation",
        DeletedBy::Erasure => "erasure",
    }
}

/// Converts a deadline for Postgres. One that never passes becomes a time later than any message.
fn to_postgres(deadline: Deadline) -> OffsetDateTime {
    let nanos = i128::from(deadline.unix_ms()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH + time::Duration::days(365 * 1_000))
}
