//! Fills a database with conversations as if they had been held: for questions whose cost must not grow with what is
//! stored.

use anyhow::Context;
use sqlx::{Executor, PgConnection};

/// Messages of one statement.
const STEP: u64 = 200_000;

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Conversations.
    pub conversations: u64,
    /// People of each; nobody is in two.
    pub people: u64,
    /// Messages over all, shared out evenly, the people of a conversation sending in turn.
    pub messages: u64,
}

/// What was stored. Ids are without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeded {
    /// The first conversation.
    pub first_conversation: i64,
    /// The first user; those of the next conversation follow those of this one.
    pub first_user: i64,
    /// The first message.
    pub first_message: i64,
    /// The last message.
    pub last_message: i64,
    /// Messages over all.
    pub messages: u64,
}

/// Stores conversations in chat-service's schema as it would have, everyone having read up to what they last sent.
/// The messages are those of all conversations in turn, so ids grow with time as they do in life.
///
/// # Errors
/// When the database doesn't have the schema, or doesn't take it.
pub async fn fill(
    connection: &mut PgConnection,
    shape: Shape,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<Seeded> {
    let (conversations, people) = (i64::try_from(shape.conversations)?, i64::try_from(shape.people)?);
    let messages = i64::try_from(shape.messages)?;
    connection.execute("set search_path to chat").await?;
    connection.execute("set synchronous_commit to off").await?;
    let first_message = first_numbers(connection, "message_ids", messages + conversations).await?;
    let first_conversation =
        first_numbers(connection, "conversations_conversation_id_seq", conversations).await?;
    let first_user = crate::world::new_users();

    // The message of place i, from 0, is number i / conversations of conversation i % conversations.
    let last_seq = "($5 - n - 1 + $4) / $4"; // How many the n-th conversation has.
    let heads = format!(
        "insert into conversations (conversation_id, people, last_seq, last_message_id, activity)
         select $1 + n, sha256(convert_to('seed ' || $1 || ' ' || n, 'UTF8')), l.seq,
                case when l.seq > 0 then $2 + (l.seq - 1) * $4 + n else 0 end,
                case when l.seq > 0 then $2 + (l.seq - 1) * $4 + n else $2 + $5 + n end
         from generate_series(0, $4 - 1) n, lateral (select {last_seq} as seq) l where $3 > 0 and $6 > 0"
    );
    // Person k sends the messages whose seq is k + 1 modulo the number of people.
    let everyone = format!(
        "insert into participants (conversation_id, user_id, read_seq, read_message_id, read_at, read_by_sending)
         select $1 + n, $3 + n * $6 + k, r.seq, case when r.seq > 0 then $2 + (r.seq - 1) * $4 + n else 0 end,
                case when r.seq > 0 then clock_timestamp() end, r.seq > 0
         from generate_series(0, $4 - 1) n, generate_series(0, $6 - 1) k,
              lateral (select {last_seq} as seq) l,
              lateral (select case when l.seq > k then l.seq - (l.seq - 1 - k) % $6 else 0 end as seq) r"
    );
    for statement in [heads, everyone] {
        let query = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(first_conversation)
            .bind(first_message)
            .bind(first_user)
            .bind(conversations)
            .bind(messages);
        let query = query.bind(people);
        query.execute(&mut *connection).await.context("store conversations")?;
    }
    let mut done = 0;
    while done < messages {
        let end = messages.min(done + i64::try_from(STEP)?);
        sqlx::query(
            "insert into messages (conversation_id, message_id, seq, sender_id, sender_username, content, client_id,
                                   created_at)
             select $1 + n, $2 + i, s + 1, $3 + n * $6 + s % $6, 'user-' || $3 + n * $6 + s % $6,
                    'Message ' || s + 1 || ', as long as such messages usually are between people.', 'seed-' || s,
                    now() - ($5 - i) * interval '1 second'
             from generate_series($7, $8 - 1) i, lateral (select i % $4 as n, i / $4 as s) p",
        )
        .bind(first_conversation)
        .bind(first_message)
        .bind(first_user)
        .bind(conversations)
        .bind(messages)
        .bind(people)
        .bind(done)
        .bind(end)
        .execute(&mut *connection)
        .await
        .context("store messages")?;
        done = end;
        progress(u64::try_from(done)?);
    }
    connection.execute("analyze conversations, participants, messages").await?;
    Ok(Seeded {
        first_conversation,
        first_user,
        first_message,
        last_message: first_message + messages - 1,
        messages: shape.messages,
    })
}

/// Stores notifications for each of so many users, in notify-service's schema as it would have: the last one unread. How
/// far they have read their conversations, which [`fill`] has stored, is known there, too.
///
/// # Errors
/// When the database doesn't have the schema, or doesn't take it.
pub async fn fill_inboxes(
    connection: &mut PgConnection,
    first_user: i64,
    users: u64,
    each: u64,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<()> {
    let (users, each) = (i64::try_from(users)?, i64::try_from(each)?);
    if each == 0 {
        return Ok(());
    }
    connection.execute("set search_path to notify").await?;
    let first = first_numbers(connection, "notification_ids", users * each).await?;
    let inboxes = "insert into inboxes (user_id, last_seq, last_id, unread_count)
                   select $1 + n, $4, $2 + ($4 - 1) * $3 + n, 1 from generate_series(0, $3 - 1) n";
    let inboxes = sqlx::query(inboxes).bind(first_user).bind(first).bind(users).bind(each);
    inboxes.execute(&mut *connection).await.context("store inboxes")?;
    let markers = "insert into markers (user_id, conversation_id, message_id)
                   select user_id, conversation_id, read_message_id from chat.participants
                   where user_id >= $1 and user_id < $1 + $2 and read_message_id > 0";
    let markers = sqlx::query(markers).bind(first_user).bind(users);
    markers.execute(&mut *connection).await.context("store markers")?;
    let (mut done, all) = (0, users * each);
    while done < all {
        let end = all.min(done + i64::try_from(STEP)?);
        sqlx::query(
            "insert into notifications (user_id, notification_id, seq, type, title, message, data, event_key,
                                        created_at, read_at)
             select $1 + n, $2 + i, s + 1, 'payment_completed', 'Paiement confirmé',
                    'Votre paiement a été traité', '{\"payment_id\": 789}', 'seed-' || s,
                    now() - ($3 * $4 - i) * interval '1 second',
                    case when s + 1 < $4 then now() end
             from generate_series($5, $6 - 1) i, lateral (select i % $3 as n, i / $3 as s) p",
        )
        .bind(first_user)
        .bind(first)
        .bind(users)
        .bind(each)
        .bind(done)
        .bind(end)
        .execute(&mut *connection)
        .await
        .context("store notifications")?;
        done = end;
        progress(u64::try_from(done)?);
    }
    connection.execute("analyze inboxes, notifications, markers").await?;
    Ok(())
}

/// The first of so many numbers of a sequence; whoever draws from it later is given none of them.
async fn first_numbers(connection: &mut PgConnection, sequence: &str, count: i64) -> anyhow::Result<i64> {
    let taken = "select setval($1::regclass, nextval($1::regclass) + $2) - $2";
    let taken = sqlx::query_scalar(taken).bind(sequence).bind(count);
    taken.fetch_one(connection).await.context("find free numbers")
}
