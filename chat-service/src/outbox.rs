//! Telling the others what was committed: at once in the ordinary case, after a crash by whichever replica finds it.
//!
//! Gateways hear it over core NATS, which may lose it: they find the hole by `seq`. notify-service hears it over
//! JetStream a moment later, of several commits together, as each publication there costs as much as a commit; an entry
//! leaves the outbox only when JetStream has acknowledged that. Told twice does no harm.

use crate::{
    reports,
    store::{self, Unsent},
};
use anyhow::Context;
use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use contract::chat::{ChatEvent, LogEntry, Marker, Message, Stored};
use contract::{ConversationId, Event, UserId};
use futures_util::future::join_all;
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
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Entries that wait for JetStream; further ones stay in the table until they are stale.
const WAITING: usize = 1024;
/// From one telling of JetStream to the next. One that comes alone goes at once; and what a burst of messages does to an
/// inbox is mostly undone by the next message, which costs little where notify-service hears of both together.
const EVERY: Duration = Duration::from_millis(200);
/// Bytes of JSON that are told in one, at most, unless one commit alone has more: half of what NATS takes.
const TOGETHER: usize = 512 * 1024;
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

/// Entries of the outbox that the gateways were told, and JetStream is to be told as one.
#[derive(Debug)]
struct Told {
    outbox_ids: Vec<i64>,
    entry: LogEntry,
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
            seq: Some(message.seq),
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
    let (told, receiver) = mpsc::channel(WAITING);
    let looked = Arc::new(AtomicI64::new(contract::Timestamp::now().unix()));
    tasks.spawn(log(bus.clone(), receiver, pool.clone()));
    tasks.spawn(look(bus.clone(), pool, looked.clone(), shutdown));
    Outbox { bus, told, looked }
}

impl Outbox {
    /// Tells of stored messages.
    pub async fn tell(&self, outbox_id: i64, commit: Commit) {
        let Commit { events, log, .. } = commit;
        self.tell_all(outbox_id, &events, LogEntry::Stored { messages: log }).await;
    }

    /// Tells of a marker that moved.
    pub async fn tell_read(&self, outbox_id: i64, marker: Marker) {
        let publish = Span::under(trace::current(), "publish", Kind::Producer);
        self.tell_all(outbox_id, &[(read_event(marker), publish)], read_entry(marker)).await;
    }

    async fn tell_all(&self, outbox_id: i64, events: &[Telling], entry: LogEntry) {
        if !self.bus.is_connected() {
            return; // The entry stays, and is told once NATS is back.
        }
        if let Err(error) = publish_events(&self.bus, events).await {
            tracing::warn!(error = format!("{error:#}"), outbox_id, "tell of a commit; will be repeated");
            return;
        }
        // Full: JetStream is slow, which must not slow the chat. The entry stays, and is told again.
        if self.told.try_send(Told { outbox_ids: vec![outbox_id], entry }).is_err() {
            metrics::counter!("chat_outbox_full_total").increment(1);
        }
    }

