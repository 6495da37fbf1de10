//! The JetStream streams and consumers of this service.

use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};
use std::time::Duration;

/// The name of our consumer on each stream. All replicas share it.
pub const CONSUMER: &str = "notify";
/// Time without an acknowledgement after which NATS redelivers a message, possibly to another replica.
pub const ACK_WAIT: Duration = Duration::from_secs(15);
/// Maximum size of a message in bytes: the limit of NATS less the headers that a dead letter adds.
const MESSAGE_BYTES: i32 = 1024 * 1024 - 8 * 1024;
const GIB: i64 = 1024 * 1024 * 1024;

/// The stream of other backends' events. An event leaves it once it is a notification or a dead letter. A full stream
/// refuses new events, and there is no age limit, because an acknowledged event must not be discarded unprocessed.
pub fn events() -> Config {
    Config {
        name: contract::streams::EVENTS_STREAM.to_owned(),
        subjects: vec![contract::streams::EVENTS_SUBJECTS.to_owned()],
        description: Some("what backends publish, until it is a notification".to_owned()),
        retention: RetentionPolicy::WorkQueue,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_bytes: GIB,
        max_message_size: MESSAGE_BYTES,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    }
}

/// The stream of dead letters. Operators should inspect them within a month. A flood of them discards the oldest, so
/// that it never blocks valid events.
pub fn deadletters() -> Config {
    Config {
        name: contract::streams::DEADLETTERS_STREAM.to_owned(),
        subjects: vec![contract::streams::DEADLETTERS_SUBJECTS.to_owned()],
        description: Some("events that can't be used, with their Reason".to_owned()),
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: Duration::from_secs(30 * 24 * 3_600),
        max_bytes: GIB,
        // So that an endpoint of webhooks that is away for long leaves room for the others.
        max_messages_per_subject: 100_000,
        // A replica may end after it stored a dead letter and before it acknowledged the event, and the next replica
        // may start late.
        duplicate_window: Duration::from_secs(3_600),
        ..Config::default()
    }
}

/// A stream that we consume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Other backends' events.
    Events,
    /// chat-service's log.
    Chat,
}

impl Source {
    /// The stream's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => contract::streams::EVENTS_STREAM,
            Self::Chat => contract::streams::CHAT_STREAM,
        }
    }

    /// Configuration with which the stream is created if it is missing.
    pub fn stream(self) -> Config {
        match self {
            Self::Events => events(),
            Self::Chat => service::streams::chat_log(),
        }
    }
}

/// Configuration of our consumer: it redelivers without limit, and pauses if too many messages are unacknowledged.
pub fn consumer() -> pull::Config {
    pull::Config {
        durable_name: Some(CONSUMER.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        max_ack_pending: 5_000,
        ..pull::Config::default()
    }
}
