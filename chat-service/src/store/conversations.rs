//! Conversations: opening and listing them.

use super::{
    id, messages,
    mine::{mine, muted_until},
    timestamp,
};
use contract::{ConversationId, MessageId, UserId};
use contract::{
    chat::{
        Conversation, ConversationOpened, CreateConversation, DescribedMessage, ListConversations, Message,
        Participant,
    },
    log::Range,
};
use service::postgres::{self, Pool};
use sqlx::{PgExecutor, Row, postgres::PgRow};
use std::collections::HashMap;

/// A conversation that was requested.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    pub conversation_id: ConversationId,
    /// Whether the request created it.
    pub is_new: bool,
    /// Row of the outbox, if it is new and to be published.
    pub outbox_id: Option<i64>,
}

/// Opens the conversation of these users about this listing. Both lists have the same order. If it is new and
/// `is_published` is set, the outbox has a row of it.
pub async fn open_conversation(
    pool: &Pool,
    users: &[i64],
    usernames: &[Option<String>],
    request: &CreateConversation,
    is_published: bool,
) -> sqlx::Result<Opening> {
    let mut transaction = pool.begin().await?;
    let mut outbox_id = None;
    let created: Option<i64> = postgres::query_scalar(
        "insert into conversations (listing_id, title, people)
         values ($1, $2, sha256(convert_to(format('%s|%s', $1, $3::bigint[]), 'UTF8')))
         on conflict (people) do nothing returning conversation_id",
    )
    .bind(request.listing_id)
    .bind(&request.title)
    .bind(users)
    .fetch_optional(&mut *transaction)
    .await?;
    let conversation: i64 = match created {
        Some(conversation) => {
            postgres::query(
                "insert into participants (conversation_id, user_id) select $1, unnest($2::bigint[])",
            )
            .bind(conversation)
            .bind(users)
            .execute(&mut *transaction)
            .await?;
            if is_published {
                let query = "insert into outbox (conversation_ids, message_ids) values (array[$1], '{}') returning id";
                let id = postgres::query_scalar(query).bind(conversation).fetch_one(&mut *transaction);
                outbox_id = Some(id.await?);
            }
            conversation
        }
        None => {
            postgres::query_scalar(
                "select conversation_id from conversations
                 where people = sha256(convert_to(format('%s|%s', $1::bigint, $2::bigint[]), 'UTF8'))",
            )
            .bind(request.listing_id)
            .bind(users)
            .fetch_one(&mut *transaction)
            .await?
        }
    };
    postgres::query(
        "insert into users as u (user_id, username)
         select * from unnest($1::bigint[], $2::text[]) as n (user_id, username) where n.username is not null
         on conflict (user_id) do update set username = excluded.username where u.username <> excluded.username",
    )
    .bind(users)
    .bind(usernames)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Opening { conversation_id: id(conversation)?, is_new: created.is_some(), outbox_id })
}

/// The event of a new conversation. `None` if it doesn't exist.
pub async fn opened(pool: &Pool, conversation: ConversationId) -> sqlx::Result<Option<ConversationOpened>> {
    let row = postgres::query(
        "select listing_id, created_at, array(
             select user_id from participants p where p.conversation_id = c.conversation_id order by user_id
         ) as users
         from conversations c where conversation_id = $1",
    )
    .bind(conversation.get())
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let users: Vec<i64> = row.try_get("users")?;
    let users = users.into_iter().map(id).collect::<sqlx::Result<_>>()?;
    let created_at = timestamp(&row, "created_at")?;
    Ok(Some(ConversationOpened::new(conversation, row.try_get("listing_id")?, users, created_at)))
}

/// The position of a conversation in a list.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    pub id: i64,
    /// Sort key of lists.
    pub activity: i64,
}

impl Listed {
    /// The cursor of the next page, if this conversation is the last of a page.
    pub const fn cursor(self) -> i64 {
        -self.activity
    }
}

/// A user's conversations, newest activity first (oldest first after a cursor). `limit` replaces the limit of the
/// request.
pub async fn list(
    db: impl PgExecutor<'_>,
    request: &ListConversations,
    limit: i64,
) -> sqlx::Result<Vec<Listed>> {
    let (query, from) = match request.range {
        Range::Newest => (LIST_BEFORE, None),
        Range::Before(id) => (LIST_BEFORE, Some(id)),
        Range::After(id) => (LIST_AFTER, Some(id)),
    };
    let rows = postgres::query(query)
        .bind(request.user_id.get())
        .bind(from)
        .bind(limit)
        .bind(request.archived)
        .bind(request.pinned)
        .fetch_all(db)
        .await?;
    let listed =
        |row: &PgRow| Ok(Listed { id: row.try_get("conversation_id")?, activity: row.try_get("activity")? });
    rows.iter().map(listed).collect()
}

/// A cursor is either a conversation of the user or a negated activity. A conversation may have moved in the list since
/// the last page; a negated activity stays where that page ended. A conversation of other users gives an empty page, as
/// does one that doesn't exist.
const LIST_BEFORE: &str = "select c.conversation_id, c.activity
    from participants p join conversations c on c.conversation_id = p.conversation_id
    where p.user_id = $1 and (p.archived_seq is not null and is_archived(p, c)) = $4 and (p.pinned or not $5)
      and ($2::bigint is null or c.activity < case when $2 < 0 then -$2 else (
          select f.activity from conversations f join participants o on o.conversation_id = f.conversation_id
          where f.conversation_id = $2 and o.user_id = $1
      ) end)
    order by c.activity desc limit $3";

