//! Publishes what the outbox still has after a failure, from the table.

use super::events::{
    Commit, EventRules, Pending, TracedEvent, change_events, mute_entry, publish_entry, publish_events,
    read_entry, read_event,
};
use crate::{
    kinds::CurrentKinds,
    reports,
    store::{self, OutboxRow},
};
use anyhow::Context;
use contract::chat::{ChatEvent, LogEntry, Marker, MessageChanged};
use contract::{ConversationId, UserId};
use service::{Bus, Span, postgres::Pool};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Age at which a row is stale, so that any replica may publish it.
const STALE: Duration = Duration::from_secs(3);
/// Average time between two sweeps for stale rows.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of a sweep. The next sweep continues.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(8);
/// Maximum number of stale rows per transaction.
const STALE_BATCH: i64 = 64;

/// Sweeps the outbox and the reports until the token is cancelled.
pub async fn sweep_repeatedly(
    bus: Bus,
    pool: Pool,
    rules: EventRules,
    swept_at: Arc<AtomicI64>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
            () = shutdown.cancelled() => return,
        }
        let swept = tokio::time::timeout(SWEEP_TIMEOUT, sweep(&bus, &pool, &rules)).await;
        match swept.context("the sweep timed out").flatten() {
            Ok(()) => swept_at.store(contract::Timestamp::now().unix(), Ordering::Relaxed),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "sweep the outbox"),
        }
        let reported = tokio::time::timeout(SWEEP_TIMEOUT, reports::publish_stale(&bus, &pool)).await;
        if let Err(error) = reported.context("the publication timed out").flatten() {
            tracing::warn!(error = format!("{error:#}"), "publish stale reports");
        }
    }
}

/// Publishes stale rows of the outbox. A row stays if its event for backends is refused, and holds up no other row: the
/// sweep passes over further changes, of which there may be very many.
async fn sweep(bus: &Bus, pool: &Pool, rules: &EventRules) -> anyhow::Result<()> {
    metrics::gauge!("chat_outbox_age_seconds").set(store::outbox_age(pool).await?);
    let (mut after, mut is_refused) = (0, false);
    while bus.is_connected() {
        let mut transaction = pool.begin().await?;
        let (age, skips_changes) = (STALE.as_secs_f64(), is_refused && rules.publishes_changes);
        let stale = store::lock_stale(&mut transaction, after, age, STALE_BATCH, skips_changes).await?;
        let Some(last) = stale.last() else { return Ok(()) };
        after = last.outbox_id;
        let mut done = Vec::with_capacity(stale.len());
        for row in &stale {
            if is_refused && rules.publishes_changes && row.change.is_some() {
                continue;
            }
            let Some((events, entry)) = rebuild(pool, &rules.kinds, row).await? else {
                done.push(row.outbox_id);
                continue;
            };
            publish_events(bus, &events).await?;
            let backend_event = match events.first() {
                Some((ChatEvent::Changed { change, message, .. }, _)) if rules.publishes_changes => {
                    Some(Box::new(MessageChanged::new(*change, message)))
                }
                _ => None,
            };
            let pending = Pending { outbox_ids: vec![row.outbox_id], entry, backend_event };
            publish_entry(bus, &pending).await?.await.context("no acknowledgement from JetStream")?;
            if let Some(event) = &pending.backend_event
                && let Err(error) = bus.store(&**event, &event.event_id).await
            {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "publish a change for backends; will be retried"
                );
                is_refused = true;
                continue;
            }
            done.push(row.outbox_id);
        }
        if done.is_empty() {
            continue;
        }
        store::delete_outbox(&mut *transaction, &done).await?;
        transaction.commit().await?;
        metrics::counter!("chat_outbox_recovered_total").increment(done.len() as u64);
        tracing::info!(entries = done.len(), "published stale rows of the outbox");
    }
    Ok(())
}

/// Reads the events and the log entry of an outbox row from the tables. `None` if retention has deleted its message.
async fn rebuild(
    pool: &Pool,
    kinds: &CurrentKinds,
    row: &OutboxRow,
) -> anyhow::Result<Option<(Vec<TracedEvent>, LogEntry)>> {
    if let Some(reader) = row.reader {
        let [conversation] = row.conversations[..] else {
            anyhow::bail!("the outbox row of a marker must have exactly one message")
        };
        let conversation = ConversationId::new(conversation)?;
        let reader = UserId::new(reader)?;
        if row.messages.is_empty() {
            let mute = store::mute(pool, conversation, reader).await?;
            let entry = |until| (Vec::new(), mute_entry(row.outbox_id, conversation, reader, until));
            return Ok(mute.map(entry));
        }
        // The marker may have moved on since then. Publishing the newer one is correct. notify-service must not think
        // that messages which came after the move were unread then.
        let marker = store::moved_marker(pool, conversation, reader, None).await?;
        let marker = marker.context("the reader has no marker")?;
        return Ok(Some((vec![(read_event(marker), Span::none())], read_entry(marker))));
    }
    if let Some(change) = row.change {
        return rebuild_change(pool, row, change).await;
    }
    if row.messages.is_empty() {
        let [conversation] = row.conversations[..] else {
            anyhow::bail!("an outbox row without messages must have one conversation")
        };
        let event = store::opened(pool, ConversationId::new(conversation)?).await?;
        return Ok(event.map(|event| (Vec::new(), LogEntry::Opened { event })));
    }
    let mut people = store::participants(pool, &row.conversations).await?;
    let mut commit = Commit::new(kinds.get());
    for message in store::messages(pool, &row.conversations, &row.messages).await? {
        let people = people.remove(&message.conversation_id);
        commit.add(&message, people, &Span::none());
    }
    Ok(Some((commit.events, LogEntry::Stored { messages: commit.log }))
        .filter(|(events, _)| !events.is_empty()))
}

/// Reads the events of a change, as [`Outbox::publish_change`] would publish them now.
async fn rebuild_change(
    pool: &Pool,
    row: &OutboxRow,
    change: i64,
) -> anyhow::Result<Option<(Vec<TracedEvent>, LogEntry)>> {
    let conversation =
        row.conversations.first().copied().context("the outbox row of a change has no message")?;
    let conversation = ConversationId::new(conversation)?;
    let members = store::members(pool, conversation, None).await?;
    let mut messages = store::messages(pool, &row.conversations, &row.messages).await?;
    let Some(mut message) = messages.pop() else { return Ok(None) };
    message.is_read = members.is_read(&message);
    // Which markers moved is not stored. The others are repeats, which gateways and notify-service ignore.
    let is_past = |marker: &Marker| message.deleted_at.is_some() && marker.seq >= message.seq;
    let mut moved = Vec::new();
    for marker in members.markers(conversation).into_iter().filter(is_past) {
        moved.extend(store::moved_marker(pool, conversation, marker.user_id, message.deleted_at).await?);
    }
    let (events, entry) = change_events(change, message, moved);
    Ok(Some((events.into_iter().map(|event| (event, Span::none())).collect(), entry)))
}