    /// What says how many entries wait for JetStream, without keeping the outbox going.
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

/// What the conversation's sockets receive: their gateways say how much is unread.
const fn read_event(marker: Marker) -> ChatEvent {
    ChatEvent::Read(Marker { unread_count: None, ..marker })
}

/// What the user's own sockets receive, wherever they are.
const fn read_entry(marker: Marker) -> LogEntry {
    let Marker { user_id, conversation_id, message_id, .. } = marker;
    LogEntry::Read { user_id, conversation_id, message_id, marker: Some(marker) }
}

async fn publish_events(bus: &Bus, events: &[Telling]) -> anyhow::Result<()> {
    for (event, step) in events {
        let payload = serde_json::to_vec(event).context("encode an event")?;
        bus.publish_bytes(event.subject(), payload.into(), step.parent()).await?;
    }
    Ok(())
}

/// Over the connection of the events: whoever hears of this finds them on their way.
async fn publish_entry(bus: &Bus, told: &Told) -> anyhow::Result<PublishAckFuture> {
    let payload: Bytes = serde_json::to_vec(&told.entry).context("encode a log entry")?.into();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", told.message_id());
    bus.jetstream()
        .publish_with_headers(told.entry.subject(), headers, payload)
        .await
        .context("publish a log entry")
}

/// Tells JetStream, and takes the entries out of the table once it has them. What it didn't take stays, and is told again.
async fn log(bus: Bus, mut told: mpsc::Receiver<Told>, pool: PgPool) {
    let mut batch = Vec::with_capacity(WAITING);
    while told.recv_many(&mut batch, WAITING).await > 0 {
        let mut published = Vec::new();
        for told in together(batch.drain(..)) {
            let ack = publish_entry(&bus, &told).await;
            let ack = async { ack?.await.map(drop).context("JetStream did not take it") };
            published.push((told.outbox_ids, ack));
        }
        let done = acknowledged(published).await;
        if let Err(error) = postgres::in_time(store::forget_sent(&pool, &done)).await {
            tracing::warn!(error = service::bus::chain(&error), "empty the outbox; will be told again");
        }
        let next = Instant::now() + EVERY;
        while Instant::now() < next && told.len() < WAITING / 2 && !told.is_closed() {
            tokio::time::sleep(EVERY / 8).await;
        }
    }
}

/// Those that JetStream acknowledges. All are waited for at once, as each takes seconds where the acknowledgements are lost.
async fn acknowledged(published: Vec<(Vec<i64>, impl Future<Output = anyhow::Result<()>>)>) -> Vec<i64> {
    let acknowledged = published.into_iter().map(async |(outbox_ids, ack)| match ack.await {
        Ok(()) => outbox_ids,
        Err(error) => {
            metrics::counter!("chat_outbox_unacknowledged_total").increment(outbox_ids.len() as u64);
            tracing::warn!(error = format!("{error:#}"), ?outbox_ids, "tell JetStream; will be repeated");
            Vec::new()
        }
    });
    join_all(acknowledged).await.concat()
}

/// Puts stored messages together that came one after the other.
fn together(told: impl IntoIterator<Item = Told>) -> Vec<Told> {
    let mut all: Vec<Told> = Vec::new();
    let mut room = 0;
    for mut next in told {
        let size = next.bytes();
        match (all.last_mut(), &mut next) {
            (
                Some(Told { outbox_ids, entry: LogEntry::Stored { messages } }),
                Told { outbox_ids: more_ids, entry: LogEntry::Stored { messages: more } },
            ) if size <= room => {
                outbox_ids.append(more_ids);
                messages.append(more);
                room -= size;
            }
            _ => {
                room = TOGETHER.saturating_sub(size);
                all.push(next);
            }
        }
    }
    all
}

impl Told {
    /// What JetStream knows it by, when it is told it twice. Only of the same entries: where one is told again alone, it
    /// must not count as told because others were.
    fn message_id(&self) -> String {
        match self.outbox_ids[..] {
            [first, .., last] => format!("outbox-{first}-{last}"),
            _ => format!("outbox-{}", self.outbox_ids.first().copied().unwrap_or_default()),
        }
    }

