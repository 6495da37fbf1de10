//! Messages that are in their stream although the consumer knows them as done: nobody is ever given them again.
//!
//! A nats-server that was killed comes back with a message it had removed, or had not yet handed out when it lost its
//! last writes, below the place up to which its consumer has acknowledged everything. It would take the stream's room
//! for ever, and an event might wait in it unseen. What it stands for is done like that of any other message, as twice
//! is once, and then it is deleted.

use crate::{
    deadletter::{self, Headers, Letter},
    event::Delivery,
    inboxes::Inboxes,
    message_ops::{Undone, ops, place},
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

/// How often it is looked for.
pub const EVERY: Duration = Duration::from_secs(30);
/// Messages that are done in one go, so that the others don't wait for long.
const STEP: usize = 100;
/// Messages that can't be done, until the others are left for the next time.
const FAILURES: usize = 10;

/// Looks for such messages of one stream.
pub struct Rescue {
    source: Source,
    bus: Bus,
    inboxes: Inboxes,
    /// The sequence at which the next look begins.
    next: AtomicU64,
}

impl Rescue {
    /// Has looked at nothing yet.
    pub const fn new(source: Source, bus: Bus, inboxes: Inboxes) -> Self {
        Self { source, bus, inboxes, next: AtomicU64::new(1) }
    }

    /// Does what stranded messages stand for, and deletes them. Whether there may be more. The next look begins behind one
    /// that can't be done for now, and the first one again after the last.
    ///
    /// # Errors
    /// When NATS or Postgres doesn't do its part: they are still there.
    pub async fn run(&self) -> anyhow::Result<bool> {
        let stream = self.bus.jetstream().get_stream_no_info(self.source.name()).await;
        let stream = stream.context("open the stream")?;
        let consumer = stream.consumer_info(CONSUMER).await.context("ask for the consumer")?;
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
                "a message is left that counts as done: it is done again"
            );
            metrics::counter!("stranded_messages_total", "stream" => self.source.name()).increment(1);
            if unreadable::is_readable(&stored) {
                self.rescue_one(&stream, stored.seq).await?;
            } else {
                unreadable::bury(&self.bus, self.source, &stored).await?;
            }
        }
        Ok(true)
    }

    /// Does what messages stand for that were delivered around one that can't be read, nor kept as a dead letter, and deletes
    /// them: they would be lost with the connection each time that it is delivered.
    ///
    /// # Errors
    /// When NATS doesn't answer.
    pub async fn around(&self, places: RangeInclusive<u64>) -> anyhow::Result<()> {
        let stream = self.bus.jetstream().get_stream_no_info(self.source.name()).await;
        let stream = stream.context("open the stream")?;
        let (mut next, mut failures) = (*places.start(), 0);
        while failures < FAILURES
            && let Some(stored) = raw_message::first_from(&self.bus, self.source, next).await?
            && stored.seq <= *places.end()
        {
            next = stored.seq + 1;
            if unreadable::is_readable(&stored)
                && let Err(error) = self.rescue_one(&stream, stored.seq).await
            {
                failures += 1;
                let (stream, error) = (self.source.name(), format!("{error:#}"));
                tracing::warn!(stream, seq = stored.seq, error, "a message waits for one that can't be read");
            }
        }
        Ok(())
    }

    async fn rescue_one(&self, stream: &Stream<()>, seq: u64) -> anyhow::Result<()> {
        let stored = stream.get_raw_message(seq).await.context("read a message")?;
        let place = place(self.source.name(), seq, stored.time);
        let (subject, headers) = (stored.subject.as_str(), Some(&stored.headers));
        let delivery = Delivery { subject, headers, payload: &stored.payload, place: &place };
        let step = self.source.step(delivery);
        let done = match ops(self.source, delivery, &self.inboxes.catalogue(), step.parent()) {
            Ok((ops, _steps)) => self.inboxes.apply(&ops).await.map_err(Undone::from),
            Err(reason) => Err(Undone::Unusable(reason)),
        };
        match done {
            Ok(()) => {}
            Err(Undone::Unusable(reason)) => {
                step.failed("unusable");
                let (headers, reason) = (Headers::Read(headers), &reason.0);
                let letter = Letter { subject, headers, body: stored.payload.clone(), place: &place, reason };
                deadletter::keep(&self.bus, letter).await?;
            }
            Err(Undone::Waits(error)) => return Err(error).context("store what was left"),
        }
        stream.delete_message(seq).await.context("delete what is done now")?;
        Ok(())
    }
}
