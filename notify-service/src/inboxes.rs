//! Changes inboxes. Each change is one transaction that locks the inbox, and is published to the gateways after its
//! commit.

mod marks;

use crate::catalogue::{Catalogue, fluent_id};
use crate::ops::{Membership, Moved, Mute, Op, OpKind, Step, collapse};
use crate::plan::{Changes, Inbox, InboxUpdate, Known, Plan};
use crate::steps::Steps;
use crate::store::{self, telling::Outgoing};
use contract::{
    TraceParent, UserId,
    notify::{INBOX_PLACE_HEADER, InboxEvent},
};
use service::{
    Bus, Span,
    postgres::{self, Pool},
    trace::{self, Kind},
};
use sqlx::{PgConnection, PgTransaction};
use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

/// Maximum number of operations in one transaction.
pub const OPS_PER_TRANSACTION: usize = 4_000;
/// Maximum number of bytes that one transaction stores, unless a single notification is larger. Several copies of them
/// are in memory.
pub const BYTES_PER_TRANSACTION: usize = 4 * 1024 * 1024;
/// Operations per transaction for an event that took too long as a whole.
const OPS_OF_A_SLOW_EVENT: usize = 50;
/// Settings of a connection that stores batches. Postgres cancels statements that we would no longer wait for, and a
/// lock that another transaction holds for long is detected before the rest of the batch has waited for long.
const WRITER_SETTINGS: [(&str, &str); 2] = [("statement_timeout", "7000"), ("lock_timeout", "2000")];
/// Time limit of the query that checks whether Postgres responds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit of a transaction.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(8);

/// The inboxes of all users.
#[derive(Clone)]
pub struct Inboxes {
    pool: Pool,
    /// The pool of the whole process, used to check whether Postgres responds.
    shared: Pool,
    bus: Bus,
    catalogue: watch::Receiver<Arc<Catalogue>>,
    /// The steps of reminders.
    steps: Arc<Steps>,
    /// Wakes the publisher of events for backends.
    publisher: Arc<Notify>,
    /// Whether users who have chosen nothing hide their presence.
    hides_by_default: bool,
    /// Maximum number of attempts: each connection of the pool may be broken.
    attempts: u32,
}

/// The outcome of operations, as far as it decides when the next ones are due.
#[derive(Debug, Default)]
pub struct Applied {
    /// Conversations with a new notification of a message.
    pub notified: HashSet<Membership>,
    /// [`Changes::early`].
    pub early: HashMap<Membership, Duration>,
}

/// The reason why an inbox was not changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The query or the connection failed.
    #[error("Postgres query failed")]
    Sql(#[from] sqlx::Error),
    /// Postgres took too long.
    #[error("Postgres does not answer")]
    TimedOut,
    /// There is no such notification in this inbox.
    #[error("no such notification")]
    NotFound,
    /// Too many changes of presence wait until the stream `EVENTS_OUT` accepts them.
    #[error("too many changes of presence wait for EVENTS_OUT")]
    Full,
}

impl StoreError {
    /// Whether the data is the cause, not Postgres, its connection or its schema: data exceptions, constraint
    /// violations and exceeded limits (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
    pub fn is_data(&self) -> bool {
        let Self::Sql(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
    }

    /// Whether the connection is broken. Another one may work.
    fn is_broken_connection(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed) => true,
            Self::Sql(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
            }
            _ => false,
        }
    }

    /// Whether a time limit was exceeded. A smaller batch, or other messages, may succeed.
    pub fn is_slow(&self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Sql(error) => postgres::is_delayed(error),
            Self::NotFound | Self::Full => false,
        }
    }

    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            _ if self.is_slow() => true,
            Self::Sql(error) => postgres::is_transient_error(error),
            Self::TimedOut | Self::Full => true,
            Self::NotFound => false,
        }
    }
}

