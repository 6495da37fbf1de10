//! Publishes states that are stored, to sockets that are open. A socket that misses one reads it later.
//!
//! Each is read after it was published, and published again if it has changed meanwhile. So of concurrent changes, the
//! last one to publish publishes the final state.

use crate::store;
use anyhow::Context;
use contract::{
    ConversationId, UserId,
    notify::InboxEvent,
    presence::{UserNews, UserNewsKind},
    typing::TypingBlock,
};
use service::{Bus, postgres::Pool, trace};

/// Maximum number of publications of a state that keeps changing.
const PUBLICATIONS: usize = 8;

/// Publishes whether a user blocks another one.
///
/// # Errors
/// If Postgres or NATS fails.
pub async fn publish_block(bus: &Bus, pool: &Pool, user: UserId, other: UserId) -> anyhow::Result<()> {
    let conversations = store::conversations_of_two(pool, user, other).await?;
    let mut published = None;
    for _ in 0..PUBLICATIONS {
        let is_either_blocked = !store::blocked_pairs(pool, &[(user, other)]).await?.is_empty();
        let is_blocked = store::is_blocked_by_any(pool, other, &[user]).await?;
        if published.replace((is_either_blocked, is_blocked)) == Some((is_either_blocked, is_blocked)) {
            break;
        }
        for (user_id, other_id) in [(user, other), (other, user)] {
            let kind = UserNewsKind::Block { other_id, blocked: is_either_blocked };
            bus.publish(&UserNews { user_id, kind }).await?;
        }
        for conversation_id in conversations.iter().copied() {
            bus.publish(&TypingBlock { conversation_id, user_id: user, blocked: is_blocked }).await?;
        }
        bus.client().flush().await?;
    }
    Ok(())
}

/// Publishes a participant's own settings of a conversation.
///
/// # Errors
/// If Postgres or NATS fails.
pub async fn publish_mine(
    bus: &Bus,
    pool: &Pool,
    conversation: ConversationId,
    user: UserId,
) -> anyhow::Result<()> {
    let mut published = None;
    for _ in 0..PUBLICATIONS {
        let Some(mine) = store::mine_of(pool, conversation, user).await? else { break };
        if published.replace(mine) == Some(mine) {
            break;
        }
        let json = serde_json::to_vec(&InboxEvent::mine(mine)).context("encode an event")?;
        bus.publish_bytes(InboxEvent::subject_of(user), json.into(), trace::current()).await?;
        bus.client().flush().await?;
    }
    Ok(())
}
