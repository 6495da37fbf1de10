//! Whether a consumer moves, for `/readyz` and `/metrics`.

use crate::streams::{CONSUMER, Source};
use anyhow::bail;
use service::Bus;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often NATS is asked what waits.
const EVERY: Duration = Duration::from_secs(5);
/// Nothing done for this long, while something waits, is standing still.
const STILL: Duration = Duration::from_secs(30);

/// What is known of a consumer.
pub struct Pulse {
    source: Source,
    state: Mutex<State>,
}

struct State {
    /// Why the last batch failed, if it did.
    failure: Option<String>,
    /// When there was last nothing to do, or something was done.
    moved: Instant,
    /// When NATS last said what waits.
    told: Instant,
}

impl Pulse {
    /// Of a consumer that starts now.
    pub fn new(source: Source) -> Self {
        let now = Instant::now();
        Self { source, state: Mutex::new(State { failure: None, moved: now, told: now }) }
    }

    /// A batch is done.
    pub fn worked(&self) {
        self.change(|state| {
            state.failure = None;
            state.moved = Instant::now();
        });
    }

    /// A batch, or the taking of one, failed.
    pub fn failed(&self, why: &str) {
        self.change(|state| state.failure = Some(why.to_owned()));
    }

    /// Whether it moves.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> anyhow::Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &state.failure {
            bail!("{failure}");
        }
        if state.told.elapsed() > STILL {
            bail!("NATS has not said for {} s what waits", state.told.elapsed().as_secs());
        }
        if state.moved.elapsed() > STILL {
            bail!("nothing was done for {} s, and something waits", state.moved.elapsed().as_secs());
        }
        Ok(())
    }

    /// Asks NATS what waits, again and again, until the token is cancelled.
    pub async fn watch(&self, bus: &Bus, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let Ok(waiting) = waiting(bus, self.source).await else { continue };
            metrics::gauge!("consumer_lag", "stream" => self.source.name()).set(waiting as f64);
            self.change(|state| {
                state.told = Instant::now();
                if waiting == 0 {
                    state.failure = None;
                    state.moved = state.told;
                }
            });
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Messages that are not done: not delivered yet, or not acknowledged.
async fn waiting(bus: &Bus, source: Source) -> anyhow::Result<u64> {
    let consumer = bus
        .jetstream()
        .get_consumer_from_stream::<async_nats::jetstream::consumer::pull::Config, _, _>(
            CONSUMER,
            source.name(),
        )
        .await?;
    let info = consumer.cached_info();
    Ok(info.num_pending + info.num_ack_pending as u64)
}
