//! Deletes messages, former texts and reports that are too old.

use crate::{
    outbox::Outbox,
    pace::{Pace, pause},
    store,
};
use contract::ConversationId;
use service::postgres::Pool;
use std::time::Duration;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// Average time until the first pass.
const START: Duration = Duration::from_secs(4);
/// Average time between two passes.
const INTERVAL: Duration = Duration::from_secs(600);
/// Maximum number of rows deleted in one transaction.
const BATCH: i32 = 500;
/// Number of conversations that are looked at in one query.
const CONVERSATIONS: i64 = 500;

/// For how many days something is kept.
#[derive(Debug, Clone, Copy)]
pub struct Days {
    /// Messages; 0: for good.
    pub messages: u32,
    /// Reports.
    pub reports: u32,
}

/// Deletes in regular passes, until the token is cancelled.
pub async fn run(pool: Pool, outbox: Outbox, days: Days, shutdown: CancellationToken) {
    let mut wait = START;
    while pause(wait.mul_f64(0.75 + fastrand::f64() / 2.0), &shutdown).await {
        wait = INTERVAL;
        for outcome in [
            delete_rows(&pool, days, &shutdown).await,
            delete_messages(&pool, &outbox, days, &shutdown).await,
        ] {
            if let Err(error) = outcome {
                tracing::warn!(
                    error = service::bus::chain(&error),
                    "delete what is too old; will be retried"
                );
            }
        }
    }
}

/// Deletes former texts and reports.
async fn delete_rows(pool: &Pool, days: Days, shutdown: &CancellationToken) -> sqlx::Result<()> {
    let (limit, mut pace) = (i64::from(BATCH), Pace::default());
    while pace.work(store::delete_old_versions(pool, limit)).await? == limit.unsigned_abs() {
        if !pace.rest(shutdown).await {
            return Ok(());
        }
    }
    while pace.work(store::delete_old_reports(pool, days.reports, limit)).await? == limit.unsigned_abs() {
        if !pace.rest(shutdown).await {
            return Ok(());
        }
    }
    Ok(())
}

/// Deletes messages, conversation by conversation. A conversation that fails is left to the next pass.
async fn delete_messages(
    pool: &Pool,
    outbox: &Outbox,
    days: Days,
    shutdown: &CancellationToken,
) -> sqlx::Result<()> {
    if days.messages == 0 {
        return Ok(());
    }
    let before = OffsetDateTime::now_utc() - time::Duration::days(i64::from(days.messages));
    let (mut place, mut pace) = (0, Pace::default());
    loop {
        let next =
            pace.work(store::conversations_with_old_messages(pool, place, before, CONVERSATIONS)).await?;
        let Some((last, old)) = next else { return Ok(()) };
        place = last;
        for conversation in old {
            loop {
                match pace.work(expire(pool, outbox, conversation, before)).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        let error = service::bus::chain(&error);
                        tracing::warn!(error, %conversation, "delete old messages; will be retried");
                        break;
                    }
                }
                if !pace.rest(shutdown).await {
                    return Ok(());
                }
            }
        }
        if !pace.rest(shutdown).await {
            return Ok(());
        }
    }
}

/// Deletes the oldest messages of a conversation that were sent before a time, and publishes the markers that moved.
/// Returns whether there were any.
async fn expire(
    pool: &Pool,
    outbox: &Outbox,
    conversation: ConversationId,
    before: OffsetDateTime,
) -> sqlx::Result<bool> {
    let Some(expired) = store::expire_messages(pool, conversation, before, BATCH).await? else {
        return Ok(false);
    };
    metrics::counter!("chat_expired_messages_total").increment(expired.expired.unsigned_abs());
    let members = store::members(pool, conversation, None).await?;
    for (user, outbox_id) in expired.moved {
        for marker in members.markers_of(conversation, &[user]) {
            outbox.publish_read(outbox_id, marker).await;
        }
    }
    Ok(true)
}
