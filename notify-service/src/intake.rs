//! What NATS delivers to a consumer, in batches that grow with what comes in.

use crate::streams::{self, CONSUMER, Source};
use crate::unreadable;
use anyhow::Context;
use async_nats::jetstream::{AckKind, Message, consumer::pull};
use futures_util::{FutureExt, StreamExt};
use service::Bus;
use std::{collections::VecDeque, time::Duration};

/// Messages of a batch, and messages that are asked for at once: the next ones come while a batch is stored.
const BATCH: usize = 500;
/// Bytes that are asked for at once: what can't be used may have a MiB each.
const BYTES: usize = 32 * 1024 * 1024;
/// From so many on, more are on their way: they are waited for, as a transaction costs more than a message.
const BUSY: usize = 32;
/// How long.
const GATHER: Duration = Duration::from_millis(20);
/// Messages that are held while a batch takes its time.
const HELD: usize = 2 * BATCH;

/// The messages of one consumer.
pub struct Intake {
    stream: pull::Stream,
    held: VecDeque<Message>,
}

impl Intake {
    /// Opens our consumer on a stream that is there.
    ///
    /// # Errors
    /// When NATS doesn't answer.
    pub async fn open(bus: &Bus, source: Source) -> anyhow::Result<Self> {
        let stream = bus.jetstream().get_stream(source.name()).await.context("open the stream")?;
        let consumer = stream
            .get_or_create_consumer(CONSUMER, streams::consumer())
            .await
            .context("open the consumer")?;
        unreadable::sweep(bus, source, &consumer).await.context("look for what can't be read")?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .max_bytes_per_batch(BYTES)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages();
        let stream = messages.await.context("pull from the consumer")?;
        Ok(Self { stream, held: VecDeque::new() })
    }

    /// A message, what else is there, and, where that is much, what comes in a moment. Nothing is lost where this is
    /// dropped before it is ready.
    ///
    /// # Errors
    /// When NATS says that there won't be any more.
    pub async fn batch(&mut self) -> anyhow::Result<Vec<Message>> {
        if self.held.is_empty() {
            let first = self.stream.next().await.context("the consumer has ended")?;
            self.held.push_back(first.context("pull from the consumer")?);
        }
        self.fill(BATCH);
        if (BUSY..BATCH).contains(&self.held.len()) {
            tokio::time::sleep(GATHER).await;
            self.fill(BATCH);
        }
        Ok(self.held.drain(..self.held.len().min(BATCH)).collect())
    }

    /// Tells NATS of everything that was delivered that we are still at it.
    pub async fn hold(&mut self) {
        self.fill(HELD);
        ack_all(self.held.iter().collect(), AckKind::Progress).await;
    }

    /// All that was delivered.
    pub fn rest(&mut self) -> Vec<Message> {
        self.fill(usize::MAX);
        self.held.drain(..).collect()
    }

    /// Takes what has been delivered, until it is so many. Without the budget by which tokio would say that nothing is
    /// there after the 128th.
    fn fill(&mut self, most: usize) {
        while self.held.len() < most
            && let Some(Some(Ok(message))) = tokio::task::unconstrained(self.stream.next()).now_or_never()
        {
            self.held.push_back(message);
        }
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
