//! The JetStream streams and consumers that this service lives on.

use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};
use std::time::Duration;

/// The name of our consumer on each stream. All replicas share it.
pub const CONSUMER: &str = "notify";
/// After this long without a word from us, a message goes to another replica.
pub const ACK_WAIT: Duration = Duration::from_secs(15);
/// Bytes of a message: NATS' own limit, less what a dead letter says besides it.
const MESSAGE_BYTES: i32 = 1024 * 1024 - 8 * 1024;
const GIB: i64 = 1024 * 1024 * 1024;

/// What other backends publish. An event leaves it once it is a notification or a dead letter; it takes no more when it
/// is full, as an event that was acknowledged must not be pushed out unseen. Hence no age limit, either.
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

/// What can't be used. Someone should look within a month; a flood of it pushes out the oldest, so that it never keeps
/// good events waiting.
pub fn deadletters() -> Config {
    Config {
        name: contract::streams::DEADLETTERS_STREAM.to_owned(),
        subjects: vec![contract::streams::DEADLETTERS_SUBJECTS.to_owned()],
        description: Some("events that can't be used, with their Reason".to_owned()),
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: Duration::from_secs(30 * 24 * 3_600),
        max_bytes: GIB,
        // Who has stored a dead letter may end before the event is let go of, and the next one may start late.
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

    /// The stream, as it is made where it is missing.
    pub fn stream(self) -> Config {
        match self {
            Self::Events => events(),
            Self::Chat => service::streams::chat_log(),
        }
    }
}

/// Our consumer: redelivers for as long as it takes, and holds back when too much is under way.
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