impl Inboxes {
    /// The inboxes in this database, with changes published on this bus.
    pub fn new(pool: Pool, bus: Bus, catalogue: watch::Receiver<Arc<Catalogue>>) -> Self {
        let attempts = pool.options().get_max_connections() + 1;
        Self {
            shared: pool.clone(),
            pool,
            bus,
            catalogue,
            steps: Arc::default(),
            publisher: Arc::default(),
            hides_by_default: false,
            attempts,
        }
    }

    /// The same with reminders of what is unread.
    pub fn with_steps(self, steps: Steps) -> Self {
        Self { steps: Arc::new(steps), ..self }
    }

    /// The same with users who hide their presence unless they choose to show it.
    pub fn with_hides_by_default(self, hides_by_default: bool) -> Self {
        Self { hides_by_default, ..self }
    }

    /// Whether users who have chosen nothing hide their presence.
    pub const fn hides_by_default(&self) -> bool {
        self.hides_by_default
    }

    /// The steps of reminders.
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The same with its own connection, for a consumer that stores batch after batch. The pool hands out its
    /// connections in turn, and ten Postgres processes with cold caches cost half as much again.
    pub fn with_own_connection(&self) -> Self {
        let options = self.pool.options().clone().max_connections(1);
        let connect = self.pool.connect_options().as_ref().clone();
        let pool = options.connect_lazy_with(postgres::with_settings(connect, &WRITER_SETTINGS));
        let own = Self::new(pool.into(), self.bus.clone(), self.catalogue.clone());
        let (steps, publisher, hides_by_default) =
            (self.steps.clone(), self.publisher.clone(), self.hides_by_default);
        Self { shared: self.pool.clone(), steps, publisher, hides_by_default, ..own }
    }

