//! Changes inboxes: each change is one transaction that holds the inbox locked, and is told to the gateways after its
//! commit.

use crate::catalogue::Catalogue;
use crate::plan::{Changes, Inbox, Known, LastRead, Op, Plan, What};
use crate::store;
use contract::{
    NotificationId, TraceParent, UserId,
    notify::{InboxEvent, InboxRead, MarkNotification},
};
use service::{
    Bus, Span, postgres,
    trace::{self, Kind},
};
use sqlx::{PgConnection, PgPool, PgTransaction};
use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// Notifications that one transaction stores at most.
pub const OPS_PER_TRANSACTION: usize = 4_000;
/// A transaction that takes longer is given up: what it waits for does not answer.
const TRANSACTION: Duration = Duration::from_secs(8);

/// The inboxes of all users.
#[derive(Clone)]
pub struct Inboxes {
    pool: PgPool,
    bus: Bus,
    catalogue: watch::Receiver<Arc<Catalogue>>,
    /// Connections of the pool that may turn out to be broken one after the other.
    attempts: u32,
}

/// Why an inbox was not changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres refused it or broke off.
    #[error("Postgres")]
    Sql(#[from] sqlx::Error),
    /// Postgres took too long.
    #[error("Postgres does not answer")]
    TimedOut,
    /// There is no such notification in this inbox.
    #[error("no such notification")]
    NotFound,
}

impl StoreError {
    /// Whether what was to be stored is at fault, and not Postgres, its connection or its schema: data exceptions,
    /// constraints, and what is too large (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
    pub fn is_data(&self) -> bool {
        let Self::Sql(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
    }

    /// Whether the connection broke: the next one may be whole.
    fn is_broken_connection(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed) => true,
            Self::Sql(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
            }
            _ => false,
        }
    }

    /// Whether doing it again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Sql(error) => postgres::is_passing_error(error),
            Self::TimedOut => true,
            Self::NotFound => false,
        }
    }
}

impl Inboxes {
    /// The inboxes in this database, told about on this bus.
    pub fn new(pool: PgPool, bus: Bus, catalogue: watch::Receiver<Arc<Catalogue>>) -> Self {
        let attempts = pool.options().get_max_connections() + 1;
        Self { pool, bus, catalogue, attempts }
    }

    /// The same with a connection of its own, for who stores one batch after the other: the pool hands out its
    /// connections in turn, and ten of Postgres' processes that each have to find everything anew cost half as much again.
    pub fn with_own_connection(&self) -> Self {
        let options = self.pool.options().clone().max_connections(1);
        let pool = options.connect_lazy_with(self.pool.connect_options().as_ref().clone());
        Self::new(pool, self.bus.clone(), self.catalogue.clone())
    }

