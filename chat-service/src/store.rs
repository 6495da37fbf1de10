//! Every query of the chat tables.

pub mod reports;

use contract::chat::{
    Conversation, ConversationHead, CreateConversation, Enter, Head, Marker, Message, Participant, Range,
    Send, Unread,
};
use contract::{ConversationId, Deadline, MessageId, Seq, Timestamp, UserId};
use sqlx::{PgConnection, PgExecutor, PgPool, Row, postgres::PgRow};
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

/// A conversation's head, and everyone in it.
#[derive(Default)]
pub struct Members {
    head: Head,
    members: Vec<Member>,
}

struct Member {
    user_id: UserId,
    username: Option<String>,
    named_at: i64,
    read_seq: i64,
    read_message_id: i64,
    read_at: Option<Timestamp>,
    read_by_sending: bool,
    is_blocked: bool,
}

impl Members {
    fn add(&mut self, row: &PgRow) -> sqlx::Result<()> {
        self.head = Head { seq: row.try_get("last_seq")?, id: row.try_get("last_message_id")? };
        self.members.push(Member {
            user_id: id(row.try_get("user_id")?)?,
            username: row.try_get("username")?,
            named_at: row.try_get("named_at")?,
            read_seq: row.try_get("read_seq")?,
            read_message_id: row.try_get("read_message_id")?,
            read_at: row.try_get::<Option<OffsetDateTime>, _>("read_at")?.map(Timestamp::from),
            read_by_sending: row.try_get("read_by_sending")?,
            is_blocked: row.try_get("is_blocked")?,
        });
        Ok(())
    }

    /// The last message.
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Whether this user is in it.
    pub fn holds(&self, user: UserId) -> bool {
        self.members.iter().any(|member| member.user_id == user)
    }

    /// Whether there are two, one of whom the viewer blocks.
    pub fn is_other_blocked(&self) -> bool {
        self.members.len() == 2 && self.members.iter().any(|member| member.is_blocked)
    }

    /// The newer of the stored name of a user who is in it, and this one.
    pub fn newest_name<'a>(
        &'a self,
        user: UserId,
        claimed: Option<&'a str>,
        named_at: i64,
    ) -> Option<&'a str> {
        let member = self.members.iter().find(|member| member.user_id == user)?;
        let stored = member.username.as_deref();
        if named_at >= member.named_at { claimed.or(stored) } else { stored.or(claimed) }
    }

    /// Whether a name is to be remembered for a user who is in it: it is newer than the stored one, or it is as new and
    /// another.
    pub fn is_news(&self, user: UserId, username: &str, named_at: i64) -> bool {
        self.members.iter().find(|member| member.user_id == user).is_some_and(|member| {
            named_at > member.named_at
                || named_at == member.named_at && member.username.as_deref() != Some(username)
        })
    }

    /// Whether everyone but the sender has read a message.
    pub fn is_read(&self, message: &Message) -> bool {
        self.members
            .iter()
            .filter(|member| member.user_id != message.sender_id)
            .all(|member| member.read_seq >= message.seq)
    }

    /// How far those have read who have read anything.
    pub fn markers(&self, conversation: ConversationId) -> Vec<Marker> {
        let marker = |member: &Member| {
            Some(Marker {
                conversation_id: conversation,
                user_id: member.user_id,
                message_id: MessageId::new(member.read_message_id).ok()?,
                seq: member.read_seq,
                read_at: member.read_at?,
                unread_count: None,
                by_sending: member.read_by_sending,
            })
        };
        self.members.iter().filter_map(marker).collect()
    }
}

/// Head and members of a conversation, as a viewer sees them; without members, there is no such conversation.
pub async fn members(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    viewer: Option<UserId>,
) -> sqlx::Result<Members> {
    let rows = sqlx::query(
        "select c.last_seq, c.last_message_id, p.user_id, u.username, coalesce(u.named_at, 0) as named_at, p.read_seq, p.read_message_id, p.read_at,
                p.read_by_sending,
                exists (select from blocks b where b.user_id = $2 and b.blocked_id = p.user_id) as is_blocked
         from conversations c
         join participants p on p.conversation_id = c.conversation_id
         left join users u on u.user_id = p.user_id
         where c.conversation_id = $1",
    )
    .bind(conversation.get())
    .bind(viewer.map(UserId::get))
    .fetch_all(db)
    .await?;
    let mut members = Members::default();
    rows.iter().try_for_each(|row| members.add(row))?;
    Ok(members)
}

