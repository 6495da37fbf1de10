//! Fetches the messages of a consumer, in batches that grow with the load.

use crate::streams::{self, CONSUMER, Source};
use anyhow::Context;
use async_nats::jetstream::{
    self, AckKind, Message,
    consumer::pull::{self, MessagesError},
};
use futures_util::{FutureExt, StreamExt};
use service::Bus;
use std::{collections::VecDeque, time::Duration};

/// Maximum number of messages in a batch and in a pull request: the next ones arrive while a batch is stored.
const BATCH: usize = 500;
/// Maximum size of a batch in bytes, unless a single message is larger. A parsed event takes many times its size.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Maximum size of a pull request and of the queue, in bytes. Invalid messages can have up to 1 MiB each.
const BYTES: usize = 16 * 1024 * 1024;
/// Number of messages from which on more are expected soon. Waiting for them pays, because a transaction costs more
/// than a message.
const BUSY: usize = 32;
/// Time to wait for more messages.
const BATCH_DELAY: Duration = Duration::from_millis(20);
/// Maximum number of queued messages while a slow batch is stored.
const QUEUE: usize = 2 * BATCH;

/// Our durable consumer on a stream.
pub type StreamConsumer = jetstream::consumer::Consumer<pull::Config>;

/// Fetches the messages of one consumer.
pub struct Fetcher {
    stream: pull::Stream,
    queue: VecDeque<Message>,
    queue_bytes: usize,
    /// Error that ended the stream, to be returned once the queue is empty.
    failure: Option<MessagesError>,
}

/// Opens our consumer on an existing stream. Creates it if it is missing.
///
/// # Errors
/// If NATS doesn't answer.
pub async fn consumer(bus: &Bus, source: Source) -> anyhow::Result<StreamConsumer> {
    let stream = bus.jetstream().get_stream(source.name()).await.context("open the stream")?;
    stream.get_or_create_consumer(CONSUMER, streams::consumer()).await.context("open the consumer")
}

impl Fetcher {
    /// Starts to fetch the messages of our consumer.
    ///
    /// # Errors
    /// If NATS doesn't answer.
    pub async fn open(bus: &Bus, consumer: &StreamConsumer) -> anyhow::Result<Self> {
        // NATS delivers nothing if the requested bytes are fewer than those of the next message.
        let bytes = BYTES.max(2 * bus.client().max_payload());
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .max_bytes_per_batch(bytes)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages();
        let stream = messages.await.context("pull from the consumer")?;
        Ok(Self { stream, queue: VecDeque::new(), queue_bytes: 0, failure: None })
    }

    /// Waits for a message and returns it with all others that have arrived. If they are many, first waits a moment for
    /// more. Cancel safe.
    ///
    /// # Errors
    /// If the stream of messages has ended.
    pub async fn batch(&mut self) -> anyhow::Result<Vec<Message>> {
        if self.queue.is_empty() {
            if let Some(failure) = self.failure.take() {
                return Err(failure).context("pull from the consumer");
            }
            let first = self.stream.next().await.context("the consumer has ended")?;
            self.push(first.context("pull from the consumer")?);
        }
        self.fill(BATCH);
        if (BUSY..BATCH).contains(&self.queue.len()) {
            tokio::time::sleep(BATCH_DELAY).await;
            self.fill(BATCH);
        }
        Ok(self.take(BATCH, BATCH_BYTES))
    }

    /// Sends a progress acknowledgement for each queued message.
    pub async fn acknowledge_progress(&mut self) {
        self.fill(QUEUE);
        ack_all(self.queue.iter().collect(), AckKind::Progress).await;
    }

    /// Takes all messages that were delivered, up to the bounds of the queue.
    pub fn rest(&mut self) -> Vec<Message> {
        self.fill(usize::MAX);
        self.take(usize::MAX, usize::MAX)
    }

    /// Queues delivered messages up to a maximum number. Runs without tokio's budget, which would make the stream
    /// pending after 128 messages.
    fn fill(&mut self, most: usize) {
        while self.failure.is_none() && self.queue.len() < most && self.queue_bytes < BYTES {
            match tokio::task::unconstrained(self.stream.next()).now_or_never() {
                Some(Some(Ok(message))) => self.push(message),
                Some(Some(Err(error))) => self.failure = Some(error),
                Some(None) | None => return,
            }
        }
    }

    fn push(&mut self, message: Message) {
        self.queue_bytes += message.length;
        self.queue.push_back(message);
    }

    /// Takes the first messages of the queue within these bounds, and at least one if there is any.
    fn take(&mut self, most: usize, bytes: usize) -> Vec<Message> {
        let (mut taken, mut taken_bytes) = (Vec::new(), 0);
        while taken.len() < most
            && let Some(next) = self.queue.front()
            && (taken.is_empty() || taken_bytes + next.length <= bytes)
            && let Some(message) = self.queue.pop_front()
        {
            taken_bytes += message.length;
            taken.push(message);
        }
        self.queue_bytes -= taken_bytes;
        taken
    }
}

/// Acknowledges a message. A lost acknowledgement is harmless, because a redelivery changes nothing.
pub async fn ack(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "send an acknowledgement");
    }
}

/// Sends the same acknowledgement for several messages.
pub async fn ack_all(messages: Vec<&Message>, kind: AckKind) {
    for message in messages {
        ack(message, kind).await;
    }
}
