//! Consumes a stream in batches. A message is acknowledged only once it is stored or a dead letter.

use crate::{
    chat_events::Wanted,
    consumer_health::ConsumerHealth,
    deadletter::{self, Headers, Letter},
    event::{Delivery, Unusable},
    fetch::{self, Fetcher, ack, ack_all},
    inboxes::{Applied, BYTES_PER_TRANSACTION, Inboxes, OPS_PER_TRANSACTION, StoreError, bytes_of},
    message_ops::{Parsed, ProcessingError, parse, place},
    ops::{Op, OpKind},
    pace::Pace,
    rescue::{self, Rescue},
    store::telling::Outgoing,
    streams::{ACK_WAIT, Source},
    unreadable,
};
use anyhow::{Context, bail};
use async_nats::jetstream::{AckKind, Message};
use futures_util::future::join_all;
use service::{Backoff, Bus, Span, bus::chain};
use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Delay before a dead letter that could not be stored is retried, and maximum delay after Postgres failed.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
/// Maximum delay of a message that takes too long alone. The first delay is [`MAX_RETRY_DELAY`]; each retry doubles it.
const MAX_SLOW_DELAY: Duration = Duration::from_secs(120);
/// Maximum number of messages known to take too long alone. Beyond it, all are forgotten and found again.
const MAX_SLOW: usize = 1_000;

/// Interval at which held messages are looked through. The ones that are due then share transactions.
const HELD_INTERVAL: Duration = Duration::from_millis(100);

/// Consumes one stream.
pub struct Consumer {
    pub source: Source,
    pub bus: Bus,
    pub inboxes: Inboxes,
    /// The events for backends that the operator wants.
    wanted: Wanted,
    pub health: Arc<ConsumerHealth>,
    pub shutdown: CancellationToken,
    rescue: Rescue,
    /// The places of messages that took too long alone: each is stored separately, after the others.
    slow: Mutex<HashSet<String>>,
    /// Messages that must not notify yet.
    pace: Mutex<Pace<Work>>,
}

/// A valid message.
struct Work {
    message: Message,
    place: String,
    ops: Vec<Op>,
    /// Operations that are not due yet.
    held: Vec<Op>,
    /// Events for backends that are not stored yet.
    events: Vec<Outgoing>,
    /// The spans of the traced parts of the message, which end when it is dropped.
    _spans: Vec<Span>,
}

/// A message that becomes a dead letter.
struct UnusableMessage {
    message: Message,
    place: String,
    reason: Unusable,
    span: Span,
}

impl Consumer {
    pub fn new(
        source: Source,
        bus: &Bus,
        inboxes: Inboxes,
        wanted: Wanted,
        health: Arc<ConsumerHealth>,
        shutdown: CancellationToken,
    ) -> Self {
        let rescue = Rescue::new(source, bus.clone(), inboxes.clone(), wanted);
        Self {
            source,
            bus: bus.clone(),
            inboxes,
            wanted,
            health,
            shutdown,
            rescue,
            slow: Mutex::default(),
            pace: Mutex::new(Pace::new()),
        }
    }

