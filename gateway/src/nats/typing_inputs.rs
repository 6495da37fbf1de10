//! What users do at their keyboards, on its way to typing-service: what many do at about the same time travels together.

use crate::nats::batch::Gather;
use contract::{
    Refusal, limits,
    typing::{TypingInput, TypingInputs},
};
use service::Bus;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Inputs that wait; further ones are refused.
const WAITING: usize = 16 * limits::TYPING_INPUTS;
/// Between two packs of inputs. Nobody sees that someone starts so much later.
const EVERY: Duration = Duration::from_millis(25);

/// The way to typing-service.
pub struct Keyboards(mpsc::Sender<TypingInput>);

impl Keyboards {
    /// Starts the task that tells. It ends with this, once it has told everything.
    pub fn start(bus: Bus, tasks: &TaskTracker) -> Self {
        let (sender, inputs) = mpsc::channel(WAITING);
        tasks.spawn(tell(bus, Gather::new(inputs, EVERY, limits::TYPING_INPUTS)));
        Self(sender)
    }

    /// Tells what a user did, after what was told before.
    ///
    /// # Errors
    /// `unavailable`: as many wait as may.
    pub fn tell(&self, input: TypingInput) -> Result<(), Refusal> {
        self.0.try_send(input).map_err(|_| {
            metrics::counter!("gateway_typing_full_total").increment(1);
            Refusal::unavailable()
        })
    }
}

async fn tell(bus: Bus, mut inputs: Gather<TypingInput>) {
    while let Some(inputs) = inputs.next().await {
        if let Err(error) = bus.publish(&TypingInputs(inputs)).await {
            tracing::warn!(error = format!("{error:#}"), "tell what users type");
        }
    }
}
