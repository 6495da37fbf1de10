//! Sends on their way to chat-service: what gathers while others are under way travels together.

use contract::{
    Code, Deadline, Refusal, TraceParent,
    chat::{Send, SendBatch, Sent},
    limits,
};
use service::{Backoff, Bus, RequestError, bus::json_len, trace};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::task::TaskTracker;

/// Sends that are here at once: waiting for a pack, under way, or waiting to be repeated. More wait at their sockets.
const WAITING: usize = 4096;
/// Packs under way at once.
const UNDER_WAY: usize = 2;
/// How long one attempt may take: a chat-service that was killed never answers.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// The way to chat-service for messages. Cheap to clone.
#[derive(Clone)]
pub struct Sends {
    jobs: mpsc::Sender<Job>,
    /// One permit for each send that is here.
    room: Arc<Semaphore>,
}

struct Job {
    send: Send,
    /// What it is a step of, if it is traced.
    trace: Option<TraceParent>,
    deadline: Deadline,
    reply: oneshot::Sender<Sent>,
}

/// Starts packing.
pub fn start(bus: Bus, tasks: &TaskTracker) -> Sends {
    let (sender, receiver) = mpsc::channel(WAITING);
    tasks.spawn(run(bus, receiver, tasks.clone()));
    Sends { jobs: sender, room: Arc::new(Semaphore::new(WAITING)) }
}

impl Sends {
    /// Returns a function that counts the sends that are here, without keeping the sends going.
    pub fn depth(&self) -> impl Fn() -> usize + std::marker::Send + Sync + use<> {
        let room = self.room.clone();
        move || WAITING - room.available_permits()
    }

    /// Has a message stored, whatever happens to the services meanwhile; or returns `unavailable` at its deadline, which
    /// is [`limits::SEND_DEADLINE`] after its arrival.
    pub async fn send(&self, mut send: Send, end: Instant) -> Sent {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Sent::Refused(Refusal::unavailable());
        }
        let deadline = Deadline::after(left);
        // Trying again is only safe with a key; where the client has none, this is it.
        send.client_id.get_or_insert_with(|| Send::own_key(format_args!("{:032x}", fastrand::u128(..))));
        let (reply, answer) = oneshot::channel();
        if self.room.available_permits() == 0 {
            metrics::counter!("gateway_packer_full_total").increment(1);
        }
        let sent = async {
            let _room = self.room.acquire().await.ok()?;
            self.jobs.send(Job { send, trace: trace::current(), deadline, reply }).await.ok()?;
            answer.await.ok()
        };
        // A moment more, so that the answer of the last attempt is not missed.
        let sent = tokio::time::timeout_at(end + ATTEMPT / 10, sent).await;
        sent.ok().flatten().unwrap_or_else(|| Sent::Refused(Refusal::unavailable()))
    }
}

async fn run(bus: Bus, mut jobs: mpsc::Receiver<Job>, tasks: TaskTracker) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let mut next = None;
    loop {
        let permit = under_way.clone().acquire_owned().await.expect("this semaphore is never closed");
        let first = match next.take() {
            Some(job) => job,
            None => match jobs.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        let mut bytes = size(&first);
        let mut pack = vec![first];
        while pack.len() < limits::BATCH_SENDS
            && let Ok(job) = jobs.try_recv()
        {
            bytes += size(&job);
            if bytes > limits::BATCH_BYTES {
                next = Some(job);
                break;
            }
            pack.push(job);
        }
        metrics::histogram!("gateway_pack_sends")
            .record(f64::from(u32::try_from(pack.len()).unwrap_or(u32::MAX)));
        let (bus, under_way) = (bus.clone(), under_way.clone());
        tasks.spawn(async move { deliver(&bus, pack, &under_way, permit).await });
    }
}

fn size(job: &Job) -> usize {
    json_len(&job.send.message) + job.send.client_id.as_deref().map_or(0, json_len) + 300
}

