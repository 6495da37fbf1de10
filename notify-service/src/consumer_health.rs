//! Whether a consumer makes progress, for `/readyz` and `/metrics`.

use crate::streams::{CONSUMER, Source};
use anyhow::bail;
use service::Bus;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Time between two requests for the consumer info.
const INFO_INTERVAL: Duration = Duration::from_secs(5);
/// Time without progress or without consumer info after which a consumer is unhealthy.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Health of a consumer.
pub struct ConsumerHealth {
    source: Source,
    state: Mutex<State>,
}

struct State {
    /// Error of the last batch, if it failed.
    failure: Option<String>,
    /// Time at which a batch was last completed, or no message was pending.
    progressed_at: Instant,
    /// Time of the last consumer info.
    info_at: Instant,
}

impl ConsumerHealth {
    /// The health of a consumer that starts now.
    pub fn new(source: Source) -> Self {
        let now = Instant::now();
        Self { source, state: Mutex::new(State { failure: None, progressed_at: now, info_at: now }) }
    }

    /// Records that a batch was completed.
    pub fn succeeded(&self) {
        self.change(|state| {
            state.failure = None;
            state.progressed_at = Instant::now();
        });
    }

    /// Records that fetching or storing a batch failed.
    pub fn failed(&self, error: &str) {
        self.change(|state| state.failure = Some(error.to_owned()));
    }

    /// Checks that the consumer makes progress.
    ///
    /// # Errors
    /// The reason if it doesn't.
    pub fn check(&self) -> anyhow::Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &state.failure {
            bail!("{failure}");
        }
        if state.info_at.elapsed() > STALL_TIMEOUT {
            bail!("no consumer info from NATS for {} s", state.info_at.elapsed().as_secs());
        }
        if state.progressed_at.elapsed() > STALL_TIMEOUT {
            bail!(
                "no progress for {} s although messages are pending",
                state.progressed_at.elapsed().as_secs()
            );
        }
        Ok(())
    }

    /// Requests the consumer info repeatedly until the token is cancelled.
    pub async fn watch(&self, bus: &Bus, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(INFO_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let Ok(lag) = lag(bus, self.source).await else { continue };
            metrics::gauge!("consumer_lag", "stream" => self.source.name()).set(lag as f64);
            self.change(|state| {
                state.info_at = Instant::now();
                if lag == 0 {
                    state.failure = None;
                    state.progressed_at = state.info_at;
                }
            });
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Number of messages that are not delivered yet or not acknowledged.
async fn lag(bus: &Bus, source: Source) -> anyhow::Result<u64> {
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
