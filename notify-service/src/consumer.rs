//! Takes batches from a stream, and lets go of a message only once it is stored or a dead letter.

use crate::deadletter::{self, Headers, Letter};
use crate::event::{self, Delivery, Unusable};
use crate::inboxes::{Inboxes, OPS_PER_TRANSACTION, StoreError, chat_ops};
use crate::plan::{Op, What};
use crate::pulse::Pulse;
use crate::streams::{self, ACK_WAIT, CONSUMER, Source};
use crate::unreadable;
use anyhow::{Context, bail};
use async_nats::jetstream::{AckKind, Message, consumer::pull};
use contract::TraceParent;
use futures_util::{FutureExt, StreamExt, future::join_all};
use service::{Backoff, Bus, Span, bus::chain, trace::Kind};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Messages that are taken at once.
const BATCH: usize = 200;
/// How long a dead letter that could not be stored waits, and a message whose store failed at most.
const RETRY_AT_MOST: Duration = Duration::from_secs(5);

/// Consumes one stream.
pub struct Consumer {
    /// Which.
    pub source: Source,
    /// NATS.
    pub bus: Bus,
    /// Where it goes.
    pub inboxes: Inboxes,
    /// Whether it moves.
    pub pulse: Arc<Pulse>,
    /// Stops it.
    pub shutdown: CancellationToken,
}

/// A message that can be used.
struct Work {
    message: Message,
    place: String,
    ops: Vec<Op>,
    /// The steps of what is traced in it, which end with it.
    _steps: Vec<Span>,
}

impl Consumer {
    /// Runs until the token is cancelled; the batch in hand is finished.
    pub async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), RETRY_AT_MOST);
        while !self.shutdown.is_cancelled() {
            let Err(error) = self.consume(&mut backoff).await else { return };
            if self.shutdown.is_cancelled() {
                return;
            }
            self.pulse.failed(&format!("{error:#}"));
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

    /// Consumes until the token is cancelled, or NATS says why that can't go on.
    async fn consume(&self, backoff: &mut Backoff) -> anyhow::Result<()> {
        let mut doubts = self.bus.doubts();
        let mut messages = self.open().await?;
        loop {
            tokio::select! {
                batch = next(&mut messages) => self.work(batch?, &mut messages, backoff).await,
                _ = doubts.changed() => {
                    let rest = buffered(&mut messages);
                    self.work(rest, &mut messages, backoff).await;
                    bail!("the connection to NATS was lost");
                }
                () = self.shutdown.cancelled() => break,
            }
        }
        self.leave(messages).await;
        Ok(())
    }

    async fn work(&self, batch: Vec<Message>, messages: &mut pull::Stream, backoff: &mut Backoff) {
        metrics::histogram!("batch_messages", "stream" => self.source.name()).record(batch.len() as f64);
        match self.handle(batch).await {
            None => {
                backoff.reset();
                self.pulse.worked();
            }
            Some((error, undone)) => self.retry_later(error, undone, messages, backoff.delay()).await,
        }
    }

    /// What was delivered and not taken goes to another replica, soon: it would come back to us if it was given back
    /// before NATS knows that we have left.
    async fn leave(&self, mut messages: pull::Stream) {
        const SOON: Duration = Duration::from_millis(100);
        // What NATS has sent so far is here after that.
        if tokio::time::timeout(SOON, self.bus.client().flush()).await.is_err() {
            tracing::debug!("NATS does not answer");
        }
        let rest = buffered(&mut messages);
        drop(messages);
        self.give_back(&rest, SOON).await;
    }

    async fn open(&self) -> anyhow::Result<pull::Stream> {
        service::streams::ensure(&self.bus, self.source.stream(), &self.shutdown).await;
        let stream = self.bus.jetstream().get_stream(self.source.name()).await.context("open the stream")?;
        let consumer = stream
            .get_or_create_consumer(CONSUMER, streams::consumer())
            .await
            .context("open the consumer")?;
        unreadable::sweep(&self.bus, self.source, &consumer).await.context("look for what can't be read")?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages();
        messages.await.context("pull from the consumer")
    }

    /// Stores a batch. What could not be stored for reasons of ours comes back with the first of them.
    async fn handle(&self, batch: Vec<Message>) -> Option<(StoreError, Vec<Message>)> {
        let catalogue = self.inboxes.catalogue();
        let (mut works, mut unusable) = (Vec::new(), Vec::new());
        for message in batch {
            let place = place(&message);
            let step = self.source.step(&message);
            match ops(self.source, &message, &place, &catalogue, step.parent()) {
                Ok((ops, mut steps)) => {
                    steps.push(step);
                    works.push(Work { message, place, ops, _steps: steps });
                }
                Err(reason) => unusable.push((message, place, reason, step)),
            }
        }
        let buried = join_all(unusable.iter().map(|(message, place, reason, step)| {
            step.failed("unusable");
            step.clone().within(self.bury(message, place, reason))
        }));
        let (failed, _) = tokio::join!(self.store(works), buried);
        failed
    }

    /// Stores what can be used, several messages in a transaction.
    async fn store(&self, mut works: Vec<Work>) -> Option<(StoreError, Vec<Message>)> {
        let mut since = tokio::time::Instant::now();
        while !works.is_empty() {
            let pack = works.drain(..pack_len(&works)).collect::<Vec<_>>();
            let ops: Vec<Op> = pack.iter().flat_map(|work| work.ops.iter().cloned()).collect();
            match self.inboxes.apply(&ops).await {
                Ok(()) => join_all(pack.iter().map(|work| ack(&work.message, AckKind::Ack))).await,
                Err(error) if error.is_data() => {
                    tracing::debug!(error = chain(&error), "a batch is stored one by one");
                    if let Err((error, mut undone)) = self.store_singly(pack).await {
                        undone.extend(works.into_iter().map(|work| work.message));
                        return Some((error, undone));
                    }
                    vec![]
                }
                Err(error) => {
                    let undone = pack.into_iter().chain(works).map(|work| work.message).collect();
                    return Some((error, undone));
                }
            };
            if since.elapsed() > ACK_WAIT / 3 {
                // So many users take their time; the others are still ours.
                join_all(works.iter().map(|work| ack(&work.message, AckKind::Progress))).await;
                since = tokio::time::Instant::now();
            }
        }
        None
    }

    /// Finds what Postgres doesn't take, and keeps it from the others.
    async fn store_singly(&self, pack: Vec<Work>) -> Result<(), (StoreError, Vec<Message>)> {
        let mut pack = pack.into_iter();
        while let Some(work) = pack.next() {
            match self.inboxes.apply(&work.ops).await {
                Ok(()) => ack(&work.message, AckKind::Ack).await,
                Err(error) if error.is_data() => {
                    let reason = Unusable(format!("it can't be stored: {}", chain(&error)));
                    self.bury(&work.message, &work.place, &reason).await;
                }
                Err(error) => {
                    let undone = std::iter::once(work).chain(pack).map(|work| work.message).collect();
                    return Err((error, undone));
                }
            }
        }
        Ok(())
    }

    /// Makes a dead letter of it; only then is it terminated.
    async fn bury(&self, message: &Message, place: &str, reason: &Unusable) {
        let letter = Letter {
            subject: message.subject.as_str(),
            headers: Headers::Read(message.headers.as_ref()),
            body: message.payload.clone(),
            place,
            reason: &reason.0,
        };
        match deadletter::keep(&self.bus, letter).await {
            Ok(()) => ack(message, AckKind::Term).await,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), place, "a dead letter is not stored yet");
                ack(message, AckKind::Nak(Some(RETRY_AT_MOST))).await;
            }
        }
    }

    /// Postgres did not do it: NATS delivers it again after a while, to us or to another replica.
    async fn retry_later(
        &self,
        error: StoreError,
        mut undone: Vec<Message>,
        messages: &mut pull::Stream,
        delay: Duration,
    ) {
        let why = chain(&error);
        self.pulse.failed(&why);
        metrics::counter!("batch_retries_total", "stream" => self.source.name()).increment(1);
        if error.is_passing() {
            tracing::warn!(stream = self.source.name(), error = why, "events wait for Postgres");
        } else {
            tracing::error!(stream = self.source.name(), error = why, "events can't be stored, and wait");
        }
        // What came behind waits as well, or it would overtake.
        undone.extend(buffered(messages));
        self.give_back(&undone, delay).await;
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    async fn give_back(&self, messages: &[Message], delay: Duration) {
        join_all(messages.iter().map(|message| ack(message, AckKind::Nak(Some(delay))))).await;
    }
}

