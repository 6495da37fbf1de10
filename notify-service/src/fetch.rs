//! What NATS delivers to a consumer, in batches that grow with what comes in.

use crate::streams::{self, CONSUMER, Source};
use anyhow::Context;
use async_nats::jetstream::{
    self, AckKind, Message,
    consumer::pull::{self, MessagesError},
};
use futures_util::{FutureExt, StreamExt};
use service::Bus;
use std::{collections::VecDeque, time::Duration};

/// Messages of a batch, and messages that are asked for at once: the next ones come while a batch is stored.
const BATCH: usize = 500;
/// Bytes of a batch, unless one message alone has more: an event that is read takes many times its bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that are asked for at once, and bytes that are held: what can't be used may have a MiB each.
const BYTES: usize = 16 * 1024 * 1024;
/// From so many on, more are on their way: they are waited for, as a transaction costs more than a message.
const BUSY: usize = 32;
/// How long.
const GATHER: Duration = Duration::from_millis(20);
/// Messages that are held while a batch takes its time.
const HELD: usize = 2 * BATCH;

/// A consumer of ours, as NATS knows it.
pub type StreamConsumer = jetstream::consumer::Consumer<pull::Config>;

/// The messages of one consumer.
pub struct Intake {
    stream: pull::Stream,
    held: VecDeque<Message>,
    held_bytes: usize,
    /// Why there won't be any more, once what is held is done.
    failure: Option<MessagesError>,
}

/// Our consumer on a stream that is there; made where it is missing.
///
/// # Errors
/// When NATS doesn't answer.
pub async fn consumer(bus: &Bus, source: Source) -> anyhow::Result<StreamConsumer> {
    let stream = bus.jetstream().get_stream(source.name()).await.context("open the stream")?;
    stream.get_or_create_consumer(CONSUMER, streams::consumer()).await.context("open the consumer")
}

impl Intake {
    /// Begins to take what our consumer has.
    ///
    /// # Errors
    /// When NATS doesn't answer.
    pub async fn open(bus: &Bus, consumer: &StreamConsumer) -> anyhow::Result<Self> {
        // NATS gives nothing to who asks for fewer bytes than the next message has.
        let bytes = BYTES.max(2 * bus.client().max_payload());
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .max_bytes_per_batch(bytes)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages();
        let stream = messages.await.context("pull from the consumer")?;
        Ok(Self { stream, held: VecDeque::new(), held_bytes: 0, failure: None })
    }

    /// A message, what else is there, and, where that is much, what comes in a moment. Nothing is lost where this is
    /// dropped before it is ready.
    ///
    /// # Errors
    /// When NATS says that there won't be any more.
    pub async fn batch(&mut self) -> anyhow::Result<Vec<Message>> {
        if self.held.is_empty() {
            if let Some(failure) = self.failure.take() {
                return Err(failure).context("pull from the consumer");
            }
            let first = self.stream.next().await.context("the consumer has ended")?;
            self.hold_one(first.context("pull from the consumer")?);
        }
        self.fill(BATCH);
        if (BUSY..BATCH).contains(&self.held.len()) {
            tokio::time::sleep(GATHER).await;
            self.fill(BATCH);
        }
        Ok(self.take(BATCH, BATCH_BYTES))
    }

    /// Tells NATS of everything that was delivered that we are still at it.
    pub async fn hold(&mut self) {
        self.fill(HELD);
        ack_all(self.held.iter().collect(), AckKind::Progress).await;
    }

    /// What was delivered, as much as may be held at once.
    pub fn rest(&mut self) -> Vec<Message> {
        self.fill(usize::MAX);
        self.take(usize::MAX, usize::MAX)
    }

    /// Takes what has been delivered, until it is so many. Without the budget by which tokio would say that nothing is
    /// there after the 128th.
    fn fill(&mut self, most: usize) {
        while self.failure.is_none() && self.held.len() < most && self.held_bytes < BYTES {
            match tokio::task::unconstrained(self.stream.next()).now_or_never() {
                Some(Some(Ok(message))) => self.hold_one(message),
                Some(Some(Err(error))) => self.failure = Some(error),
                Some(None) | None => return,
            }
        }
    }

    fn hold_one(&mut self, message: Message) {
        self.held_bytes += message.length;
        self.held.push_back(message);
    }

    /// The first ones that are held: one at least, if there is one.
    fn take(&mut self, most: usize, bytes: usize) -> Vec<Message> {
        let (mut taken, mut taken_bytes) = (Vec::new(), 0);
        while taken.len() < most
            && let Some(next) = self.held.front()
            && (taken.is_empty() || taken_bytes + next.length <= bytes)
            && let Some(message) = self.held.pop_front()
        {
            taken_bytes += message.length;
            taken.push(message);
        }
        self.held_bytes -= taken_bytes;
        taken
    }
}

/// An acknowledgement that gets lost is no harm: what is delivered again changes nothing.
pub async fn ack(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "an acknowledgement was not sent");
    }
}

/// The same word for several.
pub async fn ack_all(messages: Vec<&Message>, kind: AckKind) {
    for message in messages {
        ack(message, kind).await;
    }
}
