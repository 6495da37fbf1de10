//! Telling those who moderate of reports: at once in the ordinary case, later by whichever replica finds one untold.

use crate::store::reports as store;
use anyhow::Context;
use contract::chat::Reported;
use service::{Bus, postgres};
use sqlx::PgPool;
use std::time::Duration;

/// How long whoever reports waits for that; the report is kept already.
const TELL: Duration = Duration::from_secs(2);
/// How old a report is before someone else than its writer tells of it.
const STALE: Duration = Duration::from_secs(3);
/// Reports that are told of together.
const BATCH: i64 = 64;

/// Tells of a report that was just kept. What fails is done again by [`tell_left`].
pub async fn tell(bus: &Bus, pool: &PgPool, reported: &Reported) {
    let report_id = reported.report_id;
    let published = tokio::time::timeout(TELL, publish(bus, reported)).await.context("it takes too long");
    if let Err(error) = published.flatten() {
        tracing::warn!(error = format!("{error:#}"), report_id, "publish a report; will be repeated");
        return;
    }
    if let Err(error) = postgres::in_time(store::told(pool, &[report_id])).await {
        tracing::warn!(
            error = service::bus::chain(&error),
            report_id,
            "note that a report is told; will be told again"
        );
    }
}

/// Tells of reports that their writer has left behind.
///
/// # Errors
/// When Postgres or JetStream does not do its part; the rest stays for the next time.
pub async fn tell_left(bus: &Bus, pool: &PgPool) -> anyhow::Result<()> {
    while bus.is_connected() {
        let mut transaction = pool.begin().await?;
        let left = store::lock_untold(&mut transaction, STALE.as_secs_f64(), BATCH).await?;
        if left.is_empty() {
            return Ok(());
        }
        for reported in &left {
            publish(bus, reported).await?;
        }
        let told: Vec<i64> = left.iter().map(|reported| reported.report_id).collect();
        store::told(&mut *transaction, &told).await?;
        transaction.commit().await?;
        tracing::info!(reports = told.len(), "told of reports that a writer had left behind");
    }
    Ok(())
}

/// The same report within minutes is the same to JetStream; later, its `report_id` says so.
async fn publish(bus: &Bus, reported: &Reported) -> anyhow::Result<()> {
    bus.store(reported, &format!("report-{}", reported.report_id)).await
}