/// The next message, and what else is there already.
async fn next(messages: &mut pull::Stream) -> anyhow::Result<Vec<Message>> {
    let first = messages.next().await.context("the consumer has ended")?;
    let mut batch = vec![first.context("pull from the consumer")?];
    while batch.len() < BATCH
        && let Some(Some(Ok(message))) = messages.next().now_or_never()
    {
        batch.push(message);
    }
    Ok(batch)
}

fn buffered(messages: &mut pull::Stream) -> Vec<Message> {
    std::iter::from_fn(|| messages.next().now_or_never()??.ok()).collect()
}

/// How many of these go into one transaction: at least one.
fn pack_len(works: &[Work]) -> usize {
    let mut ops = 0;
    let fits = works.iter().take_while(|work| {
        ops += work.ops.len();
        ops <= OPS_PER_TRANSACTION
    });
    fits.count().max(1)
}

/// An acknowledgement that gets lost is no harm: what is delivered again changes nothing.
async fn ack(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "an acknowledgement was not sent");
    }
}

/// What names a message for ever: also when its stream is made anew and counts from 1 again.
fn place(message: &Message) -> String {
    match message.info() {
        Ok(info) => {
            format!("{}:{}:{}", info.stream, info.stream_sequence, info.published.unix_timestamp_nanos())
        }
        Err(_) => message.reply.as_deref().unwrap_or_default().to_owned(),
    }
}

impl Source {
    /// The step of consuming an event; what a chat's entry holds has steps of its own.
    fn step(self, message: &Message) -> Span {
        match self {
            Self::Events => {
                let step = Span::caused_by(message.headers.as_ref(), "consume", Kind::Consumer);
                if step.is_recorded() {
                    step.set("messaging.destination.name", message.subject.to_string());
                }
                step
            }
            Self::Chat => Span::none(),
        }
    }
}

fn ops(
    source: Source,
    message: &Message,
    place: &str,
    catalogue: &crate::catalogue::Catalogue,
    cause: Option<TraceParent>,
) -> Result<(Vec<Op>, Vec<Span>), Unusable> {
    match source {
        Source::Events => {
            let (subject, headers) = (message.subject.as_str(), message.headers.as_ref());
            let delivery = Delivery { subject, headers, payload: &message.payload, place };
            let (users, notice) = event::parse(delivery, catalogue)?;
            let notice = Arc::new(notice);
            let op = |user| Op { user, what: What::Notice(notice.clone()), cause };
            Ok((users.into_iter().map(op).collect(), vec![]))
        }
        Source::Chat => serde_json::from_slice(&message.payload)
            .map(chat_ops)
            .map_err(|error| Unusable(format!("not an entry of the chat's log: {error}"))),
    }
}
