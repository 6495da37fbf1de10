//! The messages of a batch, and the answers to their senders after its commit.

use crate::{
    outbox::Outbox,
    store::{Batch, Outcome},
};
use contract::{
    Code, Deadline, Refusal,
    chat::{Send, Sent},
    limits,
};
use service::{Span, batcher, postgres};

/// Capacity of one lane's queue; further sends wait in NATS, then at the gateways.
pub const WAITING: usize = 4 * limits::BATCH_SENDS;
/// Maximum number of messages in one batch.
pub const BATCH: usize = limits::BATCH_SENDS;
/// A message to store.
pub struct Job {
    /// The message.
    pub send: Send,
    /// Deadline of the commit.
    pub deadline: Deadline,
    /// Parent of the spans that storing it creates.
    pub span: Span,
}

/// A job and the reply to its sender.
pub type Call = batcher::Call<Job, Sent>;

/// Refuses messages that can't be stored.
pub fn fail(jobs: Vec<Call>, error: &sqlx::Error) {
    metrics::counter!("chat_batches_failed_total").increment(1);
    let refusal = postgres::refusal("store messages", error);
    for job in jobs {
        job.reply(Sent::Refused(refusal.clone()));
    }
}

/// Publishes the messages of a stored batch and answers their senders. Returns the messages whose conversations are
/// locked.
pub async fn finish(outbox: &Outbox, jobs: Vec<Call>, batch: Batch) -> Vec<Call> {
    let (mut commit, mut busy) = (outbox.commit(), Vec::new());
    let mut answers = Vec::with_capacity(jobs.len());
    for (job, outcome) in jobs.into_iter().zip(batch.outcomes) {
        let answer = match outcome {
            Outcome::Stored(message, people) => {
                job.request.span.set("message.id", message.message_id.get());
                commit.add(&message, people, &job.request.span);
                Sent::Stored(message)
            }
            Outcome::Repeated(message) => Sent::Repeated(message),
            Outcome::Forbidden => Sent::Refused(Refusal::forbidden()),
            Outcome::Blocked => {
                Sent::Refused(Refusal::new(Code::Blocked, "this user doesn't accept your messages"))
            }
            Outcome::NoOriginal => {
                let detail = "\"reply_to\" is no message of this conversation";
                Sent::Refused(Refusal::new(Code::NotFound, detail))
            }
            Outcome::Late => {
                metrics::counter!("chat_sends_late_total").increment(1);
                Sent::Refused(Refusal::unavailable())
            }
            Outcome::Busy => {
                busy.push(job);
                continue;
            }
        };
        answers.push((job, answer));
    }
    if let Some(outbox_id) = batch.outbox_id {
        metrics::counter!("chat_messages_total").increment(commit.len());
        outbox.publish(outbox_id, commit).await;
    }
    for (job, answer) in answers {
        job.reply(answer);
    }
    busy
}