    /// Runs until the token is cancelled. The batch in progress is finished.
    pub async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), MAX_RETRY_DELAY);
        while !self.shutdown.is_cancelled() {
            let Err(error) = self.consume(&mut backoff).await else { return };
            if self.shutdown.is_cancelled() {
                return;
            }
            self.health.failed(&format!("{error:#}"));
            tracing::warn!(
                stream = self.source.name(),
                error = format!("{error:#}"),
                "waiting for JetStream"
            );
            tokio::select! {
                () = backoff.wait() => {}
                () = self.shutdown.cancelled() => {}
            }
        }
    }

    /// Consumes until the token is cancelled or NATS fails.
    async fn consume(&self, backoff: &mut Backoff) -> anyhow::Result<()> {
        let mut disruptions = self.bus.disruptions();
        service::streams::ensure(&self.bus, self.source.stream(), &self.shutdown).await;
        let consumer = fetch::consumer(&self.bus, self.source).await?;
        let stuck = unreadable::sweep(&self.bus, self.source, &consumer).await;
        if let Some(places) = stuck.context("look for unreadable messages")? {
            self.rescue.around(places).await?;
        }
        let mut fetcher = Fetcher::open(&self.bus, &consumer).await?;
        let mut held = tokio::time::interval(HELD_INTERVAL);
        held.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rescues = tokio::time::interval(rescue::INTERVAL);
        rescues.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = fetcher.batch(), if !self.pace().is_full() => self.work(batch?, &mut fetcher, backoff).await,
                _ = held.tick(), if self.pace().len() > 0 => {
                    let due = self.pace().take_due(Instant::now());
                    self.store_and_retry(due, &mut fetcher, backoff).await;
                }
                _ = rescues.tick() => match self.rescue.run().await {
                    Ok(false) => {}
                    Ok(true) => rescues.reset_immediately(),
                    Err(error) => tracing::warn!(
                        stream = self.source.name(),
                        error = format!("{error:#}"),
                        "the rescue of acknowledged messages failed; will be retried"
                    ),
                },
                _ = disruptions.changed() => {
                    let rest = fetcher.rest();
                    self.work(rest, &mut fetcher, backoff).await;
                    bail!("the connection to NATS was lost");
                }
                () = self.shutdown.cancelled() => break,
            }
        }
        self.leave(fetcher).await;
        Ok(())
    }

    async fn work(&self, batch: Vec<Message>, fetcher: &mut Fetcher, backoff: &mut Backoff) {
        metrics::histogram!("batch_messages", "stream" => self.source.name()).record(batch.len() as f64);
        let (works, unusable) = self.read(batch);
        let dead_letters =
            join_all(unusable.iter().map(|UnusableMessage { message, place, reason, span }| {
                span.failed("unusable");
                span.clone().within(self.store_dead_letter(message, place, reason))
            }));
        tokio::join!(self.tell_and_store(works, fetcher, backoff), dead_letters);
    }

    /// Stores the events of valid messages for backends, and then the messages. An event needs no notification, and a
    /// message that comes again has the same events.
    async fn tell_and_store(&self, mut works: Vec<Work>, fetcher: &mut Fetcher, backoff: &mut Backoff) {
        let events: Vec<Outgoing> =
            works.iter_mut().flat_map(|work| std::mem::take(&mut work.events)).collect();
        match self.inboxes.tell(&events).await {
            Ok(()) => self.store_and_retry(self.hold_early(works), fetcher, backoff).await,
            Err(error) => {
                let undone = works.into_iter().map(|work| work.message).collect();
                self.retry_later(error, undone, fetcher, backoff.delay()).await;
            }
        }
    }

    /// Stores valid messages. What can't be stored because of Postgres is returned to NATS.
    async fn store_and_retry(&self, works: Vec<Work>, fetcher: &mut Fetcher, backoff: &mut Backoff) {
        if works.is_empty() {
            return;
        }
        match self.store(works, fetcher).await {
            None => {
                backoff.reset();
                self.health.succeeded();
            }
            Some((error, undone)) => self.retry_later(error, undone, fetcher, backoff.delay()).await,
        }
    }

    /// Returns delivered messages to NATS for another replica. They get a short delay: NATS would deliver them to this
    /// consumer again if they were returned before NATS knows that it has left.
    async fn leave(&self, mut fetcher: Fetcher) {
        const SOON: Duration = Duration::from_millis(100);
        const ROUNDS: usize = 16;
        let mut rest = fetcher.rest();
        rest.extend(self.pace().take_all().into_iter().map(|work| work.message));
        // Messages beyond the bounds of the queue reach another replica a little later.
        for _ in 0..ROUNDS {
            // After a round trip, all messages that NATS had sent by then have arrived. It may still be sending more.
            if let Err(error) = self.bus.round_trip().await {
                tracing::debug!(error = format!("{error:#}"), "some delivered messages may not have arrived");
                break;
            }
            let more = fetcher.rest();
            if more.is_empty() {
                break;
            }
            rest.extend(more);
        }
        drop(fetcher);
        ack_all(rest.iter().collect(), AckKind::Nak(Some(SOON))).await;
    }

    /// Reads the messages of a batch. Separates the unusable ones.
    fn read(&self, batch: Vec<Message>) -> (Vec<Work>, Vec<UnusableMessage>) {
        let catalogue = self.inboxes.catalogue();
        let (mut works, mut unusable) = (Vec::new(), Vec::new());
        for message in batch {
            let place = place_of(&message);
            let (subject, headers) = (message.subject.as_str(), message.headers.as_ref());
            let delivery = Delivery { subject, headers, payload: &message.payload, place: &place };
            let span = self.source.span(delivery);
            match parse(self.source, delivery, &catalogue, self.wanted, span.parent()) {
                Ok(Parsed { ops, events, mut spans }) => {
                    spans.push(span);
                    works.push(Work { message, place, ops, held: Vec::new(), events, _spans: spans });
                }
                Err(reason) => unusable.push(UnusableMessage { message, place, reason, span }),
            }
        }
        (works, unusable)
    }

    /// Holds the operations that are not due yet. Returns the messages with other operations.
    fn hold_early(&self, works: Vec<Work>) -> Vec<Work> {
        let (mut pace, now) = (self.pace(), Instant::now());
        let mut rest = Vec::new();
        for mut work in works {
            let is_early = |op: &mut Op| match (&op.kind, op.membership()) {
                (OpKind::Message(_), Some(membership)) => pace.due(membership, now).is_some(),
                (OpKind::Read(_), Some(membership)) => {
                    pace.read(membership);
                    false
                }
                _ => false,
            };
            work.held = work.ops.extract_if(.., is_early).collect();
            if work.ops.is_empty() && !work.held.is_empty() {
                hold(&mut pace, work, &Applied::default(), now);
            } else {
                rest.push(work);
            }
        }
        rest
    }

    /// Holds the messages with operations that are not done, and returns the others.
    fn settle(&self, transaction: Vec<Work>, applied: &Applied) -> Vec<Work> {
        let (mut pace, now) = (self.pace(), Instant::now());
        for membership in &applied.notified {
            pace.notified(*membership, now);
        }
        let mut done = Vec::new();
        for mut work in transaction {
            work.ops.retain(|op| {
                op.membership().is_some_and(|membership| applied.early.contains_key(&membership))
            });
            let early = std::mem::take(&mut work.ops);
            work.held.extend(early);
            if work.held.is_empty() {
                done.push(work);
            } else {
                hold(&mut pace, work, applied, now);
            }
        }
        done
    }

    /// Stores valid messages, several in each transaction. If Postgres rejects a batch or takes too long, splits the
    /// batch in halves until the message that causes it is found, so that it doesn't delay the others.
    async fn store(&self, works: Vec<Work>, fetcher: &mut Fetcher) -> Option<(StoreError, Vec<Message>)> {
        let mut queue = transactions(self.split_slow(works));
        while let Some(transaction) = queue.pop_front() {
            match self.store_transaction(&transaction, &queue, fetcher).await {
                Ok(applied) => {
                    self.forget_slow(&transaction);
                    let done = self.settle(transaction, &applied);
                    ack_all(messages(&done), AckKind::Ack).await;
                }
                Err(ProcessingError::Unusable(reason)) if transaction.len() == 1 => {
                    self.store_dead_letter(&transaction[0].message, &transaction[0].place, &reason).await;
                }
                Err(ProcessingError::Unusable(reason)) => {
                    tracing::debug!(%reason, "Postgres rejected a batch; storing its halves");
                    halve(transaction, &mut queue);
                }
                Err(ProcessingError::Retry(error))
                    if error.is_slow() && self.inboxes.is_responsive().await =>
                {
                    metrics::counter!("batches_too_slow_total", "stream" => self.source.name()).increment(1);
                    if transaction.len() > 1 {
                        halve(transaction, &mut queue);
                    } else {
                        // The other messages known to be slow would take as long.
                        let is_known = |transaction: &Vec<Work>| {
                            transaction.iter().all(|work| self.is_slow(&work.place))
                        };
                        let (known, rest): (VecDeque<_>, VecDeque<_>) = queue.into_iter().partition(is_known);
                        queue = rest;
                        for work in std::iter::once(transaction).chain(known).flatten() {
                            self.defer(&work, &error).await;
                        }
                    }
                }
                Err(ProcessingError::Retry(error)) => {
                    let undone = transaction.into_iter().chain(queue.into_iter().flatten());
                    return Some((error, undone.map(|work| work.message).collect()));
                }
            }
        }
        None
    }

    /// Stores one transaction. While it runs, sends progress acknowledgements, so that NATS doesn't redeliver.
    async fn store_transaction(
        &self,
        transaction: &[Work],
        waiting: &VecDeque<Vec<Work>>,
        fetcher: &mut Fetcher,
    ) -> Result<Applied, ProcessingError> {
        let ops: Vec<Op> = transaction.iter().flat_map(|work| work.ops.iter().cloned()).collect();
        let store = async {
            match self.inboxes.try_apply(&ops).await {
                Err(error) if error.is_slow() && transaction.len() == 1 && ops.len() > 1 => {
                    if self.inboxes.is_responsive().await {
                        self.inboxes.apply_slowly(&ops).await
                    } else {
                        Err(error)
                    }
                }
                done => done,
            }
        };
        let mut store = std::pin::pin!(store);
        let mut tick = tokio::time::interval(ACK_WAIT / 3);
        tick.reset();
        loop {
            tokio::select! {
                done = &mut store => return done.map_err(ProcessingError::from),
                _ = tick.tick() => {
                    let waiting = waiting.iter().flat_map(|transaction| messages(transaction));
                    let all = messages(transaction).into_iter().chain(waiting);
                    ack_all(all.collect(), AckKind::Progress).await;
                    fetcher.acknowledge_progress().await;
                }
            }
        }
    }

    /// Defers a message that takes too long alone, for example because another transaction has locked the inbox. NATS
    /// redelivers it with growing delays, and the messages behind it are not delayed.
    async fn defer(&self, work: &Work, error: &StoreError) {
        let attempts = work.message.info().map_or(1, |info| info.delivered).clamp(1, 10);
        let delay = MAX_RETRY_DELAY.saturating_mul(1 << (attempts - 1)).min(MAX_SLOW_DELAY);
        tracing::warn!(
            place = work.place,
            error = chain(error),
            "an event takes too long to store; deferred"
        );
        metrics::counter!("events_deferred_total", "stream" => self.source.name()).increment(1);
        {
            let mut slow = self.slow();
            if slow.len() >= MAX_SLOW {
                slow.clear();
            }
            slow.insert(work.place.clone());
        }
        ack(&work.message, AckKind::Nak(Some(delay))).await;
    }

    /// Separates the messages that took too long before.
    fn split_slow(&self, works: Vec<Work>) -> (Vec<Work>, Vec<Work>) {
        works.into_iter().partition(|work| !self.is_slow(&work.place))
    }

    fn forget_slow(&self, done: &[Work]) {
        let mut slow = self.slow();
        if !slow.is_empty() {
            slow.retain(|place| done.iter().all(|work| work.place != *place));
        }
    }

    fn is_slow(&self, place: &str) -> bool {
        self.slow().contains(place)
    }

    fn pace(&self) -> MutexGuard<'_, Pace<Work>> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slow(&self) -> MutexGuard<'_, HashSet<String>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a message as a dead letter. Only then terminates its delivery.
    async fn store_dead_letter(&self, message: &Message, place: &str, reason: &Unusable) {
        let letter = Letter {
            subject: message.subject.as_str(),
            headers: Headers::Read(message.headers.as_ref()),
            body: message.payload.clone(),
            place,
            reason: &reason.0,
        };
        match deadletter::store(&self.bus, letter).await {
            Ok(()) => {
                deadletter::log(message.subject.as_str(), place, &reason.0);
                ack(message, AckKind::Term).await;
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), place, "store a dead letter; will be retried");
                ack(message, AckKind::Nak(Some(MAX_RETRY_DELAY))).await;
            }
        }
    }

    /// A batch was not stored: NATS redelivers the messages after a delay, to this replica or to another one.
    async fn retry_later(
        &self,
        error: StoreError,
        mut undone: Vec<Message>,
        fetcher: &mut Fetcher,
        delay: Duration,
    ) {
        let reason = chain(&error);
        self.health.failed(&reason);
        metrics::counter!("batch_retries_total", "stream" => self.source.name()).increment(1);
        if error.is_transient() {
            tracing::warn!(
                stream = self.source.name(),
                error = reason,
                "a batch is not stored; it will be retried"
            );
        } else {
            tracing::error!(
                stream = self.source.name(),
                error = reason,
                "events can't be stored; will be retried"
            );
        }
        // Later messages wait as well, so that they don't overtake these.
        undone.extend(fetcher.rest());
        ack_all(undone.iter().collect(), AckKind::Nak(Some(delay))).await;
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}

