//! The participants of conversations, and their names.

use super::id;
use contract::{ConversationId, MessageId, Seq, Timestamp, UserId};
use contract::{
    chat::{JoinRequest, Marker, Message},
    log::Head,
};
use service::postgres;
use sqlx::{PgExecutor, Row, postgres::PgRow};
use std::collections::HashMap;
use time::OffsetDateTime;

/// A conversation's head and participants.
#[derive(Default)]
pub struct Members {
    head: Head,
    changes: i64,
    first_seq: Seq,
    members: Vec<Member>,
}

/// The participants of a conversation, for notifications.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct People {
    /// All of them, by id.
    pub all: Vec<UserId>,
    /// Those who have muted the conversation, by id.
    pub muted: Vec<UserId>,
}

impl People {
    /// Parses ids of users. Those who have muted it may be in any order.
    pub fn of(all: Vec<i64>, mut muted: Vec<i64>) -> sqlx::Result<Self> {
        muted.sort_unstable();
        let users = |ids: Vec<i64>| ids.into_iter().map(id).collect::<sqlx::Result<_>>();
        Ok(Self { all: users(all)?, muted: users(muted)? })
    }
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
        self.changes = row.try_get("last_change")?;
        self.first_seq = row.try_get("first_seq")?;
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

    /// Number of changes.
    pub const fn changes(&self) -> i64 {
        self.changes
    }

    /// `seq` of the first message that is still stored.
    pub const fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// The participants.
    pub fn users(&self) -> impl Iterator<Item = UserId> {
        self.members.iter().map(|member| member.user_id)
    }

    /// Whether the user is a participant.
    pub fn contains(&self, user: UserId) -> bool {
        self.members.iter().any(|member| member.user_id == user)
    }

    /// Whether the conversation has two participants and the viewer blocks the other.
    pub fn is_other_blocked(&self) -> bool {
        self.members.len() == 2 && self.members.iter().any(|member| member.is_blocked)
    }

    /// Returns the newer of a participant's stored name and the claimed one.
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

    /// Whether a participant's name should be saved: it is newer than the stored one, or different and of the same age.
    pub fn is_newer_name(&self, user: UserId, username: &str, named_at: i64) -> bool {
        self.members.iter().find(|member| member.user_id == user).is_some_and(|member| {
            named_at > member.named_at
                || named_at == member.named_at && member.username.as_deref() != Some(username)
        })
    }

    /// Whether all participants except the sender have read a message.
    pub fn is_read(&self, message: &Message) -> bool {
        self.members
            .iter()
            .filter(|member| member.user_id != message.sender_id)
            .all(|member| member.read_seq >= message.seq)
    }

    /// Sets the fields of messages that depend on the viewer. `None` is a gateway, which sees every `client_id`.
    pub fn show_to(&self, viewer: Option<UserId>, messages: &mut [Message]) {
        for message in messages {
            message.is_read = self.is_read(message);
            if viewer.is_some_and(|viewer| viewer != message.sender_id) {
                message.client_id = None;
            }
        }
    }

    /// The markers of participants that have read anything.
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

    /// The markers of these users, each with its unread count.
    pub fn markers_of(&self, conversation: ConversationId, users: &[UserId]) -> Vec<Marker> {
        let markers = self.markers(conversation).into_iter().filter(|marker| users.contains(&marker.user_id));
        markers
            .map(|marker| Marker { unread_count: Some((self.head.seq - marker.seq).max(0)), ..marker })
            .collect()
    }
}

/// Head and participants of a conversation, as a viewer sees them. Without participants, the conversation doesn't
/// exist.
pub async fn members(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    viewer: Option<UserId>,
) -> sqlx::Result<Members> {
    let rows = postgres::query(
        "select c.last_seq, c.last_message_id, c.last_change, c.first_seq, p.user_id, u.username, coalesce(u.named_at, 0) as named_at, p.read_seq, p.read_message_id, p.read_at,
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

/// For each join request, head and participants of its conversation as its user sees them. For a connection with
/// [`postgres::PLANS`](service::postgres::PLANS).
pub async fn members_of_each(
    db: impl PgExecutor<'_>,
    entries: &[&JoinRequest],
) -> sqlx::Result<Vec<Members>> {
    let rows = postgres::query(
        "select e.ord, c.last_seq, c.last_message_id, c.last_change, c.first_seq, p.user_id, u.username, coalesce(u.named_at, 0) as named_at,
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

/// A user's display name.
pub struct DisplayName<'a> {
    pub user_id: UserId,
    pub username: &'a str,
    /// Issue time of the token with this name, in Unix seconds; 0 if unknown.
    pub named_at: i64,
}

/// Saves users' display names. Of several names of a user, the newest is saved; of equally new ones, the last.
pub async fn save_usernames(db: impl PgExecutor<'_>, names: &[DisplayName<'_>]) -> sqlx::Result<()> {
    postgres::query(
        "insert into users as u (user_id, username, named_at)
         select distinct on (n.user_id) n.user_id, n.username, n.named_at
         from unnest($1::bigint[], $2::text[], $3::bigint[]) with ordinality as n (user_id, username, named_at, ord)
         order by n.user_id, n.named_at desc, n.ord desc
         on conflict (user_id) do update set username = excluded.username, named_at = excluded.named_at
         where excluded.named_at > u.named_at
            or excluded.named_at = u.named_at and u.username <> excluded.username",
    )
    .bind(names.iter().map(|name| name.user_id.get()).collect::<Vec<_>>())
    .bind(names.iter().map(|name| name.username).collect::<Vec<_>>())
    .bind(names.iter().map(|name| name.named_at).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
}

/// The participants of these conversations.
pub async fn participants(
    db: impl PgExecutor<'_>,
    conversations: &[i64],
) -> sqlx::Result<HashMap<ConversationId, People>> {
    let rows = postgres::query(
        "select conversation_id, array_agg(user_id order by user_id) as users,
                array_agg(user_id) filter (where muted_until > now()) as muted
         from participants where conversation_id = any ($1) group by conversation_id",
    )
    .bind(conversations)
    .fetch_all(db)
    .await?;
    let entry = |row: &PgRow| {
        let muted: Option<Vec<i64>> = row.try_get("muted")?;
        let people = People::of(row.try_get("users")?, muted.unwrap_or_default())?;
        Ok((id(row.try_get("conversation_id")?)?, people))
    };
    rows.iter().map(entry).collect()
}
