//! Reads the stored data at the end: from Postgres, from JetStream, and over HTTP as users do.

use super::{
    erasures,
    reminders::{self, Wishes},
    stored::{Counts, FinalState, InboxRow, NoticeRow, Row},
    webhooks,
};
use crate::Stack;
use anyhow::Context;
use async_nats::jetstream;
use contract::{chat::Message, log::Head};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{Connection, PgConnection, Row as _};
use std::collections::BTreeMap;

/// Condition of the conversations without users who are erased.
macro_rules! of_others {
    () => {
        "conversation_id not in (select conversation_id from chat.participants where user_id >= 1000000)"
    };
}

/// Heads of all logs, and amount of pending work.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Heads of conversations.
    pub conversations: BTreeMap<i64, Head>,
    /// Heads of inboxes.
    pub inboxes: BTreeMap<i64, Head>,
    /// Number of the last change of each changed message, by conversation and `seq`.
    pub changes: BTreeMap<(i64, i64), i64>,
    /// Pending work: entries of the outbox, messages of streams.
    pub pending: BTreeMap<&'static str, u64>,
}

/// Reads the heads and the pending work. With `wishes`, reminders are part of it.
///
/// # Errors
/// If Postgres or NATS don't reply.
pub async fn ends(stack: &Stack, wishes: Option<Wishes>) -> anyhow::Result<Ends> {
    let mut database = PgConnection::connect(&stack.database.url()).await.context("connect to Postgres")?;
    let mut ends = Ends { conversations: heads(&mut database).await?, ..Ends::default() };
    let rows = sqlx::query("select user_id, last_seq, last_id from notify.inboxes").fetch_all(&mut database);
    for row in rows.await? {
        ends.inboxes.insert(row.try_get(0)?, Head { seq: row.try_get(1)?, id: row.try_get(2)? });
    }
    let rows = sqlx::query("select conversation_id, seq, change from chat.messages where change > 0")
        .fetch_all(&mut database);
    for row in rows.await? {
        ends.changes.insert((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?);
    }
    let outbox: i64 = sqlx::query_scalar("select count(*) from chat.outbox").fetch_one(&mut database).await?;
    ends.pending.insert("outbox", outbox.unsigned_abs());
    ends.pending.insert("erasures", erasures::pending(&mut database).await?);
    if let Some(wishes) = wishes {
        ends.pending.insert("reminders", reminders::pending(&mut database, wishes).await?);
    }
    let jetstream = jetstream::new(stack.backend().await);
    for name in [contract::streams::EVENTS_STREAM, contract::streams::CHAT_STREAM] {
        let mut stream = jetstream.get_stream(name).await.context("open a stream")?;
        let info = stream.info().await.context("read the state of a stream")?;
        ends.pending.insert(name, info.state.messages);
    }
    let telling: i64 =
        sqlx::query_scalar("select count(*) from notify.telling").fetch_one(&mut database).await?;
    ends.pending.insert("events for backends", telling.unsigned_abs());
    ends.pending.insert("deliveries of the webhook", webhooks::pending(&jetstream).await?);
    Ok(ends)
}

async fn heads(database: &mut PgConnection) -> anyhow::Result<BTreeMap<i64, Head>> {
    let rows = sqlx::query(concat!(
        "select conversation_id, last_seq, last_message_id from chat.conversations where ",
        of_others!()
    ))
    .fetch_all(database)
    .await?;
    let head = |row: &sqlx::postgres::PgRow| {
        Ok((row.try_get(0)?, Head { seq: row.try_get(1)?, id: row.try_get(2)? }))
    };
    rows.iter().map(head).collect()
}

/// Reads the complete final state.
///
/// # Errors
/// If a part of the stack doesn't reply.
pub async fn read(
    stack: &Stack,
    users: &[i64],
    conversations: &[(i64, Vec<i64>)],
) -> anyhow::Result<FinalState> {
    let mut state = stored(stack).await?;
    for (conversation, people) in conversations {
        let path = format!("/api/conversations/{conversation}/messages");
        state.histories.insert(*conversation, pages(stack, &path, people[0], "message_id").await?);
        state.changed.insert(*conversation, changed(stack, &path, people[0]).await?);
    }
    for user in users {
        let unread = stack.get("/api/unread", *user).await;
        let number = |key: &str| unread[key].as_i64().context("the count is missing");
        let listed: Vec<Value> = pages(stack, "/api/conversations", *user, "conversation_id").await?;
        let counts = Counts {
            conversations: number("conversations")?,
            messages: number("messages")?,
            notifications: number("notifications")?,
            listed: listed
                .iter()
                .filter_map(|item| Some((item["conversation_id"].as_i64()?, item["unread_count"].as_i64()?)))
                .collect(),
        };
        state.counts.insert(*user, counts);
        state.texts.extend(listed.iter().map(Value::to_string));
        state.pages.insert(*user, pages(stack, "/api/notifications", *user, "notification_id").await?);
    }
    let pages = state.pages.values().flatten().map(serde_json::to_string);
    let shown = state.histories.values().chain(state.changed.values()).flatten().map(serde_json::to_string);
    let texts: Vec<String> = pages.chain(shown).collect::<Result<_, _>>()?;
    state.texts.extend(texts);
    state.deadletters = deadletters(stack).await?;
    Ok(state)
}

/// All items of a list, read page by page, oldest first.
async fn pages<T: DeserializeOwned>(
    stack: &Stack,
    path: &str,
    user: i64,
    key: &str,
) -> anyhow::Result<Vec<T>> {
    let mut items = Vec::new();
    let mut after = 0;
    loop {
        let mut page = stack.get(&format!("{path}?limit=200&after={after}"), user).await;
        let found = page["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let Some(last) = found.last() else { return Ok(items) };
        after = last[key].as_i64().context("an item has no id")?;
        for item in found {
            items.push(serde_json::from_str(&item.to_string()).context("read an item")?);
        }
    }
}

/// All changed messages of a conversation, read page by page.
async fn changed(stack: &Stack, path: &str, user: i64) -> anyhow::Result<Vec<Message>> {
    let mut items: Vec<Message> = Vec::new();
    loop {
        let after = items.last().and_then(|last| last.change).unwrap_or_default();
        let mut page = stack.get(&format!("{path}?limit=200&changed_after={after}"), user).await;
        let found: Vec<Message> =
            serde_json::from_value(page["items"].take()).context("read changed messages")?;
        if found.is_empty() {
            return Ok(items);
        }
        items.extend(found);
    }
}

async fn stored(stack: &Stack) -> anyhow::Result<FinalState> {
    let mut database = PgConnection::connect(&stack.database.url()).await.context("connect to Postgres")?;
    let mut state = FinalState { heads: heads(&mut database).await?, ..FinalState::default() };
    let rows = sqlx::query(
        "select conversation_id, seq, message_id, sender_id, content, client_id, change,
                case when deleted_at is not null then deleted_by end
         from chat.messages where sender_id < $1 order by conversation_id, seq",
    );
    for row in rows.bind(erasures::FIRST).fetch_all(&mut database).await? {
        let deleted_by: Option<String> = row.try_get(7)?;
        state.messages.push(Row {
            conversation: row.try_get(0)?,
            seq: row.try_get(1)?,
            message_id: row.try_get(2)?,
            sender: row.try_get(3)?,
            content: row.try_get(4)?,
            client_id: row.try_get(5)?,
            change: row.try_get(6)?,
            deleted_by: deleted_by.map(|by| serde_json::from_value(by.into())).transpose()?,
            former: Vec::new(),
        });
    }
    former_texts(&mut database, &mut state).await?;
    let rows = sqlx::query(
        "select conversation_id, user_id, read_seq, read_message_id from chat.participants where user_id < $1",
    );
    for row in rows.bind(erasures::FIRST).fetch_all(&mut database).await? {
        state.markers.insert((row.try_get(0)?, row.try_get(1)?), (row.try_get(2)?, row.try_get(3)?));
    }
    let mismatches = "select format('message %s: %s, %s', message_id, content, data) from chat.messages
                      where case when kind is null or deleted_at is not null then data is not null
                                 else data::json ->> 'text' is distinct from content end
                      union all
                      select format('version %s of message %s: %s, %s', change, message_id, content, data)
                      from chat.versions where data is not null and data::json ->> 'text' is distinct from content";
    state.mismatches = match sqlx::query_scalar(mismatches).fetch_all(&mut database).await {
        // A stack of the last release has no data.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42703") => Vec::new(),
        read => read?,
    };
    let left = "select format('entry %s of %s: messages %s of conversations %s', id, created_at, message_ids, conversation_ids)
                from chat.outbox order by id";
    state.outbox = sqlx::query_scalar(left).fetch_all(&mut database).await?;
    notifications(&mut database, &mut state).await?;
    Ok(state)
}

async fn former_texts(database: &mut PgConnection, state: &mut FinalState) -> anyhow::Result<()> {
    let rows = sqlx::query(concat!(
        "select message_id, change, content from chat.versions where ",
        of_others!(),
        " order by message_id, change"
    ));
    let mut former: BTreeMap<i64, Vec<(i64, String)>> = BTreeMap::new();
    for row in rows.fetch_all(&mut *database).await? {
        former.entry(row.try_get(0)?).or_default().push((row.try_get(1)?, row.try_get(2)?));
    }
    for row in &mut state.messages {
        row.former = former.remove(&row.message_id).unwrap_or_default();
    }
    anyhow::ensure!(former.is_empty(), "former texts of unknown messages: {former:?}");
    let rows = sqlx::query(concat!(
        "select conversation_id, last_change from chat.conversations where ",
        of_others!()
    ))
    .fetch_all(database);
    for row in rows.await? {
        state.changes.insert(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(())
}

async fn notifications(database: &mut PgConnection, state: &mut FinalState) -> anyhow::Result<()> {
    let rows = sqlx::query(
        "select user_id, seq, notification_id, data::json ->> 'event', conversation_id, message_id, message_count,
                read_at is not null
         from notify.notifications where user_id < $1 order by user_id, seq",
    );
    for row in rows.bind(erasures::FIRST).fetch_all(&mut *database).await? {
        let conversation: Option<i64> = row.try_get(4)?;
        let stands_for = match conversation {
            Some(conversation) => Some((conversation, row.try_get(5)?, row.try_get(6)?)),
            None => None,
        };
        state.notifications.push(NoticeRow {
            user: row.try_get(0)?,
            seq: row.try_get(1)?,
            id: row.try_get(2)?,
            event: row.try_get(3)?,
            stands_for,
            is_read: row.try_get(7)?,
        });
    }
    // As JSON, because a stack of the last release lacks the last two columns.
    let rows = sqlx::query(
        "select user_id, last_seq, unread_count, coalesce((to_jsonb(i) ->> 'seen_id')::bigint, 0),
            coalesce((to_jsonb(i) ->> 'unseen_count')::bigint, 0)
         from notify.inboxes i where user_id < $1",
    );
    for row in rows.bind(erasures::FIRST).fetch_all(database).await? {
        let inbox = InboxRow {
            last_seq: row.try_get(1)?,
            unread_count: row.try_get(2)?,
            seen_id: row.try_get(3)?,
            unseen_count: row.try_get(4)?,
        };
        state.inboxes.insert(row.try_get(0)?, inbox);
    }
    Ok(())
}

async fn deadletters(stack: &Stack) -> anyhow::Result<Vec<String>> {
    let jetstream = jetstream::new(stack.backend().await);
    let mut stream =
        jetstream.get_stream(contract::streams::DEADLETTERS_STREAM).await.context("open the dead letters")?;
    let state = stream.info().await.context("read the state of the dead letters")?.state.clone();
    let mut bodies = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let body = stream.get_raw_message(sequence).await.context("read a dead letter")?.payload;
        bodies.push(String::from_utf8_lossy(&body).into_owned());
    }
    Ok(bodies)
}
