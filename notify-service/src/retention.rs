//! Removes old notifications, and what is left of reminders, in small batches.

use crate::inboxes::{Inboxes, StoreError};
use crate::store::{self, DecisionPlace};
use service::bus::chain;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Maximum number of notifications removed in one transaction, of decisions about reminders looked at, and of old times
/// of reminders removed.
const BATCH: i64 = 1_000;
/// Pause between two batches, so that other transactions don't wait for long.
const PAUSE: Duration = Duration::from_millis(200);
/// The same while decisions about reminders are looked through: most are needed. A million takes less than two hours.
const REMINDERS_PAUSE: Duration = Duration::from_secs(5);
/// Time until the next check after the last batch.
const INTERVAL: Duration = Duration::from_secs(600);
/// Time until the next attempt after an error.
const RETRY: Duration = Duration::from_secs(30);

/// Removes notifications that are older than this, whether read or unread, and what is left of reminders, until the
/// token is cancelled.
pub async fn run(inboxes: Inboxes, days: u32, shutdown: CancellationToken) {
    tokio::join!(run_notifications(&inboxes, days, &shutdown), run_reminders(&inboxes, &shutdown));
}

async fn run_notifications(inboxes: &Inboxes, days: u32, shutdown: &CancellationToken) {
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    loop {
        let pause = match inboxes.with_retry(async || remove_batch(inboxes, days).await).await {
            Ok(removed) => {
                metrics::counter!("notifications_removed_total").increment(removed);
                if removed == 0 { INTERVAL } else { PAUSE }
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "remove old notifications; will be retried");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Also without reminders: what is left is from a time with them.
async fn run_reminders(inboxes: &Inboxes, shutdown: &CancellationToken) {
    let mut place = DecisionPlace::default();
    loop {
        let pause = match remove_of_reminders(inboxes, &mut place).await {
            Ok(true) => REMINDERS_PAUSE,
            Ok(false) => INTERVAL,
            Err(error) => {
                tracing::warn!(error = chain(&error), "remove what is left of reminders; will be retried");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Removes what a part of the decisions about reminders has that nothing needs, and old times. Returns whether there
/// may be more; otherwise, the next part is the first.
async fn remove_of_reminders(inboxes: &Inboxes, place: &mut DecisionPlace) -> Result<bool, StoreError> {
    let forgotten = inboxes.forget_needless(place, BATCH).await?;
    metrics::counter!("reminders_forgotten_total").increment(forgotten.count as u64);
    let has_more = forgotten.next.is_some();
    *place = forgotten.next.unwrap_or_default();
    let times =
        inboxes.with_retry(async || Ok(store::delete_old_times(inboxes.pool(), BATCH).await?)).await?;
    Ok(has_more || i64::try_from(times).unwrap_or(i64::MAX) >= BATCH)
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
