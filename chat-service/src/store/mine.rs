//! A participant's own settings of a conversation.

use super::{id, time_of};
use contract::{
    ConversationId, UserId,
    chat::{Mine, MineChanges, MutedUntil},
};
use service::postgres;
use sqlx::{PgExecutor, Row, postgres::PgRow};
use time::OffsetDateTime;

/// Columns of a query: the settings of a participant `p`, for [`muted_until`]. The last part is `archived`.
macro_rules! mine {
    ($archived:literal) => {
        concat!(
            "case when p.muted_until > now() and isfinite(p.muted_until) then p.muted_until end as muted_until,
             coalesce(p.muted_until = 'infinity', false) as muted_forever, p.pinned, p.archived_seq is not null",
            $archived,
            " as archived"
        )
    };
    // In the conversation `c`.
    () => {
        mine!(" and is_archived(p, c)")
    };
}

pub(super) use mine;

/// The end of a participant's mute; `None` if the conversation is not muted.
pub fn muted_until(row: &PgRow) -> sqlx::Result<Option<MutedUntil>> {
    if row.try_get("muted_forever")? {
        return Ok(Some(MutedUntil::Forever));
    }
    Ok(time_of(row, "muted_until")?.map(MutedUntil::At))
}

/// Changes a participant's settings, and returns all of them, with the outbox row of a mute or its end. `None` if the
/// user is not a participant.
pub async fn set_mine(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    user: UserId,
    changes: MineChanges,
) -> sqlx::Result<Option<(Mine, Option<i64>)>> {
    let (time, forever) = match changes.muted_until.flatten() {
        Some(MutedUntil::At(at)) => (Some(OffsetDateTime::from(at)), false),
        Some(MutedUntil::Forever) => (None, true),
        None => (None, false),
    };
    let row = postgres::query(concat!(
        "with mine as (
            select * from set_mine($1, $2, $3, case when $4 then 'infinity' else $5::timestamptz end, $6, $7)
        ), outbox_row as (
            insert into outbox (conversation_ids, message_ids, reader)
            select array[conversation_id], '{}', user_id from mine where $3 returning id
        ) select p.conversation_id, (select id from outbox_row) as outbox_id, ",
        mine!(""),
        " from mine p"
    ))
    .bind(conversation.get())
    .bind(user.get())
    .bind(changes.muted_until.is_some())
    .bind(forever)
    .bind(time)
    .bind(changes.archived)
    .bind(changes.pinned)
    .fetch_optional(db)
    .await?;
    let with_outbox = |row: &PgRow| Ok((settings(row)?, row.try_get("outbox_id")?));
    row.as_ref().map(with_outbox).transpose()
}

/// A participant's settings. `None` if the user is not a participant.
pub async fn mine_of(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    user: UserId,
) -> sqlx::Result<Option<Mine>> {
    let row = postgres::query(concat!(
        "select p.conversation_id, ",
        mine!(),
        " from participants p join conversations c on c.conversation_id = p.conversation_id
         where p.conversation_id = $1 and p.user_id = $2"
    ))
    .bind(conversation.get())
    .bind(user.get())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(settings).transpose()
}

fn settings(row: &PgRow) -> sqlx::Result<Mine> {
    Ok(Mine {
        conversation_id: id(row.try_get("conversation_id")?)?,
        muted_until: muted_until(row)?,
        archived: row.try_get("archived")?,
        pinned: row.try_get("pinned")?,
    })
}

/// Whether a participant has muted a conversation, and until when. `None` if the user is not a participant.
pub async fn mute(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    user: UserId,
) -> sqlx::Result<Option<Option<MutedUntil>>> {
    let row = postgres::query(concat!(
        "select ",
        mine!(""),
        " from participants p where p.conversation_id = $1 and p.user_id = $2"
    ))
    .bind(conversation.get())
    .bind(user.get())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(muted_until).transpose()
}

/// Deletes a user's settings of a conversation.
pub async fn clear_mine(
    db: impl PgExecutor<'_>,
    conversation: ConversationId,
    user: UserId,
) -> sqlx::Result<()> {
    postgres::query(
        "update participants set muted_until = null, archived_seq = null, pinned = false
         where conversation_id = $1 and user_id = $2
           and (muted_until is not null or archived_seq is not null or pinned)",
    )
    .bind(conversation.get())
    .bind(user.get())
    .execute(db)
    .await?;
    Ok(())
}