const LIST_AFTER: &str = "select c.conversation_id, c.activity
    from participants p join conversations c on c.conversation_id = p.conversation_id
    where p.user_id = $1 and (p.archived_seq is not null and is_archived(p, c)) = $4 and (p.pinned or not $5)
      and c.activity > case when $2 <= 0 then -$2 else (
          select f.activity from conversations f join participants o on o.conversation_id = f.conversation_id
          where f.conversation_id = $2 and o.user_id = $1
      ) end
    order by c.activity limit $3";

/// Conversations as a participant sees them, with the participant's own settings, in the order of the ids, without
/// those of other users.
pub async fn conversations(pool: &Pool, ids: &[i64], viewer: UserId) -> sqlx::Result<Vec<Conversation>> {
    let rows = postgres::query(concat!(
        "select c.*, c.last_seq - p.read_seq as unread, ",
        mine!(),
        " from conversations c
         join participants p on p.conversation_id = c.conversation_id and p.user_id = $2
         where c.conversation_id = any ($1)"
    ))
    .bind(ids)
    .bind(viewer.get())
    .fetch_all(pool)
    .await?;
    let last: Vec<i64> =
        rows.iter().map(|row| row.try_get("last_message_id")).collect::<sqlx::Result<_>>()?;
    let mine: Vec<i64> =
        rows.iter().map(|row| row.try_get("conversation_id")).collect::<sqlx::Result<_>>()?;
    let mut last: HashMap<i64, Message> =
        messages(pool, &mine, &last).await?.into_iter().map(|m| (m.conversation_id.get(), m)).collect();
    let mut participants_of = participants_of_each(pool, &mine).await?;
    let mut found = HashMap::new();
    for row in &rows {
        let conversation: i64 = row.try_get("conversation_id")?;
        let (participants, markers) = participants_of.remove(&conversation).unwrap_or_default();
        let last_message = last.remove(&conversation).map(|message| {
            let others = markers.iter().filter(|(user, _)| *user != message.sender_id.get());
            let is_read = others.clone().all(|(_, read_seq)| *read_seq >= message.seq);
            let client_id = message.client_id.filter(|_| message.sender_id == viewer);
            Message { is_read, client_id, ..message }
        });
        let entry = Conversation {
            conversation_id: id(conversation)?,
            listing_id: row.try_get("listing_id")?,
            title: row.try_get("title")?,
            created_at: timestamp(row, "created_at")?,
            participants,
            last_message,
            unread_count: row.try_get("unread")?,
            muted_until: muted_until(row)?,
            archived: row.try_get("archived")?,
            pinned: row.try_get("pinned")?,
        };
        found.insert(conversation, entry);
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// Messages with the listings of their conversations, and with their texts if `text` is set. Messages that don't exist
/// are left out.
pub async fn describe(
    pool: &Pool,
    wanted: &[(ConversationId, MessageId)],
    text: bool,
) -> sqlx::Result<Vec<DescribedMessage>> {
    let (of, ids): (Vec<i64>, Vec<i64>) =
        wanted.iter().map(|(conversation, message)| (conversation.get(), message.get())).unzip();
    let rows: Vec<(i64, Option<i64>)> = postgres::query_as(
        "select conversation_id, listing_id from conversations where conversation_id = any ($1)",
    )
    .bind(&of)
    .fetch_all(pool)
    .await?;
    let listings: HashMap<i64, Option<i64>> = rows.into_iter().collect();
    let described = |message: Message| DescribedMessage {
        message_id: message.message_id,
        listing_id: listings.get(&message.conversation_id.get()).copied().flatten(),
        seq: message.seq,
        created_at: message.created_at,
        text: text.then_some(message.content),
    };
    Ok(messages(pool, &of, &ids).await?.into_iter().map(described).collect())
}

/// Participants, and pairs of user and `read_seq`.
type Participants = (Vec<Participant>, Vec<(i64, i64)>);

async fn participants_of_each(
    db: impl PgExecutor<'_>,
    conversations: &[i64],
) -> sqlx::Result<HashMap<i64, Participants>> {
    let rows = postgres::query(
        "select p.conversation_id, p.user_id, p.read_seq, coalesce(u.username, 'user-' || p.user_id) as username
         from participants p left join users u on u.user_id = p.user_id
         where p.conversation_id = any ($1) order by p.conversation_id, p.user_id",
    )
    .bind(conversations)
    .fetch_all(db)
    .await?;
    let mut found: HashMap<i64, Participants> = HashMap::new();
    for row in &rows {
        let user: i64 = row.try_get("user_id")?;
        let (participants, markers) = found.entry(row.try_get("conversation_id")?).or_default();
        participants.push(Participant { user_id: id(user)?, username: row.try_get("username")? });
        markers.push((user, row.try_get("read_seq")?));
    }
    Ok(found)
}
