//! Requests to join conversations, sent to chat-service in batches.

use super::connection::Link;
use contract::{
    Refusal,
    chat::{Admitted, JoinBatch, JoinReply, JoinRequest},
    limits,
};
use service::{
    RequestError,
    batcher::{Batcher, Call, Limits, Permit, batcher},
};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// Number of requests in the queue. Further ones wait in their sessions.
const WAITING: usize = 32 * limits::BATCH_JOINS;
/// Number of batches in progress.
const CONCURRENCY: usize = 8;
/// Minimum interval between two batches. Over most networks, opening a connection takes longer.
const INTERVAL: Duration = Duration::from_millis(10);
/// Time limit of a batch.
const BATCH_TIMEOUT: Duration = limits::SEND_DEADLINE;
/// Time limit of a request, including its wait in the queue.
const TIMEOUT: Duration = BATCH_TIMEOUT.saturating_add(Duration::from_secs(1));

type Joined = Result<Admitted, Refusal>;

/// The queue of requests to join conversations.
pub struct Joins(Batcher<JoinRequest, Joined>);

impl Joins {
    /// Starts the task that sends batches. It ends after this queue is dropped and every request is answered.
    /// Joins follow the subscriptions of their channels on `link`, so no event in between is missed.
    pub fn start(link: Link, tasks: &TaskTracker) -> Self {
        let limits = Limits::new(WAITING, limits::BATCH_JOINS, "gateway_joins_full_total");
        let (requests, batches) = batcher(Limits { interval: INTERVAL, ..limits });
        let handle = move |batch, permit| send(link.clone(), batch, permit);
        tasks.spawn(batches.run(CONCURRENCY, tasks.clone(), handle));
        Self(requests)
    }

    /// Requests the admission of a user to a conversation, and the state to start from.
    ///
    /// # Errors
    /// If the user is not admitted, or `unavailable` if there is no answer in time.
    pub async fn join(&self, request: JoinRequest) -> Joined {
        let joined = timeout(TIMEOUT, self.0.call(request)).await;
        joined.ok().and_then(Result::ok).unwrap_or_else(|| Err(Refusal::unavailable()))
    }
}

async fn send(link: Link, mut batch: Vec<Call<JoinRequest, Joined>>, _permit: Permit) {
    batch.retain(|call| !call.is_abandoned());
    if batch.is_empty() {
        return;
    }
    let (entries, senders): (Vec<JoinRequest>, Vec<_>) = batch.into_iter().map(Call::split).unzip();
    let refusal = match link.request_until(&JoinBatch { entries }, BATCH_TIMEOUT).await {
        Ok(replies) if replies.len() == senders.len() => {
            for (sender, reply) in senders.into_iter().zip(replies) {
                sender.send(match reply {
                    JoinReply::Admitted(admitted) => Ok(admitted),
                    JoinReply::Refused(refusal) => Err(refusal),
                });
            }
            return;
        }
        Ok(_) => Refusal::internal(),
        Err(error) => RequestError::into_refusal(error),
    };
    for sender in senders {
        sender.send(Err(refusal.clone()));
    }
}