/// Holds a message until all of its operations are due.
fn hold(pace: &mut Pace<Work>, mut work: Work, applied: &Applied, now: Instant) {
    work.ops = std::mem::take(&mut work.held);
    let dues = work.ops.iter().filter_map(Op::membership).map(|membership| {
        let early = applied.early.get(&membership).map(|wait| now + *wait);
        early.max(pace.due(membership, now)).unwrap_or(now)
    });
    let (due, bytes) = (dues.max().unwrap_or(now), work.message.payload.len());
    pace.hold(work, bytes, due);
}

fn messages(transaction: &[Work]) -> Vec<&Message> {
    transaction.iter().map(|work| &work.message).collect()
}

/// Splits a transaction in halves and puts both at the front of the queue.
fn halve(mut transaction: Vec<Work>, queue: &mut VecDeque<Vec<Work>>) {
    queue.push_front(transaction.split_off(transaction.len() / 2));
    queue.push_front(transaction);
}

/// Groups messages into transactions. Each has at least one message; slow messages get one each.
fn transactions((works, slow): (Vec<Work>, Vec<Work>)) -> VecDeque<Vec<Work>> {
    let mut queue: VecDeque<Vec<Work>> = VecDeque::new();
    let (mut room, mut bytes_room) = (0, 0);
    for work in works {
        let bytes: usize = work.ops.iter().map(bytes_of).sum();
        if queue.is_empty() || work.ops.len() > room || bytes > bytes_room {
            (room, bytes_room) = (OPS_PER_TRANSACTION, BYTES_PER_TRANSACTION);
            queue.push_back(Vec::new());
        }
        room = room.saturating_sub(work.ops.len());
        bytes_room = bytes_room.saturating_sub(bytes);
        if let Some(transaction) = queue.back_mut() {
            transaction.push(work);
        }
    }
    queue.extend(slow.into_iter().map(|work| vec![work]));
    queue
}

fn place_of(message: &Message) -> String {
    match message.info() {
        Ok(info) => place(info.stream, info.stream_sequence, info.published),
        Err(_) => message.reply.as_deref().unwrap_or_default().to_owned(),
    }
}
