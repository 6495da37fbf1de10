//! Typing inputs of users, published to typing-service in batches.

use super::connection::Link;
use contract::{
    Refusal, limits,
    typing::{TypingInput, TypingInputs as Payload},
};
use service::{
    batcher::{Batcher, Batches, Limits, batcher},
    bus::chain,
};
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Number of inputs in the queue. Further ones are refused.
const WAITING: usize = 16 * limits::TYPING_INPUTS;
/// Minimum interval between two batches. Users do not notice such a delay.
const INTERVAL: Duration = Duration::from_millis(25);

/// The queue of typing inputs.
pub struct TypingInputs(Batcher<TypingInput, ()>);

impl TypingInputs {
    /// Starts the task that publishes batches. It ends after this queue is dropped and every input is published.
    pub fn start(link: Link, tasks: &TaskTracker) -> Self {
        let limits = Limits::new(WAITING, limits::TYPING_INPUTS, "gateway_typing_full_total");
        let (inputs, batches) = batcher(Limits { interval: INTERVAL, ..limits });
        tasks.spawn(publish(link, batches));
        Self(inputs)
    }

    /// Queues an input, to be published in order.
    ///
    /// # Errors
    /// `unavailable` if the queue is full.
    pub fn publish(&self, input: TypingInput) -> Result<(), Refusal> {
        self.0.try_call(input).map(drop).map_err(|_| Refusal::unavailable())
    }
}

async fn publish(link: Link, mut batches: Batches<TypingInput, ()>) {
    while let Some(batch) = batches.next().await {
        let inputs = Payload(batch.into_iter().map(|call| call.request).collect());
        if let Err(error) = link.publish(&inputs) {
            tracing::debug!(error = chain(&error), "typing inputs are lost");
        }
    }
}
