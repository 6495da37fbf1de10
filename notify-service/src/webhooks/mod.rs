//! Webhooks: delivers the events for backends over HTTP, signed as Standard Webhooks describes.
//!
//! Each endpoint has a durable consumer of `EVENTS_OUT`, which all replicas share. An event is acknowledged once the
//! endpoint has it, or it is a dead letter. The specification:
//! <https://github.com/standard-webhooks/standard-webhooks>.

mod delivery;
mod endpoints;
#[cfg(test)]
mod tests;

pub use endpoints::{Endpoint, load};

use crate::deadletter::{self, Headers, Letter};
use anyhow::Context;
use async_nats::{
    HeaderMap,
    jetstream::{
        AckKind, Message,
        consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
        stream,
    },
};
use contract::{
    notify::{EVENT_TYPE_HEADER, REPLAY_OF_HEADER},
    streams::{EVENTS_OUT_STREAM, WEBHOOK_PREFIX},
};
use delivery::{Delivery, Outcome};
use futures_util::StreamExt;
use reqwest::{Client, redirect};
use service::{Backoff, Bus};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Deliveries of one endpoint in progress at once, in this replica.
const IN_FLIGHT: usize = 16;
/// Events of one endpoint that wait for their next attempt. Beyond it, new events wait in the stream.
const PENDING: i64 = 50_000;
/// Time for which a request for events waits at NATS.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// Interval of the measurements.
const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// Delay after a dead letter could not be stored.
const DEAD_LETTER_RETRY: Duration = Duration::from_secs(30);

/// The times of deliveries. Tests shorten them.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Time limit of an attempt.
    timeout: Duration,
    /// Time after which NATS delivers an event again if this process has died.
    ack_wait: Duration,
    /// Delays between the attempts, ±10 %.
    delays: Vec<Duration>,
}

impl Default for Schedule {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        let delays =
            [5, 30, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
        Self {
            timeout: Duration::from_secs(10),
            ack_wait: Duration::from_secs(20),
            delays: delays.map(Duration::from_secs).to_vec(),
        }
    }
}

impl Schedule {
    /// The delay after a number of attempts; `None` after the last one.
    fn delay(&self, attempts: usize) -> Option<Duration> {
        let delay = self.delays.get(attempts.saturating_sub(1))?;
        Some(delay.mul_f64(0.9 + fastrand::f64() * 0.2))
    }
}

/// Whether the consumers of all endpoints exist.
pub struct Health(Vec<Arc<Webhook>>);

impl Health {
    /// Checks that each endpoint has had its consumer since this process started. From then on, it misses no event.
    ///
    /// # Errors
    /// If one has not.
    pub fn check(&self) -> anyhow::Result<()> {
        let missing = self.0.iter().find(|webhook| !webhook.is_open.load(Ordering::Relaxed));
        let missing = missing.map(|webhook| &webhook.endpoint.name);
        missing.map_or(Ok(()), |name| Err(anyhow::anyhow!("the consumer of {name} does not exist yet")))
    }
}

