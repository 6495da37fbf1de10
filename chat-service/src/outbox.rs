//! Publishes commits: normally at once; after a failure, any replica publishes them from the outbox table.
//!
//! Gateways receive events over core NATS, which may lose them: gateways detect the gap by `seq`. notify-service
//! receives log entries over JetStream a moment later. One entry covers several commits, because publishing to
//! JetStream costs as much as a commit. A row leaves the outbox only after JetStream has acknowledged its entry.
//! Publishing twice is harmless.

use crate::{
    kinds::{CurrentKinds, Kinds},
    reports,
    store::{self, OutboxRow},
};
use anyhow::Context;
use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use contract::chat::{ChatEvent, LogEntry, Marker, Message, MessageChanged, Stored};
use contract::{ConversationId, Event, UserId};
use futures_util::future::join_all;
use service::{
    Bus, Span,
    postgres::{self, Pool},
    trace::{self, Kind},
};
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

/// Maximum number of entries that wait for JetStream; further ones stay in the table until they are stale.
const WAITING: usize = 1024;
/// Minimum time between two publications to JetStream. A single commit is published at once. In a burst, each message
/// mostly supersedes the notification of the one before, which costs little if notify-service receives both together.
const LOG_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum size of an entry in bytes of JSON, unless a single commit is larger: half of the payload limit of NATS.
const ENTRY_BYTES: usize = 512 * 1024;
/// Age at which a row is stale, so that any replica may publish it.
const STALE: Duration = Duration::from_secs(3);
/// Average time between two sweeps for stale rows.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of a sweep. The next sweep continues.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(8);
/// Maximum number of stale rows per transaction.
const STALE_BATCH: i64 = 64;

/// Handle of the outbox. Cheap to clone; its task ends once every clone is dropped.
#[derive(Clone)]
pub struct Outbox {
    bus: Bus,
    pending: mpsc::Sender<Pending>,
    rules: EventRules,
    /// Unix seconds of the last successful sweep.
    swept_at: Arc<AtomicI64>,
}

/// Which events are published.
#[derive(Clone)]
pub struct EventRules {
    /// Whether changes are also published for other backends.
    pub publishes_changes: bool,
    /// The kinds, some of which cause no notifications.
    pub kinds: CurrentKinds,
}

/// Unix seconds of the last successful sweep.
pub struct OutboxHealth(Arc<AtomicI64>);

/// The events and log records of one commit.
#[derive(Debug)]
pub struct Commit {
    kinds: Arc<Kinds>,
    events: Vec<TracedEvent>,
    log: Vec<Stored>,
    participants: HashMap<ConversationId, Vec<UserId>>,
}

/// An event, and the span of its publication.
type TracedEvent = (ChatEvent, Span);

/// Rows of the outbox whose events the gateways have, and what is still to be published to JetStream.
#[derive(Debug)]
struct Pending {
    outbox_ids: Vec<i64>,
    entry: LogEntry,
    /// The event for other backends, if the operator has enabled it.
    backend_event: Option<Box<MessageChanged>>,
}

impl Commit {
    fn new(kinds: Arc<Kinds>) -> Self {
        let (events, log, participants) = Default::default();
        Self { kinds, events, log, participants }
    }

    /// Adds a message. The first message of a conversation comes with the conversation's participants.
    pub fn add(&mut self, message: &Message, participants: Option<Vec<UserId>>, cause: &Span) {
        let conversation = message.conversation_id;
        if let Some(participants) = participants {
            self.participants.insert(conversation, participants);
        }
        let recipients = self.participants.get(&conversation).into_iter().flatten().copied();
        let publish = cause.child("publish", Kind::Producer);
        self.log.push(Stored {
            conversation_id: conversation,
            message_id: message.message_id,
            seq: Some(message.seq),
            sender_id: message.sender_id,
            sender_username: message.sender_username.clone(),
            recipients: recipients.filter(|user| *user != message.sender_id).collect(),
            silent: !self.kinds.notifies(message.kind.as_deref()),
            kind: message.kind.clone(),
            system: message.system,
            traceparent: publish.parent(),
        });
        self.events.push((ChatEvent::Message(message.clone()), publish));
    }

    /// Number of messages.
    pub fn len(&self) -> u64 {
        self.events.len() as u64
    }
}

