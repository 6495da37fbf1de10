//! The outbox: publishes events for backends from the table `telling` to the stream `EVENTS_OUT`, at once after their
//! transaction, otherwise by any replica a few seconds later.
//!
//! A stream that refuses events delays nothing else: rows wait for as long as it takes. There are at most as many as
//! messages, moves of markers, conversations and reminders, which Postgres stores without a limit, too. Only changes of
//! presence have a limit. Publishing twice is harmless, because an event keeps its id.

use crate::{
    chat_events::{self, Wanted},
    inboxes::{Inboxes, StoreError},
    store::telling::{self as store, Outgoing},
};
use anyhow::Context;
use contract::streams::{
    OPENED_SUBJECT, PRESENCE_SUBJECT, READ_SUBJECT, REMINDER_SUBJECT, SENT_SUBJECT, SETTLED_SUBJECT,
};
use futures_util::future::join_all;
use service::{
    Backoff, Bus,
    postgres::{self, Pool},
};
use sqlx::PgConnection;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Subjects of the events in the table.
pub const SUBJECTS: [&str; 6] =
    [SENT_SUBJECT, READ_SUBJECT, OPENED_SUBJECT, REMINDER_SUBJECT, SETTLED_SUBJECT, PRESENCE_SUBJECT];
/// Maximum number of events of one subject that are counted. From there on, no changes of presence are taken: their
/// rows would be about 300 MB, and backends can be told of them later.
const COUNTED: i64 = 1_000_000;
/// Maximum number of events that are published together.
const BATCH: i64 = 128;
/// Maximum number of batches of one subject before the next subject.
const BATCHES: usize = 16;
/// Average time between two looks for events that another replica has left.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3);
/// Interval of the measurements.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);
/// Time limit of a batch, below the time after which Postgres ends a transaction that is silent.
const BATCH_TIMEOUT: Duration = Duration::from_secs(9);
/// Maximum delay after the stream refused events.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Handle of the publisher. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    /// Whether no more changes of presence are taken.
    is_full: Arc<AtomicBool>,
}

impl Outbox {
    /// Starts to publish, until the token is cancelled.
    pub fn start(
        inboxes: &Inboxes,
        wanted: Wanted,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        let outbox = Self { is_full: Arc::default() };
        let publisher = Publisher {
            bus: inboxes.bus().clone(),
            pool: inboxes.pool().clone(),
            wake: inboxes.publisher().clone(),
            outbox: outbox.clone(),
            wanted,
            counted: COUNTED,
            settling: inboxes
                .steps()
                .iter()
                .filter(|step| step.settle)
                .map(|step| format!("reminder-{}-", step.name))
                .collect(),
        };
        tasks.spawn(publisher.run(shutdown.clone()));
        outbox
    }

    /// Checks that there is room for further changes of presence.
    ///
    /// # Errors
    /// If too many wait already.
    pub fn check_room(&self) -> Result<(), StoreError> {
        if self.is_full.load(Ordering::Relaxed) {
            metrics::counter!("events_out_full_total").increment(1);
            return Err(StoreError::Full);
        }
        Ok(())
    }
}

/// Publishes the rows of the table.
struct Publisher {
    bus: Bus,
    pool: Pool,
    wake: Arc<Notify>,
    outbox: Outbox,
    wanted: Wanted,
    /// [`COUNTED`], which tests lower.
    counted: i64,
    /// The starts of the ids of reminders that are settled.
    settling: Vec<String>,
}

