//! Typing inputs of users, on their way to typing-service: inputs that arrive close together travel together.

use contract::{
    Refusal, limits,
    typing::{TypingInput, TypingInputs as Payload},
};
use service::{
    Bus,
    batcher::{Batcher, Batches, Limits, batcher},
};
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Inputs that wait; further ones are refused.
const WAITING: usize = 16 * limits::TYPING_INPUTS;
/// Between two batches. Nobody sees that someone starts typing so much later.
const INTERVAL: Duration = Duration::from_millis(25);

/// The way to typing-service.
pub struct TypingInputs(Batcher<TypingInput, ()>);

impl TypingInputs {
    /// Starts publishing. It ends with this, once every input is published.
    pub fn start(bus: Bus, tasks: &TaskTracker) -> Self {
        let limits = Limits::new(WAITING, limits::TYPING_INPUTS, "gateway_typing_full_total");
        let (inputs, batches) = batcher(Limits { interval: INTERVAL, ..limits });
        tasks.spawn(publish(bus, batches));
        Self(inputs)
    }

    /// Publishes an input, after those before it.
    ///
    /// # Errors
    /// `unavailable`: as many wait as may.
    pub fn publish(&self, input: TypingInput) -> Result<(), Refusal> {
        self.0.try_call(input).map(drop).map_err(|_| Refusal::unavailable())
    }
}

async fn publish(bus: Bus, mut batches: Batches<TypingInput, ()>) {
    while let Some(batch) = batches.next().await {
        let inputs = Payload(batch.into_iter().map(|call| call.request).collect());
        if let Err(error) = bus.publish(&inputs).await {
            tracing::warn!(error = format!("{error:#}"), "publish typing inputs");
        }
    }
}
