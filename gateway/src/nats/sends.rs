//! Sends, delivered to chat-service in batches: sends that arrive during a batch, or within a short time after one,
//! form the next one. Each batch wakes every process on its path and is one commit, so at ordinary load a pause of a
//! few milliseconds saves more than a third of the cost of a message (ADR 0018).

use super::connection::Link;
use contract::{
    Code, Deadline, Refusal, TraceParent, UserId,
    chat::{Send, SendBatch, Sent},
    limits,
};
use service::{Backoff, RequestError, bus::json_len, trace};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::task::TaskTracker;

/// Number of pending sends: queued, in a batch in progress, or waiting for a retry. Further ones wait in their
/// sessions.
const PENDING: usize = 4096;
/// Number of batches in progress.
const CONCURRENCY: usize = 2;
/// Time limit of one attempt. A chat-service that was killed never answers.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// The queue of sends. Cheap to clone.
#[derive(Clone)]
pub struct Sends {
    jobs: mpsc::Sender<Job>,
    /// One permit for each pending send.
    permits: Arc<Semaphore>,
}

struct Job {
    send: Send,
    call: Call,
}

/// The session's part of a send.
struct Call {
    /// The parent span, if the send is traced.
    trace: Option<TraceParent>,
    deadline: Deadline,
    reply: oneshot::Sender<Sent>,
}

/// Starts the task that sends batches, at least `gather` apart.
pub fn start(link: Link, gather: Duration, tasks: &TaskTracker) -> Sends {
    let (sender, receiver) = mpsc::channel(PENDING);
    tasks.spawn(run(link, receiver, Pause::new(gather), tasks.clone()));
    Sends { jobs: sender, permits: Arc::new(Semaphore::new(PENDING)) }
}

impl Sends {
    /// Returns a function that counts the pending sends. It does not keep the queue alive.
    pub fn depth(&self) -> impl Fn() -> usize + std::marker::Send + Sync + use<> {
        let permits = self.permits.clone();
        move || PENDING - permits.available_permits()
    }

    /// Has a message stored, even if services fail in the meantime. Returns `unavailable` at the deadline, which is
    /// [`limits::SEND_DEADLINE`] after the frame arrived.
    pub async fn send(&self, mut send: Send, end: Instant) -> Sent {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Sent::Refused(Refusal::unavailable());
        }
        let deadline = Deadline::after(left);
        // A retry is only safe with a key. If the client sent none, this is the key.
        send.client_id.get_or_insert_with(|| Send::own_key(format_args!("{:032x}", fastrand::u128(..))));
        let (reply, answer) = oneshot::channel();
        if self.permits.available_permits() == 0 {
            metrics::counter!("gateway_sends_full_total").increment(1);
        }
        let sent = async {
            let _permit = self.permits.acquire().await.ok()?;
            let call = Call { trace: trace::current(), deadline, reply };
            self.jobs.send(Job { send, call }).await.ok()?;
            answer.await.ok()
        };
        // A little longer than the deadline, so that the answer to the last attempt is not missed.
        let sent = tokio::time::timeout_at(end + ATTEMPT / 10, sent).await;
        sent.ok().flatten().unwrap_or_else(|| Sent::Refused(Refusal::unavailable()))
    }
}

/// The pause between two batches.
struct Pause {
    gather: Duration,
    /// The time before which no batch follows the last one.
    until: Instant,
    /// The sender of all messages of the last batch, if there was only one.
    alone: Option<UserId>,
}

impl Pause {
    fn new(gather: Duration) -> Self {
        Self { gather, until: Instant::now(), alone: None }
    }

    /// The time until which a batch that begins with this send gathers more; `None`: it goes at once. The sender of
    /// the whole last batch does not wait.
    fn end(&self, first: &Send) -> Option<Instant> {
        (self.alone != Some(first.sender_id) && self.until > Instant::now()).then_some(self.until)
    }