impl Publisher {
    async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(250), MAX_RETRY_DELAY);
        let mut measure_at = Instant::now();
        loop {
            let sweep = tokio::time::sleep(SWEEP_INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0));
            tokio::select! {
                () = self.wake.notified() => {}
                () = sweep => {}
                () = shutdown.cancelled() => return,
            }
            let is_done = self.publish_all().await;
            if Instant::now() >= measure_at {
                measure_at = Instant::now() + MEASURE_INTERVAL;
                self.measure().await;
            }
            if is_done {
                backoff.reset();
                continue;
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Publishes events of every subject. Returns whether nothing failed.
    async fn publish_all(&self) -> bool {
        let mut is_done = true;
        // There mostly are none: one query costs less than a transaction for each subject.
        let waiting = match postgres::in_time(store::waiting(&self.pool, &SUBJECTS)).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(error = service::bus::chain(&error), "look for events for backends");
                return false;
            }
        };
        for subject in SUBJECTS.into_iter().filter(|subject| waiting.iter().any(|found| found == subject)) {
            if let Err(error) = self.publish_subject(subject).await {
                is_done = false;
                metrics::counter!("events_out_retries_total").increment(1);
                let error = format!("{error:#}");
                tracing::warn!(subject, error, "publish events for backends; will be retried");
            }
        }
        is_done
    }

    async fn publish_subject(&self, subject: &'static str) -> anyhow::Result<()> {
        for _ in 0..BATCHES {
            if !self.bus.is_connected() {
                return Ok(()); // The rows wait until NATS is back.
            }
            let batch = tokio::time::timeout(BATCH_TIMEOUT, self.publish_batch(subject)).await;
            if batch.context("the publication timed out").flatten()? < BATCH as usize {
                return Ok(());
            }
        }
        self.wake.notify_one(); // There may be more.
        Ok(())
    }

    /// Publishes the oldest events of a subject, and removes those that JetStream acknowledges. Returns their number.
    async fn publish_batch(&self, subject: &'static str) -> anyhow::Result<usize> {
        let mut tx = self.pool.begin().await?;
        let mut rows = store::lock_oldest(&mut tx, subject, BATCH).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let found = rows.len();
        if subject == REMINDER_SUBJECT {
            self.remove_read(&mut tx, &mut rows).await?;
        }
        let completed = match subject {
            SENT_SUBJECT => Some(chat_events::complete(&self.bus, self.wanted, &rows).await?),
            _ => None,
        };
        let refused = publish(&self.bus, completed.as_deref().unwrap_or(&rows)).await;
        let is_published = |event_id: &&str| refused.iter().all(|(refused, _)| refused.as_str() != *event_id);
        let done: Vec<&str> = rows.iter().map(|row| &*row.event_id).filter(is_published).collect();
        store::remove(&mut *tx, &done).await?;
        tx.commit().await?;
        match refused.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(found),
        }
    }

    /// Removes the reminders in which everything was read while they waited. Those of steps that settle stay: a former
    /// attempt may have published them, and their settlement comes.
    async fn remove_read(&self, tx: &mut PgConnection, rows: &mut Vec<Outgoing>) -> sqlx::Result<()> {
        let settles = |id: &str| self.settling.iter().any(|start| id.starts_with(start.as_str()));
        let unsettled = rows.iter().filter(|row| !settles(&row.event_id));
        let of_user = |row: &Outgoing| Some((row.user_id?, row.event_id.clone()));
        let (users, reminders): (Vec<i64>, Vec<String>) = unsettled.filter_map(of_user).unzip();
        let reminders: Vec<&str> = reminders.iter().map(String::as_str).collect();
        let read = crate::store::without_unread(&mut *tx, &users, &reminders).await?;
        rows.retain(|row| !read.contains(&row.event_id));
        let read: Vec<&str> = read.iter().map(String::as_str).collect();
        store::remove(tx, &read).await
    }

    /// Measures how many events wait, and for how long.
    async fn measure(&self) {
        match postgres::in_time(store::backlogs(&self.pool, &SUBJECTS, self.counted)).await {
            Ok(backlogs) => {
                let presence = backlogs.iter().find(|backlog| backlog.subject == PRESENCE_SUBJECT);
                let is_full = presence.is_some_and(|backlog| backlog.count >= self.counted);
                self.outbox.is_full.store(is_full, Ordering::Relaxed);
                let count: i64 = backlogs.iter().map(|backlog| backlog.count).sum();
                let age = backlogs.iter().map(|backlog| backlog.age).fold(0.0, f64::max);
                metrics::gauge!("events_out_waiting").set(count as f64);
                metrics::gauge!("events_out_age_seconds").set(age);
            }
            Err(error) => {
                tracing::warn!(error = service::bus::chain(&error), "measure the events for backends");
            }
        }
    }
}

