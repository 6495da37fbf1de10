//! JetStream streams: creation of missing ones.

use crate::{Backoff, Bus};
use async_nats::jetstream::{
    context::CreateStreamError,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream},
};
use contract::{Event, chat};
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Number of replicas of a new stream: three in a cluster, so that it survives the loss of a server; one on a single
/// server.
pub fn copies(bus: &Bus) -> usize {
    let cluster = bus.client().server_info().cluster;
    if cluster.is_some_and(|name| !name.is_empty()) { 3 } else { 1 }
}

/// Interval of the checks of [`maintain`].
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Opens a stream, and creates it if it is missing. Leaves an existing stream as the operator configured it.
///
/// # Errors
/// If JetStream fails.
pub async fn open(bus: &Bus, config: Config) -> Result<Stream, CreateStreamError> {
    let config = Config { num_replicas: copies(bus), ..config };
    bus.jetstream().get_or_create_stream(config).await
}

/// Opens or creates a stream, and retries until this succeeds or the token is cancelled.
pub async fn ensure(bus: &Bus, config: Config, shutdown: &CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
    while !shutdown.is_cancelled() {
        match open(bus, config.clone()).await {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(
                    stream = config.name,
                    error = crate::bus::chain(&error),
                    "waiting for JetStream"
                );
            }
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Recreates deleted streams within seconds, until the token is cancelled.
pub async fn maintain(bus: Bus, streams: Vec<Config>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(CHECK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        for stream in streams.iter().filter(|_| bus.is_connected()) {
            if let Err(error) = open(&bus, stream.clone()).await {
                let (stream, error) = (&stream.name, crate::bus::chain(&error));
                tracing::warn!(stream, error, "can't check whether the stream exists");
            }
        }
    }
}

/// The stream from chat-service to notify-service. Messages are removed after the ack, and refused when it is full (the
/// outbox keeps them).
pub fn chat_log() -> Config {
    Config {
        name: contract::streams::CHAT_STREAM.to_owned(),
        subjects: vec![chat::LogEntry::PATTERN.to_owned()],
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_bytes: 1024 * 1024 * 1024,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}

/// The stream of events for other backends. They are kept for 30 days; when it is full, the oldest are removed.
pub fn events_out() -> Config {
    Config {
        name: contract::streams::EVENTS_OUT_STREAM.to_owned(),
        subjects: vec![contract::streams::EVENTS_OUT_SUBJECTS.to_owned()],
        storage: StorageType::File,
        max_age: Duration::from_secs(30 * 24 * 60 * 60),
        max_bytes: 1024 * 1024 * 1024,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}
