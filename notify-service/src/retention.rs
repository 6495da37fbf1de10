//! Removes old notifications in small batches.

use crate::inboxes::{Inboxes, StoreError};
use crate::store;
use service::bus::chain;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Maximum number of notifications removed in one transaction.
const BATCH: i64 = 1_000;
/// Pause between two batches, so that other transactions don't wait for long.
const PAUSE: Duration = Duration::from_millis(200);
/// Time until the next check after the last batch.
const INTERVAL: Duration = Duration::from_secs(600);

/// Removes notifications that are older than this, whether read or unread, until the token is cancelled.
pub async fn run(inboxes: Inboxes, days: u32, shutdown: CancellationToken) {
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    loop {
        let pause = match inboxes.with_retry(async || remove_batch(&inboxes, days).await).await {
            Ok(removed) => {
                metrics::counter!("notifications_removed_total").increment(removed);
                if removed == 0 { INTERVAL } else { PAUSE }
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "remove old notifications; will be retried");
                Duration::from_secs(30)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Removes one batch. Returns 0 if no old notification is left or another replica is removing them.
async fn remove_batch(inboxes: &Inboxes, days: i32) -> Result<u64, StoreError> {
    let mut tx = inboxes.pool().begin().await?;
    if !store::lock_retention(&mut tx).await? {
        return Ok(0);
    }
    let old = store::old_notifications(&mut tx, days, BATCH).await?;
    if old.is_empty() {
        return Ok(0);
    }
    let mut users: Vec<i64> = old.iter().map(|(user, _)| *user).collect();
    users.sort_unstable();
    users.dedup();
    store::lock_inboxes(&mut tx, &users).await?;
    let removed = store::remove_notifications(&mut tx, &old).await?;
    tx.commit().await?;
    Ok(removed)
}
