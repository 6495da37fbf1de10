//! Publishes reports for moderators: normally at once; after a failure, any replica publishes them from the table.

use crate::store::reports as store;
use anyhow::Context;
use contract::chat::{ReportMade, Reported};
use service::{
    Bus,
    postgres::{self, Pool},
};
use std::time::Duration;

/// Maximum time that a request waits for the publication. The report is already stored.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);
/// Age at which an unpublished report is stale, so that any replica may publish it.
const STALE: Duration = Duration::from_secs(3);
/// Maximum number of stale reports per transaction.
const BATCH: i64 = 64;

/// Publishes a report that was just stored. If that fails, [`publish_stale`] repeats it.
pub async fn publish(bus: &Bus, pool: &Pool, reported: &Reported) {
    let report_id = reported.report_id;
    let published = tokio::time::timeout(PUBLISH_TIMEOUT, publish_to_stream(bus, reported)).await;
    let published = published.context("the publication timed out");
    if let Err(error) = published.flatten() {
        tracing::warn!(error = format!("{error:#}"), report_id, "publish a report; will be retried");
        return;
    }
    if let Err(error) = postgres::in_time(store::mark_published(pool, &[report_id])).await {
        tracing::warn!(
            error = service::bus::chain(&error),
            report_id,
            "mark a report as published; it will be published again"
        );
    }
}

/// Publishes stale reports.
///
/// # Errors
/// If Postgres or JetStream fails. The remaining reports stay for the next sweep.
pub async fn publish_stale(bus: &Bus, pool: &Pool) -> anyhow::Result<()> {
    while bus.is_connected() {
        let mut transaction = pool.begin().await?;
        let stale = store::lock_unpublished(&mut transaction, STALE.as_secs_f64(), BATCH).await?;
        if stale.is_empty() {
            return Ok(());
        }
        for reported in &stale {
            publish_to_stream(bus, reported).await?;
        }
        let published: Vec<i64> = stale.iter().map(|reported| reported.report_id).collect();
        store::mark_published(&mut *transaction, &published).await?;
        transaction.commit().await?;
        tracing::info!(reports = published.len(), "published stale reports");
    }
    Ok(())
}

/// JetStream drops a report that is repeated within minutes. Later, consumers recognise a repeat by its `event_id`.
async fn publish_to_stream(bus: &Bus, reported: &Reported) -> anyhow::Result<()> {
    let event = ReportMade::from(reported.clone());
    bus.store(&event, &event.event_id).await
}