    /// The texts, as they are now.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue.borrow().clone()
    }

    /// The database, for what only reads.
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Does all of this, in this order, and tells what came of it. Doing it again changes nothing, so after an error
    /// part of it may be done.
    ///
    /// # Errors
    /// The first one.
    pub async fn apply(&self, ops: &[Op]) -> Result<(), StoreError> {
        for ops in ops.chunks(OPS_PER_TRANSACTION) {
            let changes = self.steady(async || self.store(ops).await).await?;
            metrics::counter!("notifications_total", "outcome" => "stored")
                .increment(changes.added.len() as u64);
            metrics::counter!("notifications_total", "outcome" => "repeated")
                .increment(changes.repeated as u64);
            metrics::counter!("notifications_total", "outcome" => "superseded")
                .increment(changes.superseded as u64);
            let mut causes = changes.causes.iter().peekable();
            for (index, (user, event)) in changes.told.iter().enumerate() {
                let cause = causes.next_if(|(told, _)| *told == index).map(|(_, cause)| *cause);
                self.tell(*user, event, cause).await;
            }
        }
        Ok(())
    }

    /// Marks one or all of a user's notifications as read; `None` in an empty inbox.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it isn't the user's.
    pub async fn mark(&self, question: &MarkNotification) -> Result<Option<InboxRead>, StoreError> {
        let (read, changed) = self.steady(async || self.mark_stored(question).await).await?;
        if let (Some(read), true) = (read, changed) {
            self.tell(question.user_id, &InboxEvent::Read(read), trace::current()).await;
        }
        Ok(read)
    }

    /// Tries again at once while it is only that a connection was broken: after Postgres comes back, each connection of
    /// the pool still has to find that out.
    ///
    /// # Errors
    /// The last one.
    pub async fn steady<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        again: impl Fn() -> F,
    ) -> Result<T, StoreError> {
        let mut attempt = 1;
        loop {
            match timeout(TRANSACTION, again()).await.unwrap_or(Err(StoreError::TimedOut)) {
                Err(error) if error.is_broken_connection() && attempt < self.attempts => {
                    metrics::counter!("postgres_broken_connections_total").increment(1);
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    async fn tell(&self, user: UserId, event: &InboxEvent, cause: Option<TraceParent>) {
        let step = Span::under(cause, "publish", Kind::Producer);
        let told = match serde_json::to_vec(event) {
            Ok(json) => {
                self.bus.publish_bytes(InboxEvent::subject_of(user), json.into(), step.parent()).await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = told {
            // It is stored; gateways find what they miss by its seq.
            tracing::warn!(error = format!("{error:#}"), "a notification was not told");
        }
    }

    async fn store(&self, ops: &[Op]) -> Result<Changes, StoreError> {
        let catalogue = self.catalogue();
        let mut users: Vec<i64> = ops.iter().map(|op| op.user.get()).collect();
        users.sort_unstable();
        users.dedup();
        let (mut tx, inboxes) = self.lock(&users).await?;
        let known = known(&mut tx, ops, inboxes).await?;
        let notifications = ops.iter().filter(|op| op.key().is_some()).count();
        let (at, ids) = store::next_ids(&mut tx, notifications).await?;
        let changes = Plan::new(&catalogue, at.into(), ids, known).run(ops);
        // What was unread first: at most one unread notification may stand for a conversation.
        if !changes.read.is_empty() {
            store::mark(&mut tx, &changes.read, at).await?;
        }
        if !changes.added.is_empty() {
            store::insert(&mut tx, &changes.added, at).await?;
        }
        if !changes.markers.is_empty() {
            store::move_markers(&mut tx, &changes.markers).await?;
        }
        if !changes.inboxes.is_empty() {
            store::update_inboxes(&mut tx, &changes.inboxes).await?;
        }
        tx.commit().await?;
        Ok(changes)
    }

    async fn mark_stored(
        &self,
        question: &MarkNotification,
    ) -> Result<(Option<InboxRead>, bool), StoreError> {
        let user = question.user_id;
        let mut tx = self.pool.begin().await?;
        let inbox = store::lock_inboxes(&mut tx, &[user.get()]).await?.remove(&user).unwrap_or_default();
        let Some(last) = NotificationId::new(inbox.last_id).ok() else {
            return if question.notification_id.is_some() {
                Err(StoreError::NotFound)
            } else {
                Ok((None, false))
            };
        };
        let (at, marked) = match question.notification_id {
            Some(id) => match store::mark_one(&mut tx, user, id).await? {
                Some(at) => (at, 1),
                None => (store::read_at(&mut tx, user, id).await?.ok_or(StoreError::NotFound)?, 0),
            },
            None => store::mark_all(&mut tx, user).await?,
        };
        let (id, all) = (question.notification_id.unwrap_or(last), question.notification_id.is_none());
        let (unread_count, last_read) = (inbox.unread_count - marked, Some(LastRead { id, at, all }));
        let inbox = Inbox { unread_count, last_read, ..inbox };
        let read = inbox.read();
        if marked > 0 {
            store::update_inboxes(&mut tx, &HashMap::from([(user, inbox)])).await?;
        }
        tx.commit().await?;
        Ok((read, marked > 0))
    }

    /// Locks these users' inboxes, making those that are missing.
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
            // Not while holding locks on the others, or two replicas might wait for each other in a circle.
            tx.rollback().await?;
            store::add_inboxes(&self.pool, users).await?;
        }
    }
}

/// All that the operations build on, read while the inboxes are locked.
async fn known(
    tx: &mut PgConnection,
    ops: &[Op],
    inboxes: HashMap<UserId, Inbox>,
) -> Result<Known, StoreError> {
    let named = ops.iter().filter_map(|op| Some((op.user.get(), op.key()?)));
    let (users, keys): (Vec<i64>, Vec<&str>) = named.unzip();
    let repeated = if keys.is_empty() { HashMap::new() } else { store::repeated(tx, &users, &keys).await? };
    let placed = ops.iter().filter_map(|op| Some((op.user.get(), op.conversation()?.get())));
    let (users, conversations): (Vec<i64>, Vec<i64>) = placed.unzip();
    if conversations.is_empty() {
        return Ok(Known { inboxes, repeated, ..Known::default() });
    }
    let standing = store::standing(tx, &users, &conversations).await?;
    let markers = store::markers(tx, &users, &conversations).await?;
    Ok(Known { inboxes, standing, markers, repeated })
}

/// What an entry of the chat's log does to inboxes. The steps of the messages that are traced come with it.
pub fn chat_ops(entry: contract::chat::LogEntry) -> (Vec<Op>, Vec<Span>) {
    use contract::chat::LogEntry;
    match entry {
        LogEntry::Read { user_id, conversation_id, message_id } => {
            let what = What::Read(conversation_id, message_id);
            (vec![Op { user: user_id, what, cause: None }], vec![])
        }
        LogEntry::Stored { messages } => {
            let mut steps = Vec::new();
            let ops = messages.into_iter().flat_map(|message| {
                let step = Span::under(message.traceparent, "consume", Kind::Consumer);
                let cause = step.parent();
                steps.extend(cause.map(|_| step));
                message_ops(message, cause)
            });
            (ops.collect(), steps)
        }
    }
}

fn message_ops(message: contract::chat::Stored, cause: Option<TraceParent>) -> impl Iterator<Item = Op> {
    let what = What::Read(message.conversation_id, message.message_id);
    let sent = Op { user: message.sender_id, what, cause };
    let received = Arc::new(crate::plan::Received {
        key: format!("msg:{}", message.message_id),
        conversation: message.conversation_id,
        message: message.message_id,
        sender_username: message.sender_username,
    });
    let recipients = message.recipients.into_iter().filter(move |user| *user != message.sender_id);
    let told = recipients.map(move |user| Op { user, what: What::Message(received.clone()), cause });
    std::iter::once(sent).chain(told)
}