    /// The current catalogue.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue.borrow().clone()
    }

    /// The connection to NATS.
    pub const fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The database, for reading.
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Stores events for backends, which [`crate::outbox`] publishes at once.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn tell(&self, events: &[Outgoing]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        self.with_retry(async || Ok(store::telling::add(&self.pool, events).await?)).await?;
        self.wake_publisher();
        Ok(())
    }

    /// Has events for backends published, which were just committed.
    pub fn wake_publisher(&self) {
        self.publisher.notify_one();
    }

    /// Notified when events for backends were committed.
    pub const fn publisher(&self) -> &Arc<Notify> {
        &self.publisher
    }

    /// Applies operations and publishes the resulting events. Waits if notifications can't be superseded yet. After an
    /// error, some operations may have been applied. Applying them again changes nothing.
    ///
    /// # Errors
    /// The first error.
    pub async fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        loop {
            let early = self.try_apply(ops).await?.early;
            let Some(wait) = early.into_values().max() else { return Ok(()) };
            tokio::time::sleep(wait).await;
        }
    }

    /// Like [`Inboxes::apply`], but returns the conversations that are early in place of waiting.
    ///
    /// # Errors
    /// The first error.
    pub async fn try_apply(&self, ops: &[Op]) -> Result<Applied, StoreError> {
        let mut applied = Applied::default();
        for ops in transactions(ops) {
            let changes = self.with_retry(async || self.store(ops).await).await?;
            metrics::counter!("notifications_total", "outcome" => "stored")
                .increment(changes.added.len() as u64);
            metrics::counter!("notifications_total", "outcome" => "repeated")
                .increment(changes.repeated as u64);
            metrics::counter!("notifications_total", "outcome" => "superseded")
                .increment(changes.superseded as u64);
            let mut causes = changes.causes.iter().peekable();
            for (index, update) in changes.updates.iter().enumerate() {
                let cause = causes.next_if(|(update, _)| *update == index).map(|(_, cause)| *cause);
                self.publish(update, cause).await;
            }
            let notified = changes
                .added
                .iter()
                .filter_map(|added| Some((added.user, added.summary.as_ref()?.conversation)));
            applied.notified.extend(notified);
            applied.early.extend(changes.early);
        }
        Ok(applied)
    }

    /// Like [`Inboxes::try_apply`], for an event that took too long as a whole: applies a few operations at a time, and
    /// continues after those that take too long.
    ///
    /// # Errors
    /// The first error that is not a timeout, else the last timeout.
    pub async fn apply_slowly(&self, ops: &[Op]) -> Result<Applied, StoreError> {
        let (mut all, mut slow) = (Applied::default(), None);
        for ops in ops.chunks(OPS_OF_A_SLOW_EVENT) {
            match self.try_apply(ops).await {
                Err(error) if error.is_slow() && self.is_responsive().await => slow = Some(error),
                applied => {
                    let Applied { notified, early } = applied?;
                    all.notified.extend(notified);
                    all.early.extend(early);
                }
            }
        }
        slow.map_or(Ok(all), Err)
    }

    /// Whether Postgres responds at all.
    pub async fn is_responsive(&self) -> bool {
        timeout(PROBE_TIMEOUT, postgres::query("select 1").execute(&self.shared))
            .await
            .is_ok_and(|done| done.is_ok())
    }

    /// Runs a query or transaction with a time limit, and retries at once after a broken connection: after a restart of
    /// Postgres, all connections of the pool are broken.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn with_retry<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        operation: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let mut attempt = 1;
        loop {
            match timeout(TRANSACTION_TIMEOUT, operation()).await.unwrap_or(Err(StoreError::TimedOut)) {
                Err(error) if error.is_broken_connection() && attempt < self.attempts => {
                    metrics::counter!("postgres_broken_connections_total").increment(1);
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    async fn publish(&self, update: &InboxUpdate, cause: Option<TraceParent>) {
        let span = Span::under(cause, "publish", Kind::Producer);
        if let Err(error) = self.try_publish(update, span.parent()).await {
            // The change is stored. Gateways detect the gap by its seq.
            tracing::warn!(error = format!("{error:#}"), "publish a change of an inbox");
        }
    }

    async fn try_publish(&self, update: &InboxUpdate, parent: Option<TraceParent>) -> anyhow::Result<()> {
        let json = serde_json::to_vec(&update.event)?.into();
        let subject = InboxEvent::subject_of(update.user);
        let Some(place) = update.place else { return self.bus.publish_bytes(subject, json, parent).await };
        let mut headers = trace::headers(parent).unwrap_or_default();
        headers.insert(INBOX_PLACE_HEADER, place.to_string());
        Ok(self.bus.client().publish_with_headers(subject, headers, json).await?)
    }

    async fn store(&self, ops: &[Op]) -> Result<Changes, StoreError> {
        let (catalogue, steps) = (self.catalogue(), collapse(ops));
        let mut users: Vec<i64> = ops.iter().map(|op| op.user.get()).collect();
        users.sort_unstable();
        users.dedup();
        let (mut tx, inboxes) = self.lock(&users).await?;
        let known = known(&mut tx, &steps, inboxes).await?;
        let notifications = steps.iter().filter(|step| known.may_add(step.op)).count();
        let (at, ids) = store::next_ids(&mut tx, notifications).await?;
        let mut changes = Plan::new(&catalogue, at.into(), ids, known).run(&steps);
        for added in &mut changes.added {
            added.since = added.since.or(Some(at)).filter(|_| self.reminds(&catalogue, &added.shown.kind));
        }
        // Older notifications become read first: a conversation may have at most one unread notification.
        if !changes.read.is_empty() {
            store::mark(&mut tx, &changes.read, at).await?;
        }
        if !changes.added.is_empty() {
            store::insert(&mut tx, &changes.added, &changes.inboxes, at).await?;
        } else if !changes.inboxes.is_empty() {
            store::update_inboxes(&mut tx, &changes.inboxes).await?;
        }
        if !changes.markers.is_empty() {
            store::move_markers(&mut tx, &changes.markers).await?;
        }
        if !changes.mutes.is_empty() {
            store::save_mutes(&mut tx, &changes.mutes).await?;
        }
        let is_settled = !self.steps.is_empty() && self.follow(&mut tx, &changes, at.into()).await?;
        tx.commit().await?;
        if is_settled {
            self.wake_publisher();
        }
        Ok(changes)
    }

    /// Whether any configured step sends reminders of a type.
    fn reminds(&self, catalogue: &Catalogue, kind: &str) -> bool {
        let (id, policy) = (fluent_id(kind), catalogue.policy(kind));
        self.steps.iter().any(|step| policy.reminds(&id, &step.name))
    }

    /// Locks these users' inboxes. Creates those that are missing.
    async fn lock(
        &self,
        users: &[i64],
    ) -> Result<(PgTransaction<'static>, HashMap<UserId, Inbox>), StoreError> {
        loop {
            let mut tx = self.pool.begin().await?;
            let inboxes = store::lock_inboxes(&mut tx, users).await?;
            if inboxes.len() == users.len() {
                return Ok((tx, inboxes));
            }
            // Releases the locks before it creates inboxes, because two replicas might otherwise deadlock.
            tx.rollback().await?;
            store::add_inboxes(&self.pool, users).await?;
        }
    }
}

/// Upper bound of the bytes that an operation stores.
pub fn bytes_of(op: &Op) -> usize {
    const ROW: usize = 500;
    match &op.kind {
        OpKind::Notice(notice) => {
            let texts = notice.text.title.len() + notice.text.message.len() + notice.key.len();
            ROW + texts + notice.data.get().len()
        }
        OpKind::Message(_) | OpKind::Read(_) | OpKind::Mute(_) => ROW,
    }
}

/// Splits operations into transactions, in order and bounded in number and bytes.
fn transactions(mut ops: &[Op]) -> impl Iterator<Item = &[Op]> {
    std::iter::from_fn(move || {
        let (mut count, mut bytes) = (0, 0);
        for op in ops.iter().take(OPS_PER_TRANSACTION) {
            bytes += bytes_of(op);
            if count > 0 && bytes > BYTES_PER_TRANSACTION {
                break;
            }
            count += 1;
        }
        let (first, rest) = ops.split_at(count);
        ops = rest;
        (!first.is_empty()).then_some(first)
    })
}

/// Reads the state that the operations depend on. The inboxes are locked.
async fn known(
    tx: &mut PgConnection,
    steps: &[Step<'_>],
    inboxes: HashMap<UserId, Inbox>,
) -> Result<Known, StoreError> {
    let named = steps.iter().filter_map(|step| Some((step.op.user.get(), step.op.key()?)));
    let (users, keys): (Vec<i64>, Vec<&str>) = named.unzip();
    let repeated = if keys.is_empty() { HashMap::new() } else { store::repeated(tx, &users, &keys).await? };
    let memberships: HashSet<Membership> = steps.iter().filter_map(|step| step.op.membership()).collect();
    let (users, conversations): (Vec<i64>, Vec<i64>) =
        memberships.into_iter().map(|(user, conversation)| (user.get(), conversation.get())).unzip();
    if conversations.is_empty() {
        return Ok(Known { inboxes, repeated, ..Known::default() });
    }
    let unread = store::unread_of_conversations(tx, &users, &conversations).await?;
    let (markers, notified) = store::markers(tx, &users, &conversations).await?;
    Ok(Known { inboxes, unread, markers, notified, repeated })
}

/// The operations of a log entry of chat-service, and the spans of its traced messages.
pub fn chat_ops(entry: contract::chat::LogEntry) -> (Vec<Op>, Vec<Span>) {
    use contract::chat::LogEntry;
    match entry {
        LogEntry::Read { user_id, conversation_id, message_id, marker } => {
            let (seq, marker) = (marker.map(|marker| marker.seq), marker.map(Box::new));
            let moved = Moved { conversation: conversation_id, message: message_id, seq, marker };
            (vec![Op { user: user_id, kind: OpKind::Read(moved), cause: None }], vec![])
        }
        // A deleted message has no badge for users who have nothing else to read.
        LogEntry::Changed { markers, .. } => {
            let moved = markers.into_iter().map(|marker| Op {
                user: marker.user_id,
                kind: OpKind::Read(Moved {
                    conversation: marker.conversation_id,
                    message: marker.message_id,
                    seq: Some(marker.seq),
                    marker: Some(Box::new(marker)),
                }),
                cause: None,
            });
            (moved.collect(), vec![])
        }
        LogEntry::Opened { .. } => (Vec::new(), vec![]),
        LogEntry::Muted { user_id, conversation_id, muted_until, change } => {
            let mute = Mute { conversation: conversation_id, until: muted_until, change };
            (vec![Op { user: user_id, kind: OpKind::Mute(mute), cause: None }], vec![])
        }
        LogEntry::Stored { messages } => {
            let mut spans = Vec::new();
            let ops = messages.into_iter().flat_map(|message| {
                let span = Span::under(message.traceparent, "consume", Kind::Consumer);
                let cause = span.parent();
                spans.extend(cause.map(|_| span));
                message_ops(message, cause)
            });
            (ops.collect(), spans)
        }
    }
}

fn message_ops(message: contract::chat::Stored, cause: Option<TraceParent>) -> impl Iterator<Item = Op> {
    let (conversation, seq) = (message.conversation_id, message.seq);
    let moved = Moved { conversation, message: message.message_id, seq, marker: None };
    let sent = Op { user: message.sender_id, kind: OpKind::Read(moved), cause };
    let sent = (!message.system).then_some(sent);
    let received = Arc::new(crate::ops::Received {
        key: format!("msg:{}", message.message_id),
        conversation,
        message: message.message_id,
        seq,
        sender: message.sender_id,
        sender_username: message.sender_username,
        kind: message.kind,
        silent: message.silent,
        muted: message.muted,
    });
    let recipients = message.recipients.into_iter().filter(move |user| *user != message.sender_id);
    let received = recipients.map(move |user| Op { user, kind: OpKind::Message(received.clone()), cause });
    sent.into_iter().chain(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Delivery, parse};
    use proptest::prelude::*;

    fn op(bytes: usize) -> Op {
        let body = format!(r#"{{"user_id":1,"data":{{"fill":"{}"}}}}"#, "x".repeat(bytes));
        let (payload, subject) = (body.as_bytes(), "events.payment_completed");
        let delivery = Delivery { subject, headers: None, payload, place: "" };
        let (users, notice) = parse(delivery, &Catalogue::load(None).unwrap()).unwrap();
        Op { user: users[0], kind: OpKind::Notice(Arc::new(notice)), cause: None }
    }

    proptest! {
        #[test]
        fn a_transaction_is_bounded_in_number_and_in_bytes(
            groups in proptest::collection::vec((1..2_000_usize, 0..60_000_usize), 0..5),
        ) {
            let ops: Vec<Op> =
                groups.iter().flat_map(|(count, bytes)| vec![op(*bytes); *count]).collect();
            let parts: Vec<&[Op]> = transactions(&ops).collect();
            prop_assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), ops.len());
            for part in &parts {
                let bytes: usize = part.iter().map(bytes_of).sum();
                prop_assert!(part.len() <= OPS_PER_TRANSACTION && bytes <= BYTES_PER_TRANSACTION);
            }
            for pair in parts.windows(2) {
                let next = bytes_of(&pair[1][0]) + pair[0].iter().map(bytes_of).sum::<usize>();
                prop_assert!(pair[0].len() == OPS_PER_TRANSACTION || next > BYTES_PER_TRANSACTION, "as much as fits");
            }
        }
    }
}
