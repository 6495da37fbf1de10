//! Conversations that another transaction has locked: each is written separately, so that it delays no other, until
//! none of its messages is pending. Then it returns to its lane.

use super::commit::{self, BATCH, Call, fail, finish};
use crate::{outbox::Outbox, store};
use contract::{ConversationId, Refusal, chat::Sent};
use service::{
    Backoff,
    postgres::{self, Pool},
};
use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Maximum number of pending messages on the detours of one lane; further ones are refused.
const WAITING: usize = commit::WAITING;
/// Maximum number of detours of one lane that write at the same time.
const WRITERS: usize = 2;

/// The detours of one lane.
pub(super) struct Detour {
    pool: Pool,
    outbox: Outbox,
    tasks: TaskTracker,
    writers: Semaphore,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Messages of each conversation that has a detour, in order.
    jobs: HashMap<ConversationId, VecDeque<Call>>,
    /// Number of messages, including those that are being written.
    count: usize,
}

impl Detour {
    pub(super) fn new(pool: Pool, outbox: Outbox, tasks: TaskTracker) -> Arc<Self> {
        let writers = Semaphore::new(WRITERS);
        Arc::new(Self { pool, outbox, tasks, writers, waiting: Mutex::default() })
    }

    /// Takes the messages of conversations that have a detour, so that they don't overtake earlier ones. Returns the
    /// others.
    pub(super) fn filter(&self, jobs: Vec<Call>) -> Vec<Call> {
        let mut waiting = self.waiting();
        if waiting.jobs.is_empty() {
            return jobs;
        }
        let (detoured, others) =
            jobs.into_iter().partition(|job| waiting.jobs.contains_key(&job.request.send.conversation_id));
        for job in detoured {
            waiting.add(job);
        }
        others
    }

    /// Starts detours for the conversations of these messages.
    pub(super) fn start(self: &Arc<Self>, jobs: Vec<Call>) {
        let mut waiting = self.waiting();
        for job in jobs {
            let conversation = job.request.send.conversation_id;
            if let Entry::Vacant(vacant) = waiting.jobs.entry(conversation) {
                vacant.insert(VecDeque::new());
                metrics::counter!("chat_detours_total").increment(1);
                self.tasks.spawn(self.clone().write(conversation));
            }
            waiting.add(job);
        }
    }

    /// Writes the messages of one conversation until none is pending.
    async fn write(self: Arc<Self>, conversation: ConversationId) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            let Ok(permit) = self.writers.acquire().await else { return };
            let jobs = self.waiting().next(conversation);
            let Some(jobs) = jobs else { return };
            let to_retry = self.write_batch(jobs).await;
            drop(permit);
            if to_retry.is_empty() {
                backoff.reset();
                continue;
            }
            self.waiting().put_back(conversation, to_retry);
            backoff.wait().await;
        }
    }

    /// Writes a batch. Returns the messages to retry.
    async fn write_batch(&self, jobs: Vec<Call>) -> Vec<Call> {
        let (late, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.request.deadline.is_past());
        let answered = late.len();
        for job in late {
            metrics::counter!("chat_sends_late_total").increment(1);
            job.reply(Sent::Refused(Refusal::unavailable()));
        }
        let (count, stored) = (jobs.len(), self.store(&jobs).await);
        let to_retry = match stored {
            Ok(batch) => finish(&self.outbox, jobs, batch).await,
            Err(error) if postgres::is_delayed(&error) => jobs,
            Err(error) => {
                fail(jobs, &error);
                Vec::new()
            }
        };
        self.waiting().count -= answered + count - to_retry.len();
        to_retry
    }

    async fn store(&self, jobs: &[Call]) -> sqlx::Result<store::Batch> {
        let sends: Vec<_> = jobs.iter().map(|job| (&job.request.send, job.request.deadline)).collect();
        if sends.is_empty() {
            return Ok(store::Batch { outcomes: Vec::new(), outbox_id: None });
        }
        postgres::in_time(store::store_messages(&self.pool, &sends, true)).await
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of this lock panics")
    }
}

impl Waiting {
    fn add(&mut self, job: Call) {
        if self.count >= WAITING {
            metrics::counter!("chat_detours_full_total").increment(1);
            return job.reply(Sent::Refused(Refusal::unavailable()));
        }
        self.count += 1;
        self.jobs.entry(job.request.send.conversation_id).or_default().push_back(job);
    }

    /// Takes the next messages of a conversation. If there are none, ends its detour and returns `None`.
    fn next(&mut self, conversation: ConversationId) -> Option<Vec<Call>> {
        let jobs = self.jobs.get_mut(&conversation)?;
        if jobs.is_empty() {
            self.jobs.remove(&conversation);
            return None;
        }
        Some(jobs.drain(..jobs.len().min(BATCH)).collect())
    }

    fn put_back(&mut self, conversation: ConversationId, to_retry: Vec<Call>) {
        let jobs = self.jobs.entry(conversation).or_default();
        for job in to_retry.into_iter().rev() {
            jobs.push_front(job);
        }
    }
}
