//! Writer lanes: the messages that arrive while one batch is committed form the next batch.
//!
//! Within a replica, a conversation always uses the same lane, so that batches don't wait for each other's row locks.
//! The order of messages doesn't depend on lanes: the row lock of the conversation alone determines it. A conversation
//! that another transaction has locked leaves its lane until the lock is released ([`detour`]).

mod commit;
mod detour;

use crate::{
    outbox::Outbox,
    store::{self, Batch},
};
use commit::{BATCH, Call, Job, WAITING, fail, finish};
use contract::{
    Deadline, Refusal,
    chat::{Send, Sent},
    limits,
};
use detour::Detour;
use service::{
    Backoff, Span,
    batcher::{Batcher, Batches, Limits, batcher},
    postgres::{self, Dedicated, Pool},
    trace::Kind,
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// Number of attempts to store a batch before its senders get `unavailable`.
const ATTEMPTS: usize = 3;
/// Time after which an idle lane closes its connection.
const IDLE: Duration = Duration::from_secs(300);

/// Handle of the lanes. They end once every clone is dropped and every message is answered.
#[derive(Clone)]
pub struct Lanes(Vec<Batcher<Job, Sent>>);

/// Starts the lanes.
pub fn start(count: usize, pool: &Pool, outbox: &Outbox, tasks: &TaskTracker) -> Lanes {
    let lane = |_| {
        let (sender, batches) = batcher(Limits::new(WAITING, BATCH, "chat_lanes_full_total"));
        let detour = Detour::new(pool.clone(), outbox.clone(), tasks.clone());
        let connection = Dedicated::new(pool.connect_options().as_ref().clone());
        tasks.spawn(run(batches, Writer { connection, outbox: outbox.clone(), detour }));
        sender
    };
    Lanes((0..count).map(lane).collect())
}

impl Lanes {
    /// Returns a function that counts the waiting messages. It doesn't keep the lanes running.
    pub fn depth(&self) -> impl Fn() -> usize + std::marker::Send + Sync + use<> {
        let lanes: Vec<_> = self.0.iter().map(Batcher::depth).collect();
        move || lanes.iter().map(|depth| depth()).sum()
    }

    /// Stores a message that has a `client_id`. Returns the outcome once the message is committed and its event is
    /// published. The default deadline is [`limits::SEND_DEADLINE`] from now.
    pub async fn store(&self, send: Send, span: Span, deadline: Option<Deadline>) -> Sent {
        span.set("conversation.id", send.conversation_id.get());
        let deadline = deadline.unwrap_or_else(|| Deadline::after(limits::SEND_DEADLINE));
        // Fibonacci hashing spreads consecutive ids.
        let hash = send.conversation_id.get().unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let lane = usize::try_from(hash).unwrap_or_default() % self.0.len();
        let sent = self.0[lane].call(Job { send, deadline, span }).await;
        sent.unwrap_or_else(|_| Sent::Refused(Refusal::unavailable()))
    }
}

async fn run(mut batches: Batches<Job, Sent>, mut writer: Writer) {
    loop {
        match timeout(IDLE, batches.next()).await {
            Err(_) => writer.connection.close().await,
            Ok(None) => break,
            Ok(Some(calls)) => {
                let batch = writer.detour.filter(calls);
                if !batch.is_empty() {
                    metrics::histogram!("chat_batch_messages")
                        .record(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
                    writer.write(batch).await;
                }
            }
        }
    }
    writer.connection.close().await;
}

/// Writes the batches of one lane over its own connection. The pool hands out its connections in turn, and ten Postgres
/// processes with cold caches cost twice as much as one with warm caches.
struct Writer {
    connection: Dedicated,
    outbox: Outbox,
    detour: Arc<Detour>,
}

impl Writer {
    /// Writes a batch. If Postgres rejects it, its messages are written one by one. Conversations that are locked or
    /// slow are written separately.
    async fn write(&mut self, jobs: Vec<Call>) {
        let commits: Vec<Span> = jobs
            .iter()
            .filter(|job| job.request.span.is_recorded())
            .map(|job| {
                let commit = job.request.span.child("commit", Kind::Client);
                commit.set("batch.messages", i64::try_from(jobs.len()).unwrap_or(i64::MAX));
                commit
            })
            .collect();
        let stored = self.store(&jobs).await;
        if stored.is_err() {
            commits.iter().for_each(|commit| commit.failed("postgres"));
        }
        drop(commits);
        match stored {
            Ok(batch) => {
                let busy = finish(&self.outbox, jobs, batch).await;
                self.detour.start(busy);
            }
            Err(error) if postgres::is_delayed(&error) => {
                tracing::warn!(
                    error = service::bus::chain(&error),
                    "a lock delayed a batch; writing each of its conversations separately"
                );
                self.detour.start(jobs);
            }
            Err(error) if jobs.len() > 1 && !postgres::is_transient_error(&error) => {
                tracing::warn!(
                    %error,
                    messages = jobs.len(),
                    "Postgres rejected a batch; writing its messages one by one"
                );
                for job in jobs {
                    Box::pin(self.write(vec![job])).await;
                }
            }
            Err(error) => fail(jobs, &error),
        }
    }

    async fn store(&mut self, jobs: &[Call]) -> sqlx::Result<Batch> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(400));
        for _ in 1..ATTEMPTS {
            match self.try_store(jobs).await {
                // The commit may have succeeded anyway. Then the next attempt finds every message stored.
                Err(error) if postgres::is_transient_error(&error) && !postgres::is_delayed(&error) => {
                    tracing::warn!(error = service::bus::chain(&error), "store messages; trying again");
                    backoff.wait().await;
                }
                ended => return ended,
            }
        }
        self.try_store(jobs).await
    }

    async fn try_store(&mut self, jobs: &[Call]) -> sqlx::Result<Batch> {
        let sends: Vec<_> = jobs.iter().map(|job| (&job.request.send, job.request.deadline)).collect();
        self.connection.run(async |connection| store::store_messages(connection, &sends, false).await).await
    }
}