/// Has a pack stored. Sends that fail for a reason that passes are repeated, with the same keys, until their deadline.
///
/// The permit is held during attempts only: a chat-service that has died with every permitted pack delays the other
/// sends by one attempt.
async fn deliver(
    bus: &Bus,
    mut jobs: Vec<Job>,
    under_way: &Arc<Semaphore>,
    mut permit: OwnedSemaphorePermit,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    loop {
        jobs = attempt(bus, jobs).await;
        if jobs.is_empty() {
            return;
        }
        drop(permit);
        let delay = backoff.delay();
        let (late, rest) = jobs.into_iter().partition::<Vec<_>, _>(|job| delay >= job.deadline.remaining());
        for job in late {
            // A socket that is gone waits for nothing.
            let _ = job.reply.send(Sent::Refused(Refusal::unavailable()));
        }
        jobs = rest;
        if jobs.is_empty() {
            return;
        }
        tokio::time::sleep(delay).await;
        permit = under_way.clone().acquire_owned().await.expect("this semaphore is never closed");
    }
}

/// Asks once, and returns the sends to ask for again.
async fn attempt(bus: &Bus, jobs: Vec<Job>) -> Vec<Job> {
    let deadline = jobs.iter().map(|job| job.deadline).max().unwrap_or_else(|| Deadline::after(ATTEMPT));
    let within = deadline.remaining().min(ATTEMPT);
    let traces = jobs.iter().enumerate().filter_map(|(index, job)| Some((index, job.trace?)));
    let pack = SendBatch {
        traces: traces.collect(),
        deadlines: jobs.iter().map(|job| job.deadline).collect(),
        sends: jobs.iter().map(|job| job.send.clone()).collect(),
    };
    let sent = match bus.attempt(&pack, within, deadline).await {
        Ok(sent) if sent.len() == jobs.len() => sent,
        Ok(_) => return refuse(jobs, &Refusal::internal()),
        Err(error) if error.is_transient() => {
            metrics::counter!("gateway_packs_failed_total").increment(1);
            tracing::debug!(%error, "a pack of sends; trying again");
            return jobs;
        }
        Err(error) => {
            tracing::error!(%error, "a pack of sends");
            return refuse(jobs, &RequestError::into_refusal(error));
        }
    };
    let mut again = Vec::new();
    for (job, sent) in jobs.into_iter().zip(sent) {
        match sent {
            Sent::Refused(refusal) if refusal.code == Code::Unavailable => again.push(job),
            sent => {
                let _ = job.reply.send(sent);
            }
        }
    }
    again
}

fn refuse(jobs: Vec<Job>, refusal: &Refusal) -> Vec<Job> {
    for job in jobs {
        let _ = job.reply.send(Sent::Refused(refusal.clone()));
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{ConversationId, Request, UserId};
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
        }
    }

    #[tokio::test]
    async fn packs_that_nobody_answers_delay_other_sends_by_one_attempt() {
        let nats = NatsServer::start().await.unwrap();
        let config = config::Nats { nats_url: nats.url(), nats_creds: None };
        let bus = Bus::connect("test", &config, &CancellationToken::new()).await.unwrap().unwrap();
        let mut packs = bus.subscribe(SendBatch::SUBJECT.to_owned()).await.unwrap();
        bus.client().flush().await.unwrap();
        let tasks = TaskTracker::new();
        let sends = start(bus.clone(), &tasks);
        // A chat-service that dies with each pack that holds one of these, and answers all others.
        let (seen, mut sees) = mpsc::channel(16);
        let client = bus.client().clone();
        tasks.spawn(async move {
            while let Some(request) = packs.next().await {
                let pack: SendBatch = serde_json::from_slice(&request.payload).unwrap();
                if pack.sends.iter().any(|send| send.message == "lost") {
                    seen.try_send(()).ok();
                    continue;
                }
                let sent: Vec<Sent> =
                    pack.sends.iter().map(|_| Sent::Refused(Refusal::forbidden())).collect();
                let reply = serde_json::to_vec(&sent).unwrap();
                client.publish(request.reply.unwrap(), reply.into()).await.unwrap();
            }
        });
        let end = Instant::now() + limits::SEND_DEADLINE;
        let lost = |sends: Sends| async move { sends.send(message("lost"), end).await };
        let mut all = Vec::new();
        for _ in 0..UNDER_WAY {
            all.push(tasks.spawn(lost(sends.clone())));
            sees.recv().await.unwrap();
        }
        let answer = sends.send(message("found"), end).await;
        assert_eq!(answer, Sent::Refused(Refusal::forbidden()));
        assert!(all.iter().all(|lost| !lost.is_finished()), "it waited for the deadline of others");
    }
}