/// Head and members of the conversation of each who wants in, as they see it. For a connection with
/// [`postgres::PLANS`](service::postgres::PLANS).
pub async fn members_of_each(db: impl PgExecutor<'_>, entries: &[&Enter]) -> sqlx::Result<Vec<Members>> {
    let rows = sqlx::query(
        "select e.ord, c.last_seq, c.last_message_id, p.user_id, u.username, coalesce(u.named_at, 0) as named_at,
                p.read_seq, p.read_message_id, p.read_at,
                p.read_by_sending, b.user_id is not null as is_blocked
         from unnest($1::bigint[], $2::bigint[]) with ordinality as e (conversation_id, user_id, ord)
         join conversations c on c.conversation_id = e.conversation_id
         join participants p on p.conversation_id = e.conversation_id
         left join users u on u.user_id = p.user_id
         left join blocks b on b.user_id = e.user_id and b.blocked_id = p.user_id",
    )
    .bind(entries.iter().map(|entry| entry.conversation_id.get()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.user_id.get()).collect::<Vec<_>>())
    .fetch_all(db)
    .await?;
    let mut members: Vec<Members> = entries.iter().map(|_| Members::default()).collect();
    for row in &rows {
        let ord = usize::try_from(row.try_get::<i64, _>("ord")?).unwrap_or_default();
        let of_entry = ord.checked_sub(1).and_then(|index| members.get_mut(index));
        let of_entry = of_entry.ok_or_else(|| sqlx::Error::Protocol(format!("a member for entry {ord}")))?;
        of_entry.add(row)?;
    }
    Ok(members)
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

fn message(row: &PgRow) -> sqlx::Result<Message> {
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

/// A user's display name, and when the token that named it was issued (Unix seconds; 0 if that is unknown).
pub struct Named<'a> {
    /// The user.
    pub user_id: UserId,
    /// The name.
    pub username: &'a str,
    /// Its age.
    pub named_at: i64,
}

/// Remembers users' display names: of several names of one user the newest, of those that are as new the last.
pub async fn learn_usernames(db: impl PgExecutor<'_>, names: &[Named<'_>]) -> sqlx::Result<()> {
    sqlx::query(
        "insert into users as u (user_id, username, named_at)
         select distinct on (n.user_id) n.user_id, n.username, n.named_at
         from unnest($1::bigint[], $2::text[], $3::bigint[]) with ordinality as n (user_id, username, named_at, ord)
         order by n.user_id, n.named_at desc, n.ord desc
         on conflict (user_id) do update set username = excluded.username, named_at = excluded.named_at
         where excluded.named_at > u.named_at
            or excluded.named_at = u.named_at and u.username <> excluded.username",
    )
    .bind(names.iter().map(|named| named.user_id.get()).collect::<Vec<_>>())
    .bind(names.iter().map(|named| named.username).collect::<Vec<_>>())
    .bind(names.iter().map(|named| named.named_at).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

/// Everyone in these conversations.
pub async fn everyone(
    db: impl PgExecutor<'_>,
    conversations: &[i64],
) -> sqlx::Result<HashMap<ConversationId, Vec<UserId>>> {
    let rows = sqlx::query(
        "select conversation_id, array_agg(user_id order by user_id) as users from participants
         where conversation_id = any ($1) group by conversation_id",
    )
    .bind(conversations)
    .fetch_all(db)
    .await?;
    let entry = |row: &PgRow| {
        let users: Vec<i64> = row.try_get("users")?;
        Ok((id(row.try_get("conversation_id")?)?, users.into_iter().map(id).collect::<sqlx::Result<_>>()?))
    };
    rows.iter().map(entry).collect()
}

/// What moving a marker came to.
pub enum Marked {
    /// The marker is there now; with the name of its outbox entry, if it moved.
    At(Marker, Option<i64>),
    /// The user isn't in the conversation, or there is none.
    Forbidden,
    /// No such message in the conversation.
    NotFound,
}

/// Moves a user's marker forward to a message.
pub async fn mark_read(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    user: UserId,
    message: MessageId,
) -> sqlx::Result<Marked> {
    let row = sqlx::query(
        "select m.*, c.last_seq from mark_read($1, $2, $3) m left join conversations c on c.conversation_id = $1",
    )
        .bind(conversation.get())
        .bind(user.get())
        .bind(message.get())
        .fetch_optional(db)
        .await?;
    let Some(row) = row else { return Ok(Marked::Forbidden) };
    let Some(seq): Option<Seq> = row.try_get("seq")? else { return Ok(Marked::NotFound) };
    let last: Option<Seq> = row.try_get("last_seq")?;
    let marker = Marker {
        conversation_id: conversation,
        user_id: user,
        message_id: id(row.try_get("message_id")?)?,
        seq,
        read_at: timestamp(&row, "read_at")?,
        unread_count: last.map(|last| (last - seq).max(0)),
        by_sending: false,
    };
    Ok(Marked::At(marker, row.try_get("outbox_id")?))
}

/// One entry of the outbox.
pub struct Unsent {
    /// Its name.
    pub outbox_id: i64,
    /// The conversation of each message.
    pub conversations: Vec<i64>,
    /// The messages.
    pub messages: Vec<i64>,
    /// Whose marker moved to the one message, unless the messages were stored.
    pub reader: Option<i64>,
}

/// Locks some entries that nobody has sent for a while, and that no other replica is sending.
pub async fn lock_unsent(
    db: &mut PgConnection,
    older_than_secs: f64,
    limit: i64,
) -> sqlx::Result<Vec<Unsent>> {
    let rows = sqlx::query(
        "select id, conversation_ids, message_ids, reader from outbox
         where created_at < clock_timestamp() - make_interval(secs => $1)
         order by id limit $2 for update skip locked",
    )
    .bind(older_than_secs)
    .bind(limit)
    .fetch_all(db)
    .await?;
    let unsent = |row: &PgRow| {
        Ok(Unsent {
            outbox_id: row.try_get("id")?,
            conversations: row.try_get("conversation_ids")?,
            messages: row.try_get("message_ids")?,
            reader: row.try_get("reader")?,
        })
    };
    rows.iter().map(unsent).collect()
}

/// Takes entries out of the outbox.
pub async fn forget_sent(db: impl PgExecutor<'_>, outbox_ids: &[i64]) -> sqlx::Result<()> {
    sqlx::query("delete from outbox where id = any ($1)").bind(outbox_ids).execute(db).await?;
    Ok(())
}

/// Seconds since the oldest entry of the outbox was written; 0 when it is empty.
pub async fn outbox_age(db: impl PgExecutor<'_>) -> sqlx::Result<f64> {
    sqlx::query_scalar(
        "select coalesce(extract(epoch from clock_timestamp() - (
             select created_at from outbox order by id limit 1)), 0)::float8",
    )
    .fetch_one(db)
    .await
}

