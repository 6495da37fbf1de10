//! JetStream streams: made where they are missing.

use crate::{Backoff, Bus};
use async_nats::jetstream::{
    context::CreateStreamError,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream},
};
use contract::{Event, chat};
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How many copies a new stream has: three in a cluster, so that a server may be lost, and one on a server of its own.
pub fn copies(bus: &Bus) -> usize {
    let cluster = bus.client().server_info().cluster;
    if cluster.is_some_and(|name| !name.is_empty()) { 3 } else { 1 }
}

/// How often [`keep`] looks.
const LOOK: Duration = Duration::from_secs(5);

/// Opens a stream, and makes it where it is missing. What an operator has changed in one that exists stays.
///
/// # Errors
/// When JetStream doesn't do its part.
pub async fn open(bus: &Bus, config: Config) -> Result<Stream, CreateStreamError> {
    let config = Config { num_replicas: copies(bus), ..config };
    bus.jetstream().get_or_create_stream(config).await
}

/// Makes sure that a stream is there, as often as it takes.
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

/// Makes streams again that someone deletes, within seconds, until the token is cancelled.
pub async fn keep(bus: Bus, streams: Vec<Config>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        for stream in streams.iter().filter(|_| bus.is_connected()) {
            if let Err(error) = open(&bus, stream.clone()).await {
                let (stream, error) = (&stream.name, crate::bus::chain(&error));
                tracing::warn!(stream, error, "whether a stream is there is not known");
            }
        }
    }
}

/// The stream from chat-service to notify-service: gone once it is acknowledged, refused when full (the outbox keeps it).
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

/// The stream of what other backends may want to hear of: kept for 30 days, the oldest gone first.
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