/// Starts the tasks that publish to JetStream and sweep the outbox table.
pub fn start(
    bus: Bus,
    pool: Pool,
    rules: EventRules,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> Outbox {
    let (pending, receiver) = mpsc::channel(WAITING);
    let swept_at = Arc::new(AtomicI64::new(contract::Timestamp::now().unix()));
    tasks.spawn(publish_log(bus.clone(), receiver, pool.clone()));
    tasks.spawn(sweep_repeatedly(bus.clone(), pool, rules.clone(), swept_at.clone(), shutdown));
    Outbox { bus, pending, rules, swept_at }
}

impl Outbox {
    /// An empty commit.
    pub fn commit(&self) -> Commit {
        Commit::new(self.rules.kinds.get())
    }

    /// Publishes stored messages.
    pub async fn publish(&self, outbox_id: i64, commit: Commit) {
        let Commit { events, log, .. } = commit;
        let entry = LogEntry::Stored { messages: log };
        self.publish_commit(&events, Pending { outbox_ids: vec![outbox_id], entry, backend_event: None })
            .await;
    }

    /// Publishes a marker that moved.
    pub async fn publish_read(&self, outbox_id: i64, marker: Marker) {
        let publish = Span::under(trace::current(), "publish", Kind::Producer);
        let pending = Pending { outbox_ids: vec![outbox_id], entry: read_entry(marker), backend_event: None };
        self.publish_commit(&[(read_event(marker), publish)], pending).await;
    }

    /// Publishes the change with this number, and the markers that moved past the message. The message may have changed
    /// again since then; a later state is as good.
    pub async fn publish_change(&self, outbox_id: i64, number: i64, message: Message, moved: Vec<Marker>) {
        let publish = || Span::under(trace::current(), "publish", Kind::Producer);
        let backend_event =
            self.rules.publishes_changes.then(|| Box::new(MessageChanged::new(number, &message)));
        let (events, entry) = change_events(number, message, moved);
        let events: Vec<_> = events.into_iter().map(|event| (event, publish())).collect();
        self.publish_commit(&events, Pending { outbox_ids: vec![outbox_id], entry, backend_event }).await;
    }

    async fn publish_commit(&self, events: &[TracedEvent], pending: Pending) {
        if !self.bus.is_connected() {
            return; // The row stays in the outbox and is published once NATS is back.
        }
        if let Err(error) = publish_events(&self.bus, events).await {
            let outbox_ids = &pending.outbox_ids;
            tracing::warn!(error = format!("{error:#}"), ?outbox_ids, "publish a commit; will be retried");
            return;
        }
        // If the channel is full, JetStream is slow, which must not slow down the chat. The row stays in the outbox and
        // is published again later.
        if self.pending.try_send(pending).is_err() {
            metrics::counter!("chat_outbox_full_total").increment(1);
        }
    }

    /// Returns a function that counts the entries waiting for JetStream. It doesn't keep the outbox running.
    pub fn depth(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let pending = self.pending.downgrade();
        move || pending.upgrade().map_or(0, |pending| pending.max_capacity() - pending.capacity())
    }

    /// Returns the health of the sweeps. It doesn't keep the outbox running.
    pub fn health(&self) -> OutboxHealth {
        OutboxHealth(self.swept_at.clone())
    }
}

impl OutboxHealth {
    /// Checks that sweeps succeed.
    ///
    /// # Errors
    /// If no sweep has succeeded for 10 s.
    pub fn check(&self) -> anyhow::Result<()> {
        let idle = contract::Timestamp::now().unix() - self.0.load(Ordering::Relaxed);
        anyhow::ensure!(idle < 10, "no successful sweep of the outbox for {idle} s");
        Ok(())
    }
}

/// The event for the conversation's sockets. It has no unread count, because their gateways compute it.
const fn read_event(marker: Marker) -> ChatEvent {
    ChatEvent::Read(Marker { unread_count: None, ..marker })
}

/// The log entry from which all sockets of the user receive the marker.
const fn read_entry(marker: Marker) -> LogEntry {
    let Marker { user_id, conversation_id, message_id, .. } = marker;
    LogEntry::Read { user_id, conversation_id, message_id, marker: Some(marker) }
}

/// The events of a change for the conversation's sockets, and the log entry.
fn change_events(change: i64, message: Message, moved: Vec<Marker>) -> (Vec<ChatEvent>, LogEntry) {
    let (conversation_id, message_id) = (message.conversation_id, message.message_id);
    let deleted = message.deleted_at.is_some();
    let changed = ChatEvent::Changed { conversation_id, change, message };
    let events = [changed].into_iter().chain(moved.iter().copied().map(read_event)).collect();
    (events, LogEntry::Changed { conversation_id, message_id, deleted, markers: moved })
}

async fn publish_events(bus: &Bus, events: &[TracedEvent]) -> anyhow::Result<()> {
    for (event, span) in events {
        let payload = serde_json::to_vec(event).context("encode an event")?;
        bus.publish_bytes(event.subject(), payload.into(), span.parent()).await?;
    }
    Ok(())
}

/// Publishes on the connection of the events, so that a receiver of the entry finds them published too.
async fn publish_entry(bus: &Bus, pending: &Pending) -> anyhow::Result<PublishAckFuture> {
    let payload: Bytes = serde_json::to_vec(&pending.entry).context("encode a log entry")?.into();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", pending.message_id());
    bus.jetstream()
        .publish_with_headers(pending.entry.subject(), headers, payload)
        .await
        .context("publish a log entry")
}

/// Publishes entries to JetStream and deletes their rows once they are acknowledged. Rows without an acknowledgement
/// stay in the table and are published again.
async fn publish_log(bus: Bus, mut receiver: mpsc::Receiver<Pending>, pool: Pool) {
    let mut batch = Vec::with_capacity(WAITING);
    while receiver.recv_many(&mut batch, WAITING).await > 0 {
        let mut published = Vec::new();
        for pending in merge(batch.drain(..)) {
            let ack = publish_entry(&bus, &pending).await;
            let (bus, backend_event) = (&bus, pending.backend_event);
            let ack = async move {
                ack?.await.map(drop).context("no acknowledgement from JetStream")?;
                match backend_event {
                    Some(event) => bus.store(&*event, &event.event_id).await,
                    None => Ok(()),
                }
            };
            published.push((pending.outbox_ids, ack));
        }
        let done = acknowledged(published).await;
        if let Err(error) = postgres::in_time(store::delete_outbox(&pool, &done)).await {
            tracing::warn!(
                error = service::bus::chain(&error),
                "delete published rows of the outbox; they will be published again"
            );
        }
        let next = Instant::now() + LOG_INTERVAL;
        while Instant::now() < next && receiver.len() < WAITING / 2 && !receiver.is_closed() {
            tokio::time::sleep(LOG_INTERVAL / 8).await;
        }
    }
}

/// Returns the rows that JetStream acknowledges. Awaits all acknowledgements at the same time, because each lost one
/// takes seconds.
async fn acknowledged(published: Vec<(Vec<i64>, impl Future<Output = anyhow::Result<()>>)>) -> Vec<i64> {
    let acknowledged = published.into_iter().map(async |(outbox_ids, ack)| match ack.await {
        Ok(()) => outbox_ids,
        Err(error) => {
            metrics::counter!("chat_outbox_unacknowledged_total").increment(outbox_ids.len() as u64);
            tracing::warn!(
                error = format!("{error:#}"),
                ?outbox_ids,
                "publish to JetStream; will be retried"
            );
            Vec::new()
        }
    });
    join_all(acknowledged).await.concat()
}

/// Merges consecutive entries of stored messages.
fn merge(pending: impl IntoIterator<Item = Pending>) -> Vec<Pending> {
    let mut all: Vec<Pending> = Vec::new();
    let mut room = 0;
    for mut next in pending {
        let size = next.bytes();
        match (all.last_mut(), &mut next) {
            (
                Some(Pending { outbox_ids, entry: LogEntry::Stored { messages }, .. }),
                Pending { outbox_ids: more_ids, entry: LogEntry::Stored { messages: more }, .. },
            ) if size <= room => {
                outbox_ids.append(more_ids);
                messages.append(more);
                room -= size;
            }
            _ => {
                room = ENTRY_BYTES.saturating_sub(size);
                all.push(next);
            }
        }
    }
    all
}

impl Pending {
    /// Key by which JetStream drops a repeated entry. It identifies exactly these rows: if one row is published again
    /// alone, JetStream must not drop it because of an entry with other rows.
    fn message_id(&self) -> String {
        match self.outbox_ids[..] {
            [first, .., last] => format!("outbox-{first}-{last}"),
            _ => format!("outbox-{}", self.outbox_ids.first().copied().unwrap_or_default()),
        }
    }

    /// Upper bound of the size in bytes of JSON.
    fn bytes(&self) -> usize {
        let stored = |stored: &Stored| {
            let username = service::bus::json_len(&stored.sender_username);
            400 + username + 20 * stored.recipients.len()
        };
        match &self.entry {
            LogEntry::Stored { messages } => messages.iter().map(stored).sum(),
            LogEntry::Read { .. } => 512,
            LogEntry::Changed { markers, .. } => 512 + 320 * markers.len(),
        }
    }
}

/// Sweeps the outbox and the reports until the token is cancelled.
async fn sweep_repeatedly(
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
        let sweep = async {
            sweep(&bus, &pool, &rules).await?;
            reports::publish_stale(&bus, &pool).await
        };
        let swept = tokio::time::timeout(SWEEP_TIMEOUT, sweep).await.context("the sweep timed out");
        match swept.flatten() {
            Ok(()) => swept_at.store(contract::Timestamp::now().unix(), Ordering::Relaxed),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "sweep the outbox"),
        }
    }
}

