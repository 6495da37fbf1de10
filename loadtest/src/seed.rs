//! Fills a database with conversations, for measurements of requests whose cost must not grow with the stored data.

use anyhow::Context;
use sqlx::{Executor, PgConnection};

/// Number of rows of one statement.
const STEP: u64 = 200_000;

/// Amount of data to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub conversations: u64,
    /// Number of participants of each conversation. No user is in two.
    pub people: u64,
    /// Total number of messages, distributed evenly. The participants of a conversation take turns in sending.
    pub messages: u64,
}

/// The stored data. Its ids have no gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeded {
    pub first_conversation: i64,
    /// Id of the first user. The users of each conversation directly follow those of the previous one.
    pub first_user: i64,
    pub first_message: i64,
    pub last_message: i64,
    /// Total number of messages.
    pub messages: u64,
}

/// Stores conversations in chat-service's schema, in the form in which it would store them. Each participant has read
/// up to their own last message. The conversations take turns in getting messages, so that ids grow with time as usual.
///
/// # Errors
/// If the schema is missing, or a statement fails.
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

    // Message i, counted from 0, is number i / conversations of conversation i % conversations.
    let last_seq = "($5 - n - 1 + $4) / $4"; // Number of messages of the n-th conversation.
    let heads = format!(
        "insert into conversations (conversation_id, people, last_seq, last_message_id, activity)
         select $1 + n, sha256(convert_to('seed ' || $1 || ' ' || n, 'UTF8')), l.seq,
                case when l.seq > 0 then $2 + (l.seq - 1) * $4 + n else 0 end,
                case when l.seq > 0 then $2 + (l.seq - 1) * $4 + n else $2 + $5 + n end
         from generate_series(0, $4 - 1) n, lateral (select {last_seq} as seq) l where $3 > 0 and $6 > 0"
    );
    // Participant k sends the messages whose seq is k + 1 modulo the number of participants.
    let participants = format!(
        "insert into participants (conversation_id, user_id, read_seq, read_message_id, read_at, read_by_sending)
         select $1 + n, $3 + n * $6 + k, r.seq, case when r.seq > 0 then $2 + (r.seq - 1) * $4 + n else 0 end,
                case when r.seq > 0 then clock_timestamp() end, r.seq > 0
         from generate_series(0, $4 - 1) n, generate_series(0, $6 - 1) k,
              lateral (select {last_seq} as seq) l,
              lateral (select case when l.seq > k then l.seq - (l.seq - 1 - k) % $6 else 0 end as seq) r"
    );
    for statement in [heads, participants] {
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

/// Stores notifications for each of these users in notify-service's schema, in the form in which it would store them;
/// only the last one is unread. Also stores the read markers of the conversations that [`fill`] has stored.
///
/// # Errors
/// If the schema is missing, or a statement fails.
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

/// Reserves `count` consecutive numbers of a sequence, and returns the first. Nobody else gets them.
async fn first_numbers(connection: &mut PgConnection, sequence: &str, count: i64) -> anyhow::Result<i64> {
    let taken = "select setval($1::regclass, nextval($1::regclass) + $2) - $2";
    let taken = sqlx::query_scalar(taken).bind(sequence).bind(count);
    taken.fetch_one(connection).await.context("reserve ids")
}