/// Where logs end, and how far they are read.
pub async fn heads(db: impl PgExecutor<'_>, conversations: &[i64]) -> sqlx::Result<Vec<ConversationHead>> {
    let rows = sqlx::query(
        "select c.conversation_id, c.last_seq,
                (select coalesce(sum(p.read_seq), 0)::bigint from participants p
                 where p.conversation_id = c.conversation_id) as read_sum
         from conversations c where c.conversation_id = any ($1)",
    )
    .bind(conversations)
    .fetch_all(db)
    .await?;
    let head = |row: &PgRow| {
        Ok(ConversationHead {
            conversation_id: id(row.try_get("conversation_id")?)?,
            seq: row.try_get("last_seq")?,
            read_sum: row.try_get("read_sum")?,
        })
    };
    rows.iter().map(head).collect()
}

/// The conversation of these people about this listing, and whether it is new. Both lists are sorted alike.
pub async fn open_conversation(
    pool: &PgPool,
    users: &[i64],
    usernames: &[Option<String>],
    wanted: &CreateConversation,
) -> sqlx::Result<(ConversationId, bool)> {
    let mut transaction = pool.begin().await?;
    let made: Option<i64> = sqlx::query_scalar(
        "insert into conversations (listing_id, title, people)
         values ($1, $2, sha256(convert_to(format('%s|%s', $1, $3::bigint[]), 'UTF8')))
         on conflict (people) do nothing returning conversation_id",
    )
    .bind(wanted.listing_id)
    .bind(&wanted.title)
    .bind(users)
    .fetch_optional(&mut *transaction)
    .await?;
    let conversation: i64 = match made {
        Some(conversation) => {
            sqlx::query(
                "insert into participants (conversation_id, user_id) select $1, unnest($2::bigint[])",
            )
            .bind(conversation)
            .bind(users)
            .execute(&mut *transaction)
            .await?;
            conversation
        }
        None => {
            sqlx::query_scalar(
                "select conversation_id from conversations
                 where people = sha256(convert_to(format('%s|%s', $1::bigint, $2::bigint[]), 'UTF8'))",
            )
            .bind(wanted.listing_id)
            .bind(users)
            .fetch_one(&mut *transaction)
            .await?
        }
    };
    sqlx::query(
        "insert into users as u (user_id, username)
         select * from unnest($1::bigint[], $2::text[]) as n (user_id, username) where n.username is not null
         on conflict (user_id) do update set username = excluded.username where u.username <> excluded.username",
    )
    .bind(users)
    .bind(usernames)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok((id(conversation)?, made.is_some()))
}