    /// Bytes of JSON, rather too many than too few.
    fn bytes(&self) -> usize {
        let stored = |stored: &Stored| {
            let username = service::bus::json_len(&stored.sender_username);
            288 + username + 20 * stored.recipients.len()
        };
        match &self.entry {
            LogEntry::Stored { messages } => messages.iter().map(stored).sum(),
            LogEntry::Read { .. } => 512,
        }
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
            publish_events(bus, &events).await?;
            let told = Told { outbox_ids: vec![unsent.outbox_id], entry };
            publish_entry(bus, &told).await?.await.context("JetStream did not take an entry")?;
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
        let members = store::members(pool, conversation, None).await?;
        let mut markers = members.markers(conversation).into_iter();
        let marker = markers.find(|marker| marker.user_id == reader).context("a reader has a marker")?;
        // The marker may have moved on since: told as it is now, it is only newer.
        let marker = Marker { unread_count: Some(members.head().seq - marker.seq), ..marker };
        return Ok((vec![(read_event(marker), Span::none())], read_entry(marker)));
    }
    let mut everyone = store::everyone(pool, &unsent.conversations).await?;
    let mut commit = Commit::default();
    for message in store::messages(pool, &unsent.conversations, &unsent.messages).await? {
        let people = everyone.remove(&message.conversation_id);
        commit.add(&message, people, &Span::none());
    }
    Ok((commit.events, LogEntry::Stored { messages: commit.log }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::MessageId;
    use proptest::prelude::*;

    fn told() -> impl Strategy<Value = Vec<Told>> {
        // Of each entry, the recipients of each message; or a marker.
        let entry = prop_oneof![
            9 => prop::collection::vec(0..3_000_usize, 1..4).prop_map(Some),
            1 => Just(None),
        ];
        prop::collection::vec(entry, 0..12).prop_map(|entries| {
            let mut message_id = 0;
            let mut next_id = || {
                message_id += 1;
                MessageId::new(message_id).unwrap()
            };
            let (conversation_id, user) =
                (ConversationId::new(i64::MAX).unwrap(), UserId::new(i64::MAX).unwrap());
            let entry = |(outbox_id, recipients): (i64, Option<Vec<usize>>)| Told {
                outbox_ids: vec![outbox_id],
                entry: match recipients {
                    None => {
                        LogEntry::Read { user_id: user, conversation_id, message_id: next_id(), marker: None }
                    }
                    Some(counts) => LogEntry::Stored {
                        messages: counts
                            .into_iter()
                            .map(|count| Stored {
                                conversation_id,
                                message_id: next_id(),
                                seq: Some(i64::MAX),
                                sender_id: user,
                                sender_username: "\"".repeat(count % 200),
                                recipients: vec![user; count],
                                traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                                    .parse()
                                    .ok(),
                            })
                            .collect(),
                    },
                },
            };
            (1..).zip(entries).map(entry).collect()
        })
    }

    /// Every entry's name, and every message, in order.
    fn flat(all: &[Told]) -> (Vec<i64>, Vec<MessageId>) {
        let messages = |told: &Told| match &told.entry {
            LogEntry::Stored { messages } => messages.iter().map(|stored| stored.message_id).collect(),
            LogEntry::Read { message_id, .. } => vec![*message_id],
        };
        (
            all.iter().flat_map(|told| told.outbox_ids.clone()).collect(),
            all.iter().flat_map(messages).collect(),
        )
    }

    proptest! {
        #[test]
        fn what_is_told_together_is_what_was_to_be_told_in_its_order(told in told()) {
            let before = flat(&told);
            let all = together(told);
            prop_assert_eq!(flat(&all), before);
            for told in &all {
                let json = serde_json::to_vec(&told.entry).unwrap();
                prop_assert!(json.len() <= told.bytes());
                prop_assert!(told.outbox_ids.len() == 1 || told.bytes() <= TOGETHER);
            }
            let ids: std::collections::HashSet<_> = all.iter().map(Told::message_id).collect();
            prop_assert_eq!(ids.len(), all.len());
        }
    }

    #[test]
    fn small_commits_go_together() {
        let stored =
            |outbox_id| Told { outbox_ids: vec![outbox_id], entry: LogEntry::Stored { messages: vec![] } };
        let all = together((1..=50).map(stored));
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].message_id(), "outbox-1-50");
    }

    #[tokio::test(start_paused = true)]
    async fn acknowledgements_that_are_lost_are_waited_for_at_once() {
        let start = Instant::now();
        let ack = |outbox_id: i64| async move {
            if outbox_id % 2 == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            anyhow::bail!("timed out")
        };
        let published = (1..=100).map(|outbox_id| (vec![outbox_id], ack(outbox_id))).collect();
        let expected: Vec<i64> = (1..=50).map(|half| 2 * half).collect();
        assert_eq!(acknowledged(published).await, expected);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }
}
