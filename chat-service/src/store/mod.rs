//! All queries of the chat tables.

mod blocks;
mod changes;
mod conversations;
pub mod erasures;
pub mod export;
mod markers;
mod members;
mod messages;
mod mine;
mod outbox;
pub mod reports;
mod retention;

pub use blocks::{
    block, blocked_pairs, blocks, conversations_of_two, is_blocked_by_any, people, sharing, unblock,
};
pub use changes::{Change, Changed, FormerTexts, Kind, change_message, changes, versions};
pub use conversations::{Opening, conversations, describe, list, open_conversation, opened};
pub use markers::{MarkOutcome, heads, mark_read, moved_marker, unread};
pub use members::{DisplayName, Members, People, members, members_of_each, participants, save_usernames};
pub use messages::{Batch, Outcome, SentKey, between, message, messages, page, sent, store_messages};
pub use mine::{clear_mine, mine_of, mute, set_mine};
pub use outbox::{OutboxRow, delete_outbox, lock_stale, outbox_age};
pub use retention::{
    conversations_with_old_messages, delete_old_reports, delete_old_versions, expire_messages,
};

use contract::Timestamp;
use sqlx::{Row, postgres::PgRow};
use time::OffsetDateTime;

fn id<T: TryFrom<i64>>(number: i64) -> sqlx::Result<T>
where
    T::Error: std::error::Error + std::marker::Send + Sync + 'static,
{
    T::try_from(number).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn timestamp(row: &PgRow, column: &str) -> sqlx::Result<Timestamp> {
    row.try_get::<OffsetDateTime, _>(column).map(Timestamp::from)
}

fn time_of(row: &PgRow, column: &str) -> sqlx::Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<OffsetDateTime>, _>(column)?.map(Timestamp::from))
}

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod kind_tests;
#[cfg(test)]
mod mine_tests;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod report_tests;
#[cfg(test)]
pub mod tests;
