//! Rescues messages that are in their stream although they count as acknowledged: NATS never delivers them again.
//!
//! A nats-server that was killed may restart with such a message below the consumer's ack floor: one that it had
//! already removed, or one that it had not yet delivered when it lost its last writes. The message would occupy the
//! stream forever, and its event might never be processed. A rescue processes it like any other message, which is safe
//! because repeating changes nothing, and then deletes it.

use crate::{
    chat_events::Wanted,
    deadletter::{self, Headers, Letter},
    event::Delivery,
    inboxes::Inboxes,
    message_ops::{Parsed, ProcessingError, parse, place},
    raw_message,
    streams::{CONSUMER, Source},
    unreadable,
};
use anyhow::Context;
use async_nats::jetstream::stream::Stream;
use service::Bus;
use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Time between two rescues.
pub const INTERVAL: Duration = Duration::from_secs(30);
/// Maximum number of messages per run, so that regular messages don't wait for long.
const STEP: usize = 100;
/// Number of failures after which the remaining messages are left for the next run.
const FAILURES: usize = 10;

/// Finds and processes such messages of one stream.
pub struct Rescue {
    source: Source,
    bus: Bus,
    inboxes: Inboxes,
    wanted: Wanted,
    /// The sequence at which the next run starts.
    next: AtomicU64,
}

impl Rescue {
    pub const fn new(source: Source, bus: Bus, inboxes: Inboxes, wanted: Wanted) -> Self {
        Self { source, bus, inboxes, wanted, next: AtomicU64::new(1) }
    }

    /// Processes and deletes such messages. Returns whether there may be more. After a message that fails, the next run
    /// starts behind it; after the last message, at the start of the stream.
    ///
    /// # Errors
    /// If NATS or Postgres fails. The remaining messages are still in the stream.
    pub async fn run(&self) -> anyhow::Result<bool> {
        let stream = self.bus.jetstream().get_stream_no_info(self.source.name()).await;
        let stream = stream.context("open the stream")?;
        let consumer = stream.consumer_info(CONSUMER).await.context("request the consumer info")?;
        for _ in 0..STEP {
            let next = self.next.load(Ordering::Relaxed);
            let stored = raw_message::first_from(&self.bus, self.source, next).await?;
            let Some(stored) = stored.filter(|stored| stored.seq <= consumer.ack_floor.stream_sequence)
            else {
                self.next.store(1, Ordering::Relaxed);
                return Ok(false);
            };
            self.next.store(stored.seq + 1, Ordering::Relaxed);
            tracing::warn!(
                stream = self.source.name(),
                seq = stored.seq,
                "processing a message that is in the stream although it was acknowledged"
            );
            metrics::counter!("rescued_messages_total", "stream" => self.source.name()).increment(1);
            if unreadable::is_readable(&stored) {
                self.rescue_one(&stream, stored.seq).await?;
            } else {
                unreadable::store_dead_letter(&self.bus, self.source, &stored).await?;
            }
        }
        Ok(true)
    }

    /// Processes and deletes the messages around one that can't be parsed nor stored as a dead letter. They would be
    /// lost with the connection each time NATS delivers that message.
    ///
    /// # Errors
    /// If NATS doesn't answer.
    pub async fn around(&self, seqs: RangeInclusive<u64>) -> anyhow::Result<()> {
        let stream = self.bus.jetstream().get_stream_no_info(self.source.name()).await;
        let stream = stream.context("open the stream")?;
        let (mut next, mut failures) = (*seqs.start(), 0);
        while failures < FAILURES
            && let Some(stored) = raw_message::first_from(&self.bus, self.source, next).await?
            && stored.seq <= *seqs.end()
        {
            next = stored.seq + 1;
            if unreadable::is_readable(&stored)
                && let Err(error) = self.rescue_one(&stream, stored.seq).await
            {
                failures += 1;
                let (stream, error) = (self.source.name(), format!("{error:#}"));
                tracing::warn!(
                    stream,
                    seq = stored.seq,
                    error,
                    "process a message next to an unreadable one; will be retried"
                );
            }
        }
        Ok(())
    }

    async fn rescue_one(&self, stream: &Stream<()>, seq: u64) -> anyhow::Result<()> {
        let stored = stream.get_raw_message(seq).await.context("read a message")?;
        let place = place(self.source.name(), seq, stored.time);
        let (subject, headers) = (stored.subject.as_str(), Some(&stored.headers));
        let delivery = Delivery { subject, headers, payload: &stored.payload, place: &place };
        let span = self.source.span(delivery);
        let catalogue = self.inboxes.catalogue();
        let done = match parse(self.source, delivery, &catalogue, self.wanted, span.parent()) {
            Ok(Parsed { ops, events, spans: _spans }) => {
                let stored = async {
                    self.inboxes.tell(&events).await?;
                    self.inboxes.apply(&ops).await
                };
                stored.await.map_err(ProcessingError::from)
            }
            Err(reason) => Err(ProcessingError::Unusable(reason)),
        };
        match done {
            Ok(()) => {}
            Err(ProcessingError::Unusable(reason)) => {
                span.failed("unusable");
                let (headers, reason) = (Headers::Read(headers), &reason.0);
                let letter = Letter { subject, headers, body: stored.payload.clone(), place: &place, reason };
                deadletter::store(&self.bus, letter).await?;
                deadletter::log(subject, &place, reason);
            }
            Err(ProcessingError::Retry(error)) => return Err(error).context("store a rescued message"),
        }
        stream.delete_message(seq).await.context("delete a rescued message")?;
        Ok(())
    }
}