    /// Records that a batch is sent now.
    fn sent(&mut self, batch: &[Job]) {
        self.until = Instant::now() + self.gather;
        let first = batch.first().map(|job| job.send.sender_id);
        self.alone = first.filter(|sender| batch.iter().all(|job| job.send.sender_id == *sender));
    }
}

async fn run(link: Link, mut jobs: mpsc::Receiver<Job>, mut pause: Pause, tasks: TaskTracker) {
    let batches = Arc::new(Semaphore::new(CONCURRENCY));
    let mut next = None;
    loop {
        let permit = batches.clone().acquire_owned().await.expect("this semaphore is never closed");
        let first = match next.take() {
            Some(job) => job,
            None => match jobs.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        if jobs.len() + 1 < limits::BATCH_SENDS
            && let Some(end) = pause.end(&first.send)
        {
            tokio::time::sleep_until(end).await;
        }
        let mut bytes = size(&first);
        let mut batch = vec![first];
        while batch.len() < limits::BATCH_SENDS
            && let Ok(job) = jobs.try_recv()
        {
            bytes += size(&job);
            if bytes > limits::BATCH_BYTES {
                next = Some(job);
                break;
            }
            batch.push(job);
        }
        pause.sent(&batch);
        metrics::histogram!("gateway_send_batch_messages")
            .record(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        let (link, batches) = (link.clone(), batches.clone());
        tasks.spawn(async move { send_batch(&link, batch, &batches, permit).await });
    }
}

fn size(job: &Job) -> usize {
    let data = job.send.data.as_ref().map_or(0, |data| data.get().len());
    json_len(&job.send.message) + data + job.send.client_id.as_deref().map_or(0, json_len) + 400
}

/// Has a batch stored. Sends that fail for a transient reason are retried with the same keys until their deadline.
///
/// The permit is held during attempts only. So if chat-service dies with all permitted batches, the other sends are
/// delayed by one attempt.
async fn send_batch(
    link: &Link,
    mut jobs: Vec<Job>,
    batches: &Arc<Semaphore>,
    mut permit: OwnedSemaphorePermit,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    loop {
        jobs = attempt(link, jobs).await;
        if jobs.is_empty() {
            return;
        }
        drop(permit);
        let delay = backoff.delay();
        let (late, rest) =
            jobs.into_iter().partition::<Vec<_>, _>(|job| delay >= job.call.deadline.remaining());
        for job in late {
            // The session may have ended.
            let _ = job.call.reply.send(Sent::Refused(Refusal::unavailable()));
        }
        jobs = rest;
        if jobs.is_empty() {
            return;
        }
        tokio::time::sleep(delay).await;
        permit = batches.clone().acquire_owned().await.expect("this semaphore is never closed");
    }
}

/// Sends a batch once, and returns the sends to retry.
async fn attempt(link: &Link, jobs: Vec<Job>) -> Vec<Job> {
    let deadline = jobs.iter().map(|job| job.call.deadline).max().unwrap_or_else(|| Deadline::after(ATTEMPT));
    let within = deadline.remaining().min(ATTEMPT);
    let traces = jobs.iter().enumerate().filter_map(|(index, job)| Some((index, job.call.trace?)));
    let (traces, deadlines) = (traces.collect(), jobs.iter().map(|job| job.call.deadline).collect());
    let (sends, calls): (Vec<Send>, Vec<Call>) = jobs.into_iter().map(|job| (job.send, job.call)).unzip();
    let batch = SendBatch { sends, traces, deadlines, receipts: true };
    let answer = link.attempt(&batch, within, deadline).await;
    let jobs: Vec<Job> = batch.sends.into_iter().zip(calls).map(|(send, call)| Job { send, call }).collect();
    let sent = match answer {
        Ok(sent) if sent.len() == jobs.len() => sent,
        Ok(_) => return refuse(jobs, &Refusal::internal()),
        Err(error) if error.is_transient() => {
            metrics::counter!("gateway_send_batches_failed_total").increment(1);
            tracing::debug!(%error, "send a batch of messages; trying again");
            return jobs;
        }
        Err(error) => {
            tracing::error!(%error, "send a batch of messages");
            return refuse(jobs, &RequestError::into_refusal(error));
        }
    };
    let mut retries = Vec::new();
    for (job, sent) in jobs.into_iter().zip(sent) {
        match sent {
            Sent::Refused(refusal) if refusal.code == Code::Unavailable => retries.push(job),
            sent => {
                let _ = job.call.reply.send(sent);
            }
        }
    }
    retries
}

fn refuse(jobs: Vec<Job>, refusal: &Refusal) -> Vec<Job> {
    for job in jobs {
        let _ = job.call.reply.send(Sent::Refused(refusal.clone()));
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::connection::tests::Running;
    use contract::{ConversationId, Request};
    use futures_util::StreamExt;
    use service::{Bus, config};
    use testkit::NatsServer;
    use tokio_util::sync::CancellationToken;

    fn message(text: &str) -> Send {
        Send {
            conversation_id: ConversationId::new(1).unwrap(),
            sender_id: UserId::new(1).unwrap(),
            sender_username: None,
            sender_named_at: None,
            message: text.to_owned(),
            client_id: None,
            kind: None,
            data: None,
            reply_to: None,
            system: false,
        }
    }

    #[test]
    fn a_batch_waits_unless_its_first_sender_sent_the_whole_last_one() {
        let job = |sender: i64| Job {
            send: Send { sender_id: UserId::new(sender).unwrap(), ..message("hello") },
            call: Call { trace: None, deadline: Deadline::after(ATTEMPT), reply: oneshot::channel().0 },
        };
        let mut pause = Pause::new(Duration::from_secs(60));
        let waits = |pause: &Pause| [1, 2].map(|sender| pause.end(&job(sender).send).is_some());
        assert_eq!(waits(&pause), [false, false], "the first one goes at once");
        pause.sent(&[job(1)]);
        assert_eq!(waits(&pause), [false, true]);
        pause.sent(&[job(1), job(2)]);
        assert_eq!(waits(&pause), [true, true]);
        pause.until = Instant::now();
        assert_eq!(waits(&pause), [false, false]);
    }

    #[tokio::test]
    async fn unanswered_batches_delay_other_sends_by_one_attempt() {
        let nats = NatsServer::start().await.unwrap();
        let config = config::Nats { nats_url: nats.url(), nats_creds: None };
        let bus = Bus::connect("test", &config, &CancellationToken::new()).await.unwrap().unwrap();
        let mut batches = bus.subscribe(SendBatch::SUBJECT.to_owned()).await.unwrap();
        bus.client().flush().await.unwrap();
        let tasks = TaskTracker::new();
        let running = Running::start(nats.url());
        let sends = start(running.link.clone(), Duration::ZERO, &tasks);
        // A chat-service that dies with each batch that contains this message, and answers all others.
        let (lost, mut losses) = mpsc::channel(16);
        let client = bus.client().clone();
        tasks.spawn(async move {
            while let Some(request) = batches.next().await {
                let batch: SendBatch = serde_json::from_slice(&request.payload).unwrap();
                if batch.sends.iter().any(|send| send.message == "lost") {
                    lost.try_send(()).ok();
                    continue;
                }
                let sent: Vec<Sent> =
                    batch.sends.iter().map(|_| Sent::Refused(Refusal::forbidden())).collect();
                let reply = serde_json::to_vec(&sent).unwrap();
                client.publish(request.reply.unwrap(), reply.into()).await.unwrap();
            }
        });
        let end = Instant::now() + limits::SEND_DEADLINE;
        let send_lost = |sends: Sends| async move { sends.send(message("lost"), end).await };
        let mut all = Vec::new();
        for _ in 0..CONCURRENCY {
            all.push(tasks.spawn(send_lost(sends.clone())));
            losses.recv().await.unwrap();
        }
        let answer = sends.send(message("answered"), end).await;
        assert_eq!(answer, Sent::Refused(Refusal::forbidden()));
        assert!(all.iter().all(|lost| !lost.is_finished()), "it waited for the deadline of other sends");
    }
}
