//! Takes batches from a stream, and lets go of a message only once it is stored or a dead letter.

use crate::catalogue::Catalogue;
use crate::deadletter::{self, Headers, Letter};
use crate::event::{self, Delivery, Unusable};
use crate::inboxes::{Inboxes, OPS_PER_TRANSACTION, StoreError, chat_ops};
use crate::intake::{Intake, ack, ack_all};
use crate::plan::{Op, What};
use crate::pulse::Pulse;
use crate::stranded;
use crate::streams::{ACK_WAIT, Source};
use anyhow::bail;
use async_nats::jetstream::{AckKind, Message};
use contract::TraceParent;
use futures_util::future::join_all;
use service::{Backoff, Bus, Span, bus::chain, trace::Kind};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

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

/// Why a message is not done.
pub enum Undone {
    /// It can't be used.
    Unusable(Unusable),
    /// For reasons of ours: it will be.
    Waits(StoreError),
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        if error.is_data() {
            return Self::Unusable(Unusable(format!("it can't be stored: {}", chain(&error))));
        }
        Self::Waits(error)
    }
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
        service::streams::ensure(&self.bus, self.source.stream(), &self.shutdown).await;
        let mut intake = Intake::open(&self.bus, self.source).await?;
        let mut rescues = tokio::time::interval(stranded::EVERY);
        rescues.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = intake.batch() => self.work(batch?, &mut intake, backoff).await,
                _ = rescues.tick() => match self.rescue().await {
                    Ok(false) => {}
                    Ok(true) => rescues.reset_immediately(),
                    Err(error) => tracing::warn!(
                        stream = self.source.name(),
                        error = format!("{error:#}"),
                        "messages that count as done may be left; looking again later"
                    ),
                },
                _ = doubts.changed() => {
                    let rest = intake.rest();
                    self.work(rest, &mut intake, backoff).await;
                    bail!("the connection to NATS was lost");
                }
                () = self.shutdown.cancelled() => break,
            }
        }
        self.leave(intake).await;
        Ok(())
    }

    async fn work(&self, batch: Vec<Message>, intake: &mut Intake, backoff: &mut Backoff) {
        metrics::histogram!("batch_messages", "stream" => self.source.name()).record(batch.len() as f64);
        match self.handle(batch, intake).await {
            None => {
                backoff.reset();
                self.pulse.worked();
            }
            Some((error, undone)) => self.retry_later(error, undone, intake, backoff.delay()).await,
        }
    }

    /// What was delivered and not taken goes to another replica, soon: it would come back to us if it was given back
    /// before NATS knows that we have left.
    async fn leave(&self, mut intake: Intake) {
        const SOON: Duration = Duration::from_millis(100);
        const ROUNDS: usize = 16;
        let mut rest = intake.rest();
        for _ in 0..ROUNDS {
            // What NATS has sent until then is here after that; it may be at sending more.
            if let Err(error) = self.bus.round_trip().await {
                tracing::debug!(error = format!("{error:#}"), "what NATS has delivered is not all here");
                break;
            }
            let more = intake.rest();
            if more.is_empty() {
                break;
            }
            rest.extend(more);
        }
        drop(intake);
        ack_all(rest.iter().collect(), AckKind::Nak(Some(SOON))).await;
    }

    /// Stores a batch. What could not be stored for reasons of ours comes back with the first of them.
    async fn handle(&self, batch: Vec<Message>, intake: &mut Intake) -> Option<(StoreError, Vec<Message>)> {
        let catalogue = self.inboxes.catalogue();
        let (mut works, mut unusable) = (Vec::new(), Vec::new());
        for message in batch {
            let place = place_of(&message);
            let (subject, headers) = (message.subject.as_str(), message.headers.as_ref());
            let delivery = Delivery { subject, headers, payload: &message.payload, place: &place };
            let step = self.source.step(delivery);
            match ops(self.source, delivery, &catalogue, step.parent()) {
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
        let (failed, _) = tokio::join!(self.store(works, intake), buried);
        failed
    }

    /// Stores what can be used, several messages in a transaction; in halves where Postgres doesn't take something of
    /// it, until that is found, so that it keeps nobody waiting.
    async fn store(&self, works: Vec<Work>, intake: &mut Intake) -> Option<(StoreError, Vec<Message>)> {
        let mut since = tokio::time::Instant::now();
        let mut packs = packs(works);
        while let Some(mut pack) = packs.pop_front() {
            let ops: Vec<Op> = pack.iter().flat_map(|work| work.ops.iter().cloned()).collect();
            match self.inboxes.apply(&ops).await.map_err(Undone::from) {
                Ok(()) => ack_all(messages(&pack), AckKind::Ack).await,
                Err(Undone::Unusable(reason)) if pack.len() == 1 => {
                    self.bury(&pack[0].message, &pack[0].place, &reason).await;
                }
                Err(Undone::Unusable(reason)) => {
                    tracing::debug!(%reason, "a batch is stored in halves");
                    packs.push_front(pack.split_off(pack.len() / 2));
                    packs.push_front(pack);
                }
                Err(Undone::Waits(error)) => {
                    let undone = pack.into_iter().chain(packs.into_iter().flatten());
                    return Some((error, undone.map(|work| work.message).collect()));
                }
            }
            if since.elapsed() > ACK_WAIT / 3 {
                // So many users take their time; the others are still ours.
                ack_all(packs.iter().flat_map(|pack| messages(pack)).collect(), AckKind::Progress).await;
                intake.hold().await;
                since = tokio::time::Instant::now();
            }
        }
        None
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
        intake: &mut Intake,
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
        undone.extend(intake.rest());
        ack_all(undone.iter().collect(), AckKind::Nak(Some(delay))).await;
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}

fn messages(pack: &[Work]) -> Vec<&Message> {
    pack.iter().map(|work| &work.message).collect()
}

/// What goes into one transaction each: one message at least.
fn packs(works: Vec<Work>) -> VecDeque<Vec<Work>> {
    let mut packs: VecDeque<Vec<Work>> = VecDeque::new();
    let mut room = 0;
    for work in works {
        if packs.is_empty() || work.ops.len() > room {
            room = OPS_PER_TRANSACTION;
            packs.push_back(Vec::new());
        }
        room = room.saturating_sub(work.ops.len());
        if let Some(pack) = packs.back_mut() {
            pack.push(work);
        }
    }
    packs
}

/// What names a message for ever: also when its stream is made anew and counts from 1 again.
pub fn place(stream: &str, seq: u64, stored_at: OffsetDateTime) -> String {
    format!("{stream}:{seq}:{}", stored_at.unix_timestamp_nanos())
}

fn place_of(message: &Message) -> String {
    match message.info() {
        Ok(info) => place(info.stream, info.stream_sequence, info.published),
        Err(_) => message.reply.as_deref().unwrap_or_default().to_owned(),
    }
}

impl Source {
    /// The step of consuming an event; what a chat's entry holds has steps of its own.
    pub fn step(self, delivery: Delivery<'_>) -> Span {
        match self {
            Self::Events => {
                let step = Span::caused_by(delivery.headers, "consume", Kind::Consumer);
                if step.is_recorded() {
                    step.set("messaging.destination.name", delivery.subject.to_owned());
                }
                step
            }
            Self::Chat => Span::none(),
        }
    }
}

/// What a message does to inboxes, with the steps of what is traced in it.
///
/// # Errors
/// Why it can't be used.
pub fn ops(
    source: Source,
    delivery: Delivery<'_>,
    catalogue: &Catalogue,
    cause: Option<TraceParent>,
) -> Result<(Vec<Op>, Vec<Span>), Unusable> {
    match source {
        Source::Events => {
            let (users, notice) = event::parse(delivery, catalogue)?;
            let notice = Arc::new(notice);
            let op = |user| Op { user, what: What::Notice(notice.clone()), cause };
            Ok((users.into_iter().map(op).collect(), vec![]))
        }
        Source::Chat => serde_json::from_slice(delivery.payload)
            .map(chat_ops)
            .map_err(|error| Unusable(format!("not an entry of the chat's log: {error}"))),
    }
}
