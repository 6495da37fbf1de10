//! Writer lanes: what gathers while one batch is committed is the next batch.
//!
//! A conversation always takes the same lane of a replica, so that batches don't wait for each other's row locks. The
//! order of messages doesn't depend on it: the row lock alone makes it, whichever lane or replica writes.

use crate::{
    outbox::{Commit, Outbox},
    store::{self, Batch, Outcome},
};
use contract::{
    Code, Refusal,
    chat::{Send, Sent},
    limits,
};
use service::{Backoff, Span, postgres, trace::Kind};
use sqlx::{Connection, PgConnection, PgPool};
use std::time::Duration;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// Sends that wait in one lane; more wait in NATS, then at the gateways.
const WAITING: usize = 4 * limits::PACK_SENDS;
/// Messages of one batch.
const BATCH: usize = limits::PACK_SENDS;
/// How often a batch is tried before its senders are told `unavailable`.
const TRIES: usize = 3;
/// How long a lane keeps its connection with nothing to write.
const IDLE: Duration = Duration::from_secs(300);

struct Job {
    send: Send,
    /// What it is a step of.
    span: Span,
    reply: oneshot::Sender<Sent>,
}

/// The way to the lanes. They end once every clone of this is gone and what they have taken is done.
#[derive(Clone)]
pub struct Lanes(Vec<mpsc::Sender<Job>>);

/// Starts the lanes.
pub fn start(count: usize, pool: &PgPool, outbox: &Outbox, tasks: &TaskTracker) -> Lanes {
    let lane = |_| {
        let (sender, receiver) = mpsc::channel(WAITING);
        tasks.spawn(run(receiver, pool.clone(), outbox.clone()));
        sender
    };
    Lanes((0..count).map(lane).collect())
}

impl Lanes {
    /// What says how many messages wait, without keeping the lanes going.
    pub fn depth(&self) -> impl Fn() -> usize + std::marker::Send + Sync + use<> {
        let lanes: Vec<_> = self.0.iter().map(mpsc::Sender::downgrade).collect();
        let waiting = |lane: mpsc::Sender<Job>| lane.max_capacity() - lane.capacity();
        move || lanes.iter().filter_map(mpsc::WeakSender::upgrade).map(waiting).sum()
    }

    /// Stores a message that has a `client_id`, and says what became of it once that is committed and on its way.
    pub async fn store(&self, send: Send, span: Span) -> Sent {
        span.set("conversation.id", send.conversation_id.get());
        // Fibonacci hashing spreads consecutive ids.
        let hash = send.conversation_id.get().unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let lane = usize::try_from(hash).unwrap_or_default() % self.0.len();
        let (reply, answer) = oneshot::channel();
        if self.0[lane].capacity() == 0 {
            metrics::counter!("chat_lanes_full_total").increment(1);
        }
        if self.0[lane].send(Job { send, span, reply }).await.is_err() {
            return Sent::Refused(Refusal::unavailable());
        }
        answer.await.unwrap_or_else(|_| Sent::Refused(Refusal::unavailable()))
    }
}

async fn run(mut jobs: mpsc::Receiver<Job>, pool: PgPool, outbox: Outbox) {
    let mut writer = Writer { pool, connection: None, outbox };
    let mut taken = Vec::with_capacity(BATCH);
    loop {
        match timeout(IDLE, jobs.recv_many(&mut taken, BATCH)).await {
            Err(_) => writer.disconnect().await,
            Ok(0) => break,
            Ok(_) => {
                metrics::histogram!("chat_batch_messages")
                    .record(f64::from(u32::try_from(taken.len()).unwrap_or(u32::MAX)));
                writer.write(std::mem::take(&mut taken)).await;
            }
        }
    }
    writer.disconnect().await;
}

/// What writes the batches of one lane, over a connection of its own: the pool hands out its connections in turn, and
/// ten of Postgres' processes that each have to find everything anew cost twice as much as one.
struct Writer {
    pool: PgPool,
    connection: Option<PgConnection>,
    outbox: Outbox,
}

impl Writer {
    /// Writes a batch; one that Postgres refuses for something in it is written again message by message.
    async fn write(&mut self, jobs: Vec<Job>) {
        let commits: Vec<Span> = jobs
            .iter()
            .filter(|job| job.span.is_recorded())
            .map(|job| {
                let commit = job.span.child("commit", Kind::Client);
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
            Ok(batch) => finish(&self.outbox, jobs, batch).await,
            Err(error) if jobs.len() > 1 && !postgres::is_passing_error(&error) => {
                tracing::warn!(%error, messages = jobs.len(), "a batch was refused; writing its messages one by one");
                for job in jobs {
                    Box::pin(self.write(vec![job])).await;
                }
            }
            Err(error) => {
                tracing::error!(error = service::bus::chain(&error), messages = jobs.len(), "store messages");
                metrics::counter!("chat_batches_failed_total").increment(1);
                let refusal = if postgres::is_passing_error(&error) {
                    Refusal::unavailable()
                } else {
                    Refusal::new(Code::Internal, "a fault of the server")
                };
                for job in jobs {
                    // Whoever asked may have given up.
                    let _ = job.reply.send(Sent::Refused(refusal.clone()));
                }
            }
        }
    }

    async fn store(&mut self, jobs: &[Job]) -> sqlx::Result<Batch> {
        let sends: Vec<&Send> = jobs.iter().map(|job| &job.send).collect();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(400));
        for _ in 1..TRIES {
            match self.try_store(&sends).await {
                // The commit may have happened all the same: then the next try finds every message stored.
                Err(error) if postgres::is_passing_error(&error) => {
                    tracing::warn!(error = service::bus::chain(&error), "store messages; trying again");
                    backoff.wait().await;
                }
                ended => return ended,
            }
        }
        self.try_store(&sends).await
    }

    async fn try_store(&mut self, sends: &[&Send]) -> sqlx::Result<Batch> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.pool.acquire().await?.detach(),
        };
        let stored = postgres::in_time(store::store_messages(&mut connection, sends)).await;
        // After an error that passes it may never answer again.
        if !stored.as_ref().is_err_and(postgres::is_passing_error) {
            self.connection = Some(connection);
        }
        stored
    }

    async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Where it is broken, it is gone all the same.
            let _ = postgres::in_time(connection.close()).await;
        }
    }
}

async fn finish(outbox: &Outbox, jobs: Vec<Job>, batch: Batch) {
    let mut commit = Commit::default();
    let mut answers = Vec::with_capacity(jobs.len());
    for (job, outcome) in jobs.into_iter().zip(batch.outcomes) {
        let answer = match outcome {
            Outcome::Stored(message, everyone) => {
                job.span.set("message.id", message.message_id.get());
                commit.add(&message, everyone, &job.span);
                Sent::Stored(message)
            }
            Outcome::Repeated(message) => Sent::Repeated(message),
            Outcome::Forbidden => Sent::Refused(Refusal::forbidden()),
            Outcome::Blocked => {
                Sent::Refused(Refusal::new(Code::Blocked, "this user does not take your messages"))
            }
        };
        answers.push((job.reply, answer));
    }
    if let Some(outbox_id) = batch.outbox_id {
        metrics::counter!("chat_messages_total").increment(commit.len());
        outbox.tell(outbox_id, commit).await;
    }
    for (reply, answer) in answers {
        let _ = reply.send(answer);
    }
}