/// Starts the deliveries to all endpoints.
///
/// # Errors
/// If no HTTP client can be created.
pub fn start(
    bus: &Bus,
    endpoints: Vec<Endpoint>,
    schedule: &Schedule,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<Health> {
    let mut webhooks = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        // One client for each endpoint, so that they share no connections.
        let client = Client::builder()
            .timeout(schedule.timeout)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("vyzio-realtime/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("create an HTTP client for webhooks")?;
        let webhook = Arc::new(Webhook {
            bus: bus.clone(),
            client,
            endpoint,
            schedule: schedule.clone(),
            places: Arc::new(Semaphore::new(IN_FLIGHT)),
            tasks: tasks.clone(),
            is_open: AtomicBool::new(false),
        });
        tasks.spawn(webhook.clone().run(shutdown.clone()));
        tasks.spawn(webhook.clone().measure_lag(shutdown.clone()));
        webhooks.push(webhook);
    }
    Ok(Health(webhooks))
}

/// The deliveries to one endpoint.
struct Webhook {
    bus: Bus,
    client: Client,
    endpoint: Endpoint,
    schedule: Schedule,
    /// One permit for each delivery in progress.
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Whether its consumer has existed.
    is_open: AtomicBool,
}

impl Webhook {
    /// The name of the consumer.
    fn consumer(&self) -> String {
        format!("webhook-{}", self.endpoint.name)
    }

    /// The subject of events that are only for this endpoint: replayed dead letters.
    fn own_subject(&self) -> String {
        format!("{WEBHOOK_PREFIX}{}", self.endpoint.name)
    }

    /// Runs until the token is cancelled. Deliveries in progress are finished.
    async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        while !shutdown.is_cancelled() {
            if let Err(error) = self.deliver_all(&shutdown, &mut backoff).await {
                let (endpoint, error) = (&self.endpoint.name, format!("{error:#}"));
                tracing::warn!(endpoint, error, "waiting for the events of a webhook");
                tokio::select! {
                    () = backoff.wait() => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
    }

    /// Opens the consumer, and creates or updates it. A new endpoint receives the events from now on.
    async fn open(&self) -> anyhow::Result<Consumer<pull::Config>> {
        let stream = self.bus.jetstream().get_stream_no_info(EVENTS_OUT_STREAM).await;
        let stream = stream.context("open the stream")?;
        let mut filter_subjects = self.endpoint.events.clone();
        filter_subjects.push(self.own_subject());
        let config = pull::Config {
            durable_name: Some(self.consumer()),
            description: Some("deliveries of a webhook".to_owned()),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.schedule.ack_wait,
            max_deliver: -1,
            max_ack_pending: PENDING,
            filter_subjects,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.context("open the consumer")?;
        self.is_open.store(true, Ordering::Relaxed);
        Ok(consumer)
    }

    async fn deliver_all(
        self: &Arc<Self>,
        shutdown: &CancellationToken,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        let consumer = self.open().await?;
        loop {
            let Some(mut places) = self.free_places(shutdown).await else { return Ok(()) };
            let batch = consumer.batch().max_messages(places.len()).expires(FETCH_WAIT).messages();
            let mut batch = batch.await.context("fetch events")?;
            loop {
                let next = tokio::select! {
                    next = batch.next() => next,
                    () = shutdown.cancelled() => return Ok(()),
                };
                let Some(message) = next else { break };
                let message = message.map_err(|error| anyhow::anyhow!(error)).context("fetch events")?;
                backoff.reset();
                let Some(place) = places.pop() else { break };
                let webhook = self.clone();
                self.tasks.spawn(async move {
                    webhook.deliver(message).await;
                    drop(place);
                });
            }
        }
    }

    /// Waits for a free place, and takes all that are free. `None` if the token is cancelled first.
    async fn free_places(&self, shutdown: &CancellationToken) -> Option<Vec<OwnedSemaphorePermit>> {
        let first = tokio::select! {
            place = self.places.clone().acquire_owned() => place.ok()?,
            () = shutdown.cancelled() => return None,
        };
        let mut places = vec![first];
        while let Ok(place) = self.places.clone().try_acquire_owned() {
            places.push(place);
        }
        Some(places)
    }

    /// Delivers one event, or schedules its next attempt, or makes it a dead letter.
    async fn deliver(&self, message: Message) {
        let Some(delivery) = Delivery::new(&message) else {
            self.give_up(&message, None, "it is not an event").await;
            return;
        };
        let attempts = message.info().map_or(1, |info| usize::try_from(info.delivered).unwrap_or(1));
        let (ack, outcome) = match delivery.attempt(&self.client, &self.endpoint).await {
            Outcome::Delivered => (AckKind::Ack, "delivered"),
            Outcome::Gone(reason) => return self.give_up(&message, Some(&delivery), &reason).await,
            Outcome::Failed(reason) => match self.schedule.delay(attempts) {
                Some(delay) => {
                    let endpoint = &self.endpoint.name;
                    tracing::debug!(endpoint, attempts, reason, "a delivery failed; will be retried");
                    (AckKind::Nak(Some(delay)), "failed")
                }
                None => return self.give_up(&message, Some(&delivery), &reason).await,
            },
        };
        self.finish(&message, ack, outcome).await;
    }

    /// Makes an event a dead letter. Its subject is the endpoint's own, so that a replay reaches no other endpoint.
    async fn give_up(&self, message: &Message, delivery: Option<&Delivery>, reason: &str) {
        let mut headers = HeaderMap::new();
        if let Some(delivery) = delivery {
            headers.insert(EVENT_TYPE_HEADER, delivery.kind.as_str());
            // Not as `Nats-Msg-Id`: then the dead letter of a replay would be a repeat of the one that was replayed.
            headers.insert(REPLAY_OF_HEADER, format!("id:{}", delivery.id));
        }
        let place = message.info().map(|info| {
            let at = info.published.unix_timestamp_nanos();
            format!("{}:{}:{}:{at}", self.consumer(), info.stream, info.stream_sequence)
        });
        let (subject, place) = (self.own_subject(), place.unwrap_or_default());
        let letter = Letter {
            subject: &subject,
            headers: Headers::Read(Some(&headers)),
            body: message.payload.clone(),
            place: &place,
            reason,
        };
        match deadletter::store(&self.bus, letter).await {
            Ok(()) => {
                let endpoint = &self.endpoint.name;
                tracing::warn!(endpoint, place, "a delivery was given up; stored as a dead letter");
                self.finish(message, AckKind::Term, "dead").await;
            }
            Err(error) => {
                let (endpoint, error) = (&self.endpoint.name, format!("{error:#}"));
                tracing::warn!(endpoint, error, "store a dead letter; will be retried");
                self.finish(message, AckKind::Nak(Some(DEAD_LETTER_RETRY)), "failed").await;
            }
        }
    }

    async fn finish(&self, message: &Message, ack: AckKind, outcome: &'static str) {
        crate::fetch::ack(message, ack).await;
        let labels = [("endpoint", self.endpoint.name.clone()), ("outcome", outcome.to_owned())];
        metrics::counter!("webhooks_total", &labels).increment(1);
    }

    /// Regularly measures how many events the endpoint has not received, and how far the stream is from losing one of
    /// them, until the token is cancelled.
    async fn measure_lag(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LAG_INTERVAL) => {}
                () = shutdown.cancelled() => return,
            }
            let Ok(stream) = self.bus.jetstream().get_stream(EVENTS_OUT_STREAM).await else {
                continue;
            };
            if let Ok(info) = stream.consumer_info(self.consumer()).await {
                let lag = info.num_pending + info.num_ack_pending as u64;
                let gauge = |name| metrics::gauge!(name, "endpoint" => self.endpoint.name.clone());
                gauge("webhook_lag").set(lag as f64);
                gauge("webhook_retrying").set(info.num_ack_pending as f64);
                let oldest = (lag > 0).then_some(info.ack_floor.stream_sequence + 1);
                gauge("webhook_room_ratio").set(room(oldest, stream.cached_info()));
            }
        }
    }
}

/// Part of the stream's bytes that can still be written before it removes the `oldest` event which an endpoint has not
/// received. 1 if there is none, or the stream has no limit.
fn room(oldest: Option<u64>, stream: &stream::Info) -> f64 {
    let (state, most) = (&stream.state, stream.config.max_bytes as f64);
    let Some(oldest) = oldest.filter(|_| most > 0.0) else { return 1.0 };
    let used = state.bytes as f64 / most;
    let before = oldest.saturating_sub(state.first_sequence) as f64 / state.messages.max(1) as f64;
    (1.0 - used + used * before).clamp(0.0, 1.0)
}
