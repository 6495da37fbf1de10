//! JetStream streams: creation of missing ones, and of missing subjects.

use crate::{Backoff, Bus};
use anyhow::Context;
use async_nats::jetstream::{
    context::CreateStreamError,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream},
};
use contract::{Event, chat};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
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

/// Adds subjects that an earlier release did not have to a stream. Everything else stays as the operator configured it.
///
/// # Errors
/// If JetStream fails, or this service may not update the stream.
async fn add_subjects(bus: &Bus, stream: &Stream, config: &Config) -> anyhow::Result<()> {
    let mut updated = stream.cached_info().config.clone();
    let is_missing = |subject: &&String| !updated.subjects.iter().any(|pattern| covers(pattern, subject));
    let missing: Vec<String> = config.subjects.iter().filter(is_missing).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let name = &config.name;
    tracing::info!(stream = name, ?missing, "adding subjects to a stream");
    updated.subjects.extend_from_slice(&missing);
    bus.jetstream().update_stream(updated).await.map(drop).with_context(|| {
        let list = missing.join(", ");
        format!("the stream {name} lacks {list}; the permission $JS.API.STREAM.UPDATE.{name} adds them")
    })
}

/// Whether a subject of a stream, perhaps with wildcards, covers another subject.
pub fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// Whether the streams have all subjects that the service needs.
#[derive(Debug, Clone, Default)]
pub struct StreamsHealth(Arc<Mutex<BTreeMap<String, String>>>);

impl StreamsHealth {
    /// Checks the outcome of the last attempts.
    ///
    /// # Errors
    /// If a stream lacks a subject.
    pub fn check(&self) -> anyhow::Result<()> {
        let errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        errors.values().next().map_or(Ok(()), |error| Err(anyhow::anyhow!(error.clone())))
    }

    fn record(&self, stream: &str, outcome: anyhow::Result<()>) {
        let mut errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => drop(errors.remove(stream)),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(stream, error, "can't add the subjects of a stream");
                errors.insert(stream.to_owned(), error);
            }
        }
    }
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

/// Recreates deleted streams and adds missing subjects within seconds, until the token is cancelled.
pub async fn maintain(bus: Bus, streams: Vec<Config>, health: StreamsHealth, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(CHECK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        for stream in streams.iter().filter(|_| bus.is_connected()) {
            match open(&bus, stream.clone()).await {
                Ok(opened) => health.record(&stream.name, add_subjects(&bus, &opened, stream).await),
                Err(error) => {
                    let (stream, error) = (&stream.name, crate::bus::chain(&error));
                    tracing::warn!(stream, error, "can't check whether the stream exists");
                }
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
        subjects: contract::streams::EVENTS_OUT_SUBJECTS.map(str::to_owned).to_vec(),
        storage: StorageType::File,
        max_age: Duration::from_secs(30 * 24 * 60 * 60),
        max_bytes: 1024 * 1024 * 1024,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_nats_would_deliver() {
        for (pattern, subject, expected) in [
            ("chat.changed", "chat.changed", true),
            ("chat.*", "chat.changed", true),
            ("chat.>", "chat.changed", true),
            (">", "chat.changed", true),
            ("events.>", "events.>", true),
            ("chat.reported", "chat.changed", false),
            ("chat", "chat.changed", false),
            ("chat.changed.>", "chat.changed", false),
            ("chat.*", "chat.>", false),
        ] {
            assert_eq!(covers(pattern, subject), expected, "{pattern} {subject}");
        }
    }
}