/// Publishes stale rows of the outbox.
async fn sweep(bus: &Bus, pool: &Pool, rules: &EventRules) -> anyhow::Result<()> {
    metrics::gauge!("chat_outbox_age_seconds").set(store::outbox_age(pool).await?);
    while bus.is_connected() {
        let mut transaction = pool.begin().await?;
        let stale = store::lock_stale(&mut transaction, STALE.as_secs_f64(), STALE_BATCH).await?;
        if stale.is_empty() {
            return Ok(());
        }
        let mut done = Vec::with_capacity(stale.len());
        for row in &stale {
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
            if let Some(event) = &pending.backend_event {
                bus.store(&**event, &event.event_id).await?;
            }
            done.push(row.outbox_id);
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
        let members = store::members(pool, conversation, None).await?;
        // The marker may have moved on since then. Publishing the newer one is correct.
        let marker = members.markers_of(conversation, &[reader]).pop().context("the reader has no marker")?;
        return Ok(Some((vec![(read_event(marker), Span::none())], read_entry(marker))));
    }
    if let Some(change) = row.change {
        return rebuild_change(pool, row, change).await;
    }
    let mut participants = store::participants(pool, &row.conversations).await?;
    let mut commit = Commit::new(kinds.get());
    for message in store::messages(pool, &row.conversations, &row.messages).await? {
        let participants = participants.remove(&message.conversation_id);
        commit.add(&message, participants, &Span::none());
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
    let head = members.head().seq;
    // Which markers moved is not stored. The others are repeats, which gateways and notify-service ignore.
    let is_past = |marker: &Marker| message.deleted_at.is_some() && marker.seq >= message.seq;
    let moved = members.markers(conversation).into_iter().filter(is_past);
    let moved = moved.map(|marker| Marker { unread_count: Some(head - marker.seq), ..marker }).collect();
    let (events, entry) = change_events(change, message, moved);
    Ok(Some((events.into_iter().map(|event| (event, Span::none())).collect(), entry)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::MessageId;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Vec<Pending>> {
        // For each entry, the number of recipients of each message; `None` for a marker.
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
            let entry = |(outbox_id, recipients): (i64, Option<Vec<usize>>)| Pending {
                outbox_ids: vec![outbox_id],
                backend_event: None,
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
                                kind: (count % 2 == 0).then(|| "k".repeat(contract::limits::KIND_BYTES)),
                                silent: count % 2 == 0,
                                system: count % 2 == 0,
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

    /// All outbox ids and all message ids, in order.
    fn flat(all: &[Pending]) -> (Vec<i64>, Vec<MessageId>) {
        let messages = |pending: &Pending| match &pending.entry {
            LogEntry::Stored { messages } => messages.iter().map(|stored| stored.message_id).collect(),
            LogEntry::Read { message_id, .. } | LogEntry::Changed { message_id, .. } => vec![*message_id],
        };
        (
            all.iter().flat_map(|pending| pending.outbox_ids.clone()).collect(),
            all.iter().flat_map(messages).collect(),
        )
    }

    proptest! {
        #[test]
        fn merging_keeps_all_messages_in_order(entries in entries()) {
            let before = flat(&entries);
            let all = merge(entries);
            prop_assert_eq!(flat(&all), before);
            for pending in &all {
                let json = serde_json::to_vec(&pending.entry).unwrap();
                prop_assert!(json.len() <= pending.bytes());
                prop_assert!(pending.outbox_ids.len() == 1 || pending.bytes() <= ENTRY_BYTES);
            }
            let ids: std::collections::HashSet<_> = all.iter().map(Pending::message_id).collect();
            prop_assert_eq!(ids.len(), all.len());
        }
    }

    #[test]
    fn small_commits_are_merged() {
        let stored = |outbox_id| Pending {
            outbox_ids: vec![outbox_id],
            entry: LogEntry::Stored { messages: vec![] },
            backend_event: None,
        };
        let all = merge((1..=50).map(stored));
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].message_id(), "outbox-1-50");
    }

    #[tokio::test(start_paused = true)]
    async fn lost_acknowledgements_time_out_at_the_same_time() {
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
