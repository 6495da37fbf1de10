//! Publishes commits: normally at once; after a failure, any replica publishes them from the outbox table.
//!
//! Gateways receive events over core NATS, which may lose them: gateways detect the gap by `seq`. notify-service
//! receives log entries over JetStream a moment later. One entry covers several commits, because publishing to
//! JetStream costs as much as a commit. A row leaves the outbox only after JetStream has acknowledged its entry.
//! Publishing twice is harmless.

mod entries;
mod events;
mod sweep;

pub use events::{Commit, EventRules};

use contract::UserId;
use contract::chat::{ConversationOpened, LogEntry, Marker, Message, MessageChanged, Mine};
use entries::{WAITING, publish_log};
use events::{Pending, TracedEvent, change_events, mute_entry, publish_events, read_entry, read_event};
use service::{
    Bus, Span,
    postgres::Pool,
    trace::{self, Kind},
};
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use sweep::sweep_repeatedly;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handle of the outbox. Cheap to clone; its task ends once every clone is dropped.
#[derive(Clone)]
pub struct Outbox {
    bus: Bus,
    pending: mpsc::Sender<Pending>,
    rules: EventRules,
    /// Unix seconds of the last successful sweep.
    swept_at: Arc<AtomicI64>,
}

/// Unix seconds of the last successful sweep.
pub struct OutboxHealth(Arc<AtomicI64>);

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

    /// Whether new conversations have rows of the outbox.
    pub const fn publishes_openings(&self) -> bool {
        self.rules.publishes_openings
    }

    /// Publishes a new conversation.
    pub async fn publish_opening(&self, outbox_id: i64, event: ConversationOpened) {
        let entry = LogEntry::Opened { event };
        self.publish_commit(&[], Pending { outbox_ids: vec![outbox_id], entry, backend_event: None }).await;
    }

    /// Publishes to notify-service that a participant muted a conversation, or ended a mute.
    pub async fn publish_mute(&self, outbox_id: i64, user: UserId, mine: Mine) {
        let entry = mute_entry(outbox_id, mine.conversation_id, user, mine.muted_until);
        self.publish_commit(&[], Pending { outbox_ids: vec![outbox_id], entry, backend_event: None }).await;
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