/// Publishes events in their order. Returns the ids of those that were not sent, because they are too large, or that
/// JetStream has not acknowledged, with the reason.
async fn publish(bus: &Bus, events: &[Outgoing]) -> Vec<(String, anyhow::Error)> {
    let (mut sent, mut refused) = (Vec::with_capacity(events.len()), Vec::new());
    for event in events {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", event.event_id.as_str());
        let (subject, body) = (event.subject.clone(), event.body.clone());
        let ack = bus.jetstream().publish_with_headers(subject, headers, body.into()).await;
        match ack.context("publish an event") {
            Ok(ack) => sent.push((event, ack)),
            Err(error) => refused.push((event.event_id.clone(), error)),
        }
    }
    let acknowledged = sent.into_iter().map(async |(event, ack)| {
        let error = ack.await.err()?;
        let error = anyhow::Error::new(error).context("JetStream did not acknowledge an event");
        Some((event.event_id.clone(), error))
    });
    refused.extend(join_all(acknowledged).await.into_iter().flatten());
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use contract::streams::EVENTS_OUT_STREAM;
    use testkit::{NatsServer, Reads};
    use tokio::sync::watch;

    fn event(event_id: &str, subject: &str) -> Outgoing {
        Outgoing {
            event_id: event_id.to_owned(),
            subject: subject.to_owned(),
            body: "{}".to_owned(),
            user_id: None,
        }
    }

    /// A publisher, with NATS and a database.
    async fn publisher() -> (Publisher, NatsServer, Reads) {
        let reads = Reads::of("notify", &crate::MIGRATIONS, &postgres::PLANS, &[]).await.unwrap();
        let nats = NatsServer::start().await.unwrap();
        let config = service::config::Nats { nats_url: nats.url(), nats_creds: None };
        let bus = Bus::connect("notify-service", &config, &CancellationToken::new()).await.unwrap().unwrap();
        let publisher = Publisher {
            bus,
            pool: reads.pool().clone().into(),
            wake: Arc::default(),
            outbox: Outbox { is_full: Arc::default() },
            wanted: Wanted::default(),
            counted: 2,
            settling: vec!["reminder-push-".to_owned()],
        };
        (publisher, nats, reads)
    }

    /// A reminder that had to wait is of no use once everything in it was read (law R2).
    #[tokio::test]
    async fn a_reminder_of_which_all_was_read_meanwhile_is_not_published() {
        let (publisher, _nats, reads) = publisher().await;
        let reminder = |step: &str, user: i64| Outgoing {
            user_id: Some(user),
            ..event(&format!("reminder-{step}-{user}-1"), REMINDER_SUBJECT)
        };
        // That of a push is settled, and may have been published before.
        let reminders = [reminder("mail", 1), reminder("mail", 2), reminder("push", 1)];
        store::add(reads.pool(), &reminders).await.unwrap();
        let unread = "insert into reminded (user_id, step, subject, upto, since, told_at, event_id)
            values (2, 'mail', 'c1', 1, now(), now(), 'reminder-mail-2-1')";
        sqlx::query(unread).execute(reads.pool()).await.unwrap();
        service::streams::open(&publisher.bus, service::streams::events_out()).await.unwrap();
        assert!(publisher.publish_all().await);
        let stream = publisher.bus.jetstream().get_stream(EVENTS_OUT_STREAM).await.unwrap();
        assert_eq!(stream.cached_info().state.messages, 2);
        for (seq, event_id) in [(1, "reminder-mail-2-1"), (2, "reminder-push-1-1")] {
            let published = stream.get_raw_message(seq).await.unwrap();
            assert_eq!(published.headers.get("Nats-Msg-Id").unwrap().as_str(), event_id);
        }
        assert!(store::waiting(reads.pool(), &SUBJECTS).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn events_wait_and_a_refused_subject_delays_no_other() {
        let (publisher, _nats, reads) = publisher().await;
        let (bus, outbox) = (publisher.bus.clone(), publisher.outbox.clone());
        let (_catalogue, texts) = watch::channel(Arc::new(Catalogue::load(None).unwrap()));
        let inboxes = Inboxes::new(publisher.pool.clone(), bus.clone(), texts);
        let store = async |events: &[Outgoing]| inboxes.tell(events).await.unwrap();

        // Without chat-service, the first one can't be completed. A repeat is the same event.
        let sent = event("chat.sent-1", SENT_SUBJECT);
        store(&[sent, event("a", READ_SUBJECT), event("b", READ_SUBJECT)]).await;
        store(&[event("a", READ_SUBJECT), event("presence-1", PRESENCE_SUBJECT)]).await;
        store(&[]).await;
        assert!(!publisher.publish_all().await, "there is no stream");
        publisher.measure().await;
        outbox.check_room().unwrap();
        store(&[event("presence-2", PRESENCE_SUBJECT)]).await;
        publisher.measure().await;
        assert!(matches!(outbox.check_room(), Err(StoreError::Full)));
        store::remove(reads.pool(), &["presence-1", "presence-2"]).await.unwrap();
        publisher.measure().await;
        outbox.check_room().unwrap();

        service::streams::open(&bus, service::streams::events_out()).await.unwrap();
        assert!(!publisher.publish_all().await, "there is no chat-service");
        store(&[event("c", READ_SUBJECT)]).await;
        assert!(!publisher.publish_all().await);
        let stream = bus.jetstream().get_stream(EVENTS_OUT_STREAM).await.unwrap();
        assert_eq!(stream.cached_info().state.messages, 3);
        for (seq, event_id) in [(1, "a"), (2, "b"), (3, "c")] {
            let message = stream.get_raw_message(seq).await.unwrap();
            assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), event_id);
        }
        // One that is larger than NATS allows blocks only itself.
        let large = Outgoing { body: format!("\"{}\"", "x".repeat(2 << 20)), ..event("large", READ_SUBJECT) };
        store(&[large, event("d", READ_SUBJECT)]).await;
        assert!(!publisher.publish_all().await);
        let message = stream.get_raw_message(4).await.unwrap();
        assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), "d");
        let left =
            store::lock_oldest(&mut reads.pool().acquire().await.unwrap(), READ_SUBJECT, 9).await.unwrap();
        assert_eq!(left.iter().map(|event| &*event.event_id).collect::<Vec<_>>(), ["large"]);
        store::remove(reads.pool(), &["large"]).await.unwrap();
        let backlogs = store::backlogs(reads.pool(), &SUBJECTS, 9).await.unwrap();
        let left: Vec<_> = backlogs.iter().map(|left| (&*left.subject, left.count, left.age > 0.0)).collect();
        assert_eq!(left, [(SENT_SUBJECT, 1, true)]);
    }
}
