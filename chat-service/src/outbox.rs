//! Telling the others what was committed: at once in the ordinary case, after a crash by whichever replica finds it.
//!
//! Gateways hear it over core NATS, which may lose it: they find the hole by `seq`. notify-service hears it over
//! JetStream, and an entry leaves the outbox only when JetStream has acknowledged that. Told twice does no harm.

use crate::{
    reports,
    store::{self, Unsent},
};
use anyhow::Context;
use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use contract::chat::{ChatEvent, LogEntry, Marker, Message, Stored};
use contract::{ConversationId, Event, UserId};
use service::{
    Bus, Span, postgres,
    trace::{self, Kind},
};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Entries told but not yet acknowledged by JetStream; of further ones nobody waits for the acknowledgement.
const IN_FLIGHT: usize = 1024;
/// From one taking of entries out of the table to the next: each is a commit.
const FORGET: Duration = Duration::from_millis(100);
/// How old an entry is before someone else than its writer tells it.
const STALE: Duration = Duration::from_secs(3);
/// How often stale entries are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How long one look may take; it goes on with the next.
const HEAL: Duration = Duration::from_secs(8);
/// Stale entries that are told together.
const STALE_BATCH: i64 = 64;

/// The way to the outbox. Cheap to clone; it ends once every clone is gone.
#[derive(Clone)]
pub struct Outbox {
    bus: Bus,
    told: mpsc::Sender<Told>,
    /// Unix seconds of the last look for stale entries.
    looked: Arc<AtomicI64>,
}

/// Unix seconds of the last look for stale entries.
pub struct Pulse(Arc<AtomicI64>);

/// What one commit has to tell.
#[derive(Debug, Default)]
pub struct Commit {
    events: Vec<Telling>,
    log: Vec<Stored>,
    everyone: HashMap<ConversationId, Vec<UserId>>,
}

/// An event, and the step of telling it.
type Telling = (ChatEvent, Span);

/// An entry that the gateways were told, and JetStream is being told.
struct Told {
    outbox_id: i64,
    ack: PublishAckFuture,
}

impl Commit {
    /// Adds a message; the first of a conversation comes with everyone who is in it.
    pub fn add(&mut self, message: &Message, everyone: Option<Vec<UserId>>, cause: &Span) {
        let conversation = message.conversation_id;
        if let Some(everyone) = everyone {
            self.everyone.insert(conversation, everyone);
        }
        let recipients = self.everyone.get(&conversation).into_iter().flatten().copied();
        let publish = cause.child("publish", Kind::Producer);
        self.log.push(Stored {
            conversation_id: conversation,
            message_id: message.message_id,
            sender_id: message.sender_id,
            sender_username: message.sender_username.clone(),
            recipients: recipients.filter(|user| *user != message.sender_id).collect(),
            traceparent: publish.parent(),
        });
        self.events.push((ChatEvent::Message(message.clone()), publish));
    }

    /// How many messages.
    pub fn len(&self) -> u64 {
        self.events.len() as u64
    }
}

/// Starts what empties the outbox.
pub fn start(bus: Bus, pool: PgPool, tasks: &TaskTracker, shutdown: CancellationToken) -> Outbox {
    let (told, receiver) = mpsc::channel(IN_FLIGHT);
    let looked = Arc::new(AtomicI64::new(contract::Timestamp::now().unix()));
    tasks.spawn(forget(receiver, pool.clone()));
    tasks.spawn(look(bus.clone(), pool, looked.clone(), shutdown));
    Outbox { bus, told, looked }
}

impl Outbox {
    /// Tells of stored messages.
    pub async fn tell(&self, outbox_id: i64, commit: Commit) {
        let Commit { events, log, .. } = commit;
        self.tell_all(outbox_id, &events, &LogEntry::Stored { messages: log }).await;
    }

    /// Tells of a marker that moved.
    pub async fn tell_read(&self, outbox_id: i64, marker: Marker) {
        let publish = Span::under(trace::current(), "publish", Kind::Producer);
        self.tell_all(outbox_id, &[(ChatEvent::Read(marker), publish)], &read_entry(&marker)).await;
    }

    async fn tell_all(&self, outbox_id: i64, events: &[Telling], entry: &LogEntry) {
        if !self.bus.is_connected() {
            return; // The entry stays, and is told once NATS is back.
        }
        match publish(&self.bus, outbox_id, events, entry).await {
            Ok(ack) => {
                // Full: JetStream is slow, which must not slow the chat. The entry stays, and is told again.
                if self.told.try_send(Told { outbox_id, ack }).is_err() {
                    metrics::counter!("chat_outbox_full_total").increment(1);
                }
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), outbox_id, "tell of a commit; will be repeated")
            }
        }
    }

    /// What says how many entries are not yet acknowledged, without keeping the outbox going.
    pub fn depth(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let told = self.told.downgrade();
        move || told.upgrade().map_or(0, |told| told.max_capacity() - told.capacity())
    }

    /// What says whether stale entries are still being looked for. Holding it doesn't keep the outbox going.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.looked.clone())
    }
}

