//! Removes old notifications, a few at a time.

use crate::inboxes::{Inboxes, StoreError};
use crate::store;
use service::bus::chain;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Notifications that are removed in one transaction.
const STEP: i64 = 1_000;
/// From one step to the next, so that nobody waits for long.
const PAUSE: Duration = Duration::from_millis(200);
/// From one look to the next when nothing was left.
const EVERY: Duration = Duration::from_secs(600);

/// Removes what is older than so many days, read or not, until the token is cancelled.
pub async fn run(inboxes: Inboxes, days: u32, shutdown: CancellationToken) {
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    loop {
        let pause = match inboxes.steady(async || step(&inboxes, days).await).await {
            Ok(removed) => {
                metrics::counter!("notifications_removed_total").increment(removed);
                if removed == 0 { EVERY } else { PAUSE }
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "old notifications are not removed yet");
                Duration::from_secs(30)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// One step; 0 when nothing is left, or another replica does it.
async fn step(inboxes: &Inboxes, days: i32) -> Result<u64, StoreError> {
    let mut tx = inboxes.pool().begin().await?;
    if !store::lock_retention(&mut tx).await? {
        return Ok(0);
    }
    let old = store::old(&mut tx, days, STEP).await?;
    if old.is_empty() {
        return Ok(0);
    }
    let mut users: Vec<i64> = old.iter().map(|(user, _)| *user).collect();
    users.sort_unstable();
    users.dedup();
    store::lock_inboxes(&mut tx, &users).await?;
    let removed = store::remove(&mut tx, &old).await?;
    tx.commit().await?;
    Ok(removed)
}