/// The place of a conversation in a list.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// The conversation.
    pub id: i64,
    /// What lists are sorted by.
    pub activity: i64,
}

impl Listed {
    /// The cursor of what comes after this in a list.
    pub const fn cursor(self) -> i64 {
        -self.activity
    }
}

/// A user's conversations, newest activity first (oldest first after a cursor).
pub async fn list(
    db: impl PgExecutor<'_>,
    user: UserId,
    range: Range,
    limit: i64,
) -> sqlx::Result<Vec<Listed>> {
    let (query, from) = match range {
        Range::Newest => (LIST_BEFORE, None),
        Range::Before(id) => (LIST_BEFORE, Some(id)),
        Range::After(id) => (LIST_AFTER, Some(id)),
    };
    let rows = sqlx::query(query).bind(user.get()).bind(from).bind(limit).fetch_all(db).await?;
    let listed =
        |row: &PgRow| Ok(Listed { id: row.try_get("conversation_id")?, activity: row.try_get("activity")? });
    rows.iter().map(listed).collect()
}

/// A cursor is a conversation of the user's, or the negative of an activity: unlike that of a conversation, which may
/// have moved since, it stays where the page ended. Beyond a conversation that isn't the user's, as beyond one that
/// doesn't exist, there is nothing.
const LIST_BEFORE: &str = "select c.conversation_id, c.activity
    from participants p join conversations c on c.conversation_id = p.conversation_id
    where p.user_id = $1
      and ($2::bigint is null or c.activity < case when $2 < 0 then -$2 else (
          select f.activity from conversations f join participants o on o.conversation_id = f.conversation_id
          where f.conversation_id = $2 and o.user_id = $1
      ) end)
    order by c.activity desc limit $3";
const LIST_AFTER: &str = "select c.conversation_id, c.activity
    from participants p join conversations c on c.conversation_id = p.conversation_id
    where p.user_id = $1
      and c.activity > case when $2 <= 0 then -$2 else (
          select f.activity from conversations f join participants o on o.conversation_id = f.conversation_id
          where f.conversation_id = $2 and o.user_id = $1
      ) end
    order by c.activity limit $3";

/// Conversations as a participant sees them, in the order of the ids; those that the user isn't in are left out.
pub async fn conversations(pool: &PgPool, ids: &[i64], viewer: UserId) -> sqlx::Result<Vec<Conversation>> {
    let rows = sqlx::query(
        "select c.*, c.last_seq - v.read_seq as unread from conversations c
         join participants v on v.conversation_id = c.conversation_id and v.user_id = $2
         where c.conversation_id = any ($1)",
    )
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
    let mut people = people(pool, &mine).await?;
    let mut found = HashMap::new();
    for row in &rows {
        let conversation: i64 = row.try_get("conversation_id")?;
        let (participants, markers) = people.remove(&conversation).unwrap_or_default();
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
        };
        found.insert(conversation, entry);
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// Names, and pairs of user and `read_seq`.
type People = (Vec<Participant>, Vec<(i64, i64)>);

async fn people(db: impl PgExecutor<'_>, conversations: &[i64]) -> sqlx::Result<HashMap<i64, People>> {
    let rows = sqlx::query(
        "select p.conversation_id, p.user_id, p.read_seq, coalesce(u.username, 'user-' || p.user_id) as username
         from participants p left join users u on u.user_id = p.user_id
         where p.conversation_id = any ($1) order by p.conversation_id, p.user_id",
    )
    .bind(conversations)
    .fetch_all(db)
    .await?;
    let mut people: HashMap<i64, People> = HashMap::new();
    for row in &rows {
        let user: i64 = row.try_get("user_id")?;
        let (participants, markers) = people.entry(row.try_get("conversation_id")?).or_default();
        participants.push(Participant { user_id: id(user)?, username: row.try_get("username")? });
        markers.push((user, row.try_get("read_seq")?));
    }
    Ok(people)
}

/// What a user has not read.
pub async fn unread(db: impl PgExecutor<'_>, user: UserId) -> sqlx::Result<Unread> {
    let row = sqlx::query(
        "select count(*) filter (where c.last_seq > p.read_seq) as conversations,
                coalesce(sum(c.last_seq - p.read_seq), 0)::bigint as messages
         from participants p join conversations c on c.conversation_id = p.conversation_id
         where p.user_id = $1",
    )
    .bind(user.get())
    .fetch_one(db)
    .await?;
    Ok(Unread { conversations: row.try_get("conversations")?, messages: row.try_get("messages")? })
}

/// Blocks a user.
pub async fn block(db: impl PgExecutor<'_>, user: UserId, blocked: UserId) -> sqlx::Result<()> {
    sqlx::query("insert into blocks (user_id, blocked_id) values ($1, $2) on conflict do nothing")
        .bind(user.get())
        .bind(blocked.get())
        .execute(db)
        .await?;
    Ok(())
}

/// Whether any of these users blocks a user.
pub async fn is_blocked_by_any(
    db: impl PgExecutor<'_>,
    user: UserId,
    others: &[UserId],
) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from blocks where user_id = any ($1) and blocked_id = $2)")
        .bind(others.iter().map(|other| other.get()).collect::<Vec<_>>())
        .bind(user.get())
        .fetch_one(db)
        .await
}