impl Pulse {
    /// Whether stale entries are still being looked for.
    ///
    /// # Errors
    /// When they aren't.
    pub fn check(&self) -> anyhow::Result<()> {
        let idle = contract::Timestamp::now().unix() - self.0.load(Ordering::Relaxed);
        anyhow::ensure!(idle < 10, "nobody has looked into the outbox for {idle} s");
        Ok(())
    }
}

fn read_entry(marker: &Marker) -> LogEntry {
    LogEntry::Read {
        user_id: marker.user_id,
        conversation_id: marker.conversation_id,
        message_id: marker.message_id,
    }
}

/// Tells the gateways, then JetStream, over one connection: whoever hears of the second finds the first on its way.
async fn publish(
    bus: &Bus,
    outbox_id: i64,
    events: &[Telling],
    entry: &LogEntry,
) -> anyhow::Result<PublishAckFuture> {
    for (event, step) in events {
        let payload = serde_json::to_vec(event).context("encode an event")?;
        bus.publish_bytes(event.subject(), payload.into(), step.parent()).await?;
    }
    let payload: Bytes = serde_json::to_vec(entry).context("encode a log entry")?.into();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("outbox-{outbox_id}"));
    bus.jetstream()
        .publish_with_headers(entry.subject(), headers, payload)
        .await
        .context("publish a log entry")
}

/// Takes entries out of the table once JetStream has them. What it didn't take stays, and is told again.
async fn forget(mut told: mpsc::Receiver<Told>, pool: PgPool) {
    let mut batch = Vec::new();
    while told.recv_many(&mut batch, IN_FLIGHT).await > 0 {
        let mut done = Vec::with_capacity(batch.len());
        for Told { outbox_id, ack } in batch.drain(..) {
            match ack.await {
                Ok(_) => done.push(outbox_id),
                Err(error) => {
                    metrics::counter!("chat_outbox_unacknowledged_total").increment(1);
                    tracing::warn!(
                        error = service::bus::chain(&error),
                        outbox_id,
                        "JetStream did not take an entry"
                    );
                }
            }
        }
        if let Err(error) = postgres::in_time(store::forget_sent(&pool, &done)).await {
            tracing::warn!(error = service::bus::chain(&error), "empty the outbox; will be told again");
        }
        tokio::time::sleep(FORGET).await;
    }
}

/// Looks for entries that their writer left behind.
async fn look(bus: Bus, pool: PgPool, looked: Arc<AtomicI64>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
            () = shutdown.cancelled() => return,
        }
        let healing = async {
            heal(&bus, &pool).await?;
            reports::tell_left(&bus, &pool).await
        };
        let healed = tokio::time::timeout(HEAL, healing).await.context("it takes too long");
        match healed.flatten() {
            Ok(()) => looked.store(contract::Timestamp::now().unix(), Ordering::Relaxed),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "look into the outbox"),
        }
    }
}

async fn heal(bus: &Bus, pool: &PgPool) -> anyhow::Result<()> {
    metrics::gauge!("chat_outbox_age_seconds").set(store::outbox_age(pool).await?);
    while bus.is_connected() {
        let mut transaction = pool.begin().await?;
        let stale = store::lock_unsent(&mut transaction, STALE.as_secs_f64(), STALE_BATCH).await?;
        if stale.is_empty() {
            return Ok(());
        }
        let mut done = Vec::with_capacity(stale.len());
        for unsent in &stale {
            let (events, entry) = rebuild(pool, unsent).await?;
            publish(bus, unsent.outbox_id, &events, &entry)
                .await?
                .await
                .context("JetStream did not take an entry")?;
            done.push(unsent.outbox_id);
        }
        store::forget_sent(&mut *transaction, &done).await?;
        transaction.commit().await?;
        metrics::counter!("chat_outbox_healed_total").increment(done.len() as u64);
        tracing::info!(entries = done.len(), "told what a writer had left behind");
    }
    Ok(())
}

/// What an entry has to tell, read from the tables.
async fn rebuild(pool: &PgPool, unsent: &Unsent) -> anyhow::Result<(Vec<Telling>, LogEntry)> {
    if let Some(reader) = unsent.reader {
        let [conversation] = unsent.conversations[..] else {
            anyhow::bail!("an entry of a reader names one message")
        };
        let conversation = ConversationId::new(conversation)?;
        let reader = UserId::new(reader)?;
        let markers = store::members(pool, conversation, None).await?.markers(conversation);
        let marker =
            markers.into_iter().find(|marker| marker.user_id == reader).context("a reader has a marker")?;
        // The marker may have moved on since: told as it is now, it is only newer.
        return Ok((vec![(ChatEvent::Read(marker), Span::none())], read_entry(&marker)));
    }
    let mut everyone = store::everyone(pool, &unsent.conversations).await?;
    let mut commit = Commit::default();
    for message in store::messages(pool, &unsent.conversations, &unsent.messages).await? {
        let people = everyone.remove(&message.conversation_id);
        commit.add(&message, people, &Span::none());
    }
    Ok((commit.events, LogEntry::Stored { messages: commit.log }))
}
