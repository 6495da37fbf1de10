//! Users who join conversations, on their way to chat-service: requests that arrive close together travel together.

use contract::{
    Refusal,
    chat::{Admitted, JoinBatch, JoinReply, JoinRequest},
    limits,
};
use service::{
    Bus, RequestError,
    batcher::{Batcher, Call, Limits, Permit, batcher},
};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// Requests that wait; further ones wait at their sockets.
const WAITING: usize = 32 * limits::BATCH_JOINS;
/// Batches in progress at once.
const CONCURRENCY: usize = 8;
/// Between two batches. Over most networks, opening a connection takes longer.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long chat-service may take.
const ANSWER: Duration = limits::SEND_DEADLINE;
/// How long a request waits altogether.
const DEADLINE: Duration = ANSWER.saturating_add(Duration::from_secs(1));

type Joined = Result<Admitted, Refusal>;

/// The way to chat-service for users who join conversations.
pub struct Joins(Batcher<JoinRequest, Joined>);

impl Joins {
    /// Starts sending. It ends with this, once every request is answered.
    pub fn start(bus: Bus, tasks: &TaskTracker) -> Self {
        let limits = Limits::new(WAITING, limits::BATCH_JOINS, "gateway_doors_full_total");
        let (requests, batches) = batcher(Limits { interval: INTERVAL, ..limits });
        let handle = move |batch, permit| send(bus.clone(), batch, permit);
        tasks.spawn(batches.run(CONCURRENCY, tasks.clone(), handle));
        Self(requests)
    }

    /// Asks whether a user may be on a conversation, and for the state to start from.
    ///
    /// # Errors
    /// If the user may not, or there is no answer within some seconds.
    pub async fn join(&self, entry: JoinRequest) -> Joined {
        let joined = timeout(DEADLINE, self.0.call(entry)).await;
        joined.ok().and_then(Result::ok).unwrap_or_else(|| Err(Refusal::unavailable()))
    }
}

async fn send(bus: Bus, mut batch: Vec<Call<JoinRequest, Joined>>, _permit: Permit) {
    batch.retain(|call| !call.is_abandoned());
    if batch.is_empty() {
        return;
    }
    let (entries, replies): (Vec<JoinRequest>, Vec<_>) = batch.into_iter().map(Call::split).unzip();
    let refusal = match bus.request_until(&JoinBatch { entries }, ANSWER).await {
        Ok(entered) if entered.len() == replies.len() => {
            for (reply, entered) in replies.into_iter().zip(entered) {
                reply.send(match entered {
                    JoinReply::Admitted(entrance) => Ok(entrance),
                    JoinReply::Refused(refusal) => Err(refusal),
                });
            }
            return;
        }
        Ok(_) => Refusal::internal(),
        Err(error) => RequestError::into_refusal(error),
    };
    for reply in replies {
        reply.send(Err(refusal.clone()));
    }
}