/// Blocks a user no longer.
pub async fn unblock(db: impl PgExecutor<'_>, user: UserId, blocked: UserId) -> sqlx::Result<()> {
    sqlx::query("delete from blocks where user_id = $1 and blocked_id = $2")
        .bind(user.get())
        .bind(blocked.get())
        .execute(db)
        .await?;
    Ok(())
}

/// Whom a user blocks, by id: upwards after one, else downwards.
pub async fn blocks(
    db: impl PgExecutor<'_>,
    user: UserId,
    range: Range,
    limit: i64,
) -> sqlx::Result<Vec<Participant>> {
    let (query, from) = match range {
        Range::Newest => (BLOCKS_BEFORE, i64::MAX),
        Range::Before(id) => (BLOCKS_BEFORE, id),
        Range::After(id) => (BLOCKS_AFTER, id),
    };
    let rows = sqlx::query(query).bind(user.get()).bind(from).bind(limit).fetch_all(db).await?;
    let blocked = |row: &PgRow| {
        Ok(Participant { user_id: id(row.try_get("blocked_id")?)?, username: row.try_get("username")? })
    };
    rows.iter().map(blocked).collect()
}

const BLOCKS_BEFORE: &str = "select b.blocked_id, coalesce(u.username, 'user-' || b.blocked_id) as username
    from blocks b left join users u on u.user_id = b.blocked_id
    where b.user_id = $1 and b.blocked_id < $2 order by b.blocked_id desc limit $3";
const BLOCKS_AFTER: &str = "select b.blocked_id, coalesce(u.username, 'user-' || b.blocked_id) as username
    from blocks b left join users u on u.user_id = b.blocked_id
    where b.user_id = $1 and b.blocked_id > $2 order by b.blocked_id limit $3";

/// The conversations in which a user is alone with another.
pub async fn conversations_of_two(
    db: impl PgExecutor<'_>,
    user: UserId,
    other: UserId,
) -> sqlx::Result<Vec<ConversationId>> {
    let ids: Vec<i64> = sqlx::query_scalar(
        "select a.conversation_id from participants a
         join participants b on b.conversation_id = a.conversation_id and b.user_id = $2
         where a.user_id = $1
           and 2 = (select count(*) from participants p where p.conversation_id = a.conversation_id)",
    )
    .bind(user.get())
    .bind(other.get())
    .fetch_all(db)
    .await?;
    ids.into_iter().map(id).collect()
}

fn id<T: TryFrom<i64>>(number: i64) -> sqlx::Result<T>
where
    T::Error: std::error::Error + std::marker::Send + Sync + 'static,
{
    T::try_from(number).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A deadline as Postgres knows it: later than any message for one that never passes.
fn moment(deadline: Deadline) -> OffsetDateTime {
    let nanos = i128::from(deadline.unix_ms()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH + time::Duration::days(365 * 1_000))
}

fn timestamp(row: &PgRow, column: &str) -> sqlx::Result<Timestamp> {
    row.try_get::<OffsetDateTime, _>(column).map(Timestamp::from)
}

#[cfg(test)]
mod plans;
#[cfg(test)]
mod tests;
