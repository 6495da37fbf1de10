//! Takes batches from a stream, and lets go of a message only once it is stored or a dead letter.

use crate::{
    consumer_health::Pulse,
    deadletter::{self, Headers, Letter},
    event::{Delivery, Unusable},
    fetch::{self, Intake, ack, ack_all},
    inboxes::{BYTES_PER_TRANSACTION, Inboxes, OPS_PER_TRANSACTION, StoreError, bytes_of},
    message_ops::{Undone, ops, place},
    plan::Op,
    rescue::{self, Rescue},
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
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How long a dead letter that could not be stored waits, and a message whose store failed at most.
const RETRY_AT_MOST: Duration = Duration::from_secs(5);
/// How long a message waits at most that takes too long alone; the first time [`RETRY_AT_MOST`], then twice as long each.
const ASIDE_AT_MOST: Duration = Duration::from_secs(120);
/// Messages that are known to take too long alone. Of more, some are forgotten, and found again.
const ASIDE: usize = 1_000;

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
    rescue: Rescue,
    /// The places of messages that took too long alone: each is stored by itself, after the others.
    aside: Mutex<HashSet<String>>,
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
    /// Of a stream that nothing was consumed of yet.
    pub fn new(
        source: Source,
        bus: &Bus,
        inboxes: Inboxes,
        pulse: Arc<Pulse>,
        shutdown: CancellationToken,
    ) -> Self {
        let rescue = Rescue::new(source, bus.clone(), inboxes.clone());
        Self { source, bus: bus.clone(), inboxes, pulse, shutdown, rescue, aside: Mutex::default() }
    }

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
        let consumer = fetch::consumer(&self.bus, self.source).await?;
        let stuck = unreadable::sweep(&self.bus, self.source, &consumer).await;
        if let Some(places) = stuck.context("look for what can't be read")? {
            self.rescue.around(places).await?;
        }
        let mut intake = Intake::open(&self.bus, &consumer).await?;
        let mut rescues = tokio::time::interval(rescue::EVERY);
        rescues.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = intake.batch() => self.work(batch?, &mut intake, backoff).await,
                _ = rescues.tick() => match self.rescue.run().await {
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
        // What is more than may be held comes to another replica a little later.
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

    /// Stores what can be used, several messages in a transaction; in halves where Postgres doesn't take something of it, or
    /// takes too long, until that is found, so that it keeps nobody waiting.
    async fn store(&self, works: Vec<Work>, intake: &mut Intake) -> Option<(StoreError, Vec<Message>)> {
        let mut packs = packs(self.aside_last(works));
        while let Some(pack) = packs.pop_front() {
            match self.store_pack(&pack, &packs, intake).await {
                Ok(()) => {
                    self.no_longer_aside(&pack);
                    ack_all(messages(&pack), AckKind::Ack).await;
                }
                Err(Undone::Unusable(reason)) if pack.len() == 1 => {
                    self.bury(&pack[0].message, &pack[0].place, &reason).await;
                }
                Err(Undone::Unusable(reason)) => {
                    tracing::debug!(%reason, "a batch is stored in halves");
                    halve(pack, &mut packs);
                }
                Err(Undone::Waits(error)) if error.is_slow() && self.inboxes.answers().await => {
                    metrics::counter!("batches_too_slow_total", "stream" => self.source.name()).increment(1);
                    if pack.len() > 1 {
                        halve(pack, &mut packs);
                    } else {
                        // The others of its kind would take as long.
                        let is_known = |pack: &Vec<Work>| pack.iter().all(|work| self.is_aside(&work.place));
                        let (known, rest): (VecDeque<_>, VecDeque<_>) = packs.into_iter().partition(is_known);
                        packs = rest;
                        for work in std::iter::once(pack).chain(known).flatten() {
                            self.set_aside(&work, &error).await;
                        }
                    }
                }
                Err(Undone::Waits(error)) => {
                    let undone = pack.into_iter().chain(packs.into_iter().flatten());
                    return Some((error, undone.map(|work| work.message).collect()));
                }
            }
        }
        None
    }

    /// Stores what goes into one transaction. While it takes its time, NATS is told that all of it is still ours.
    async fn store_pack(
        &self,
        pack: &[Work],
        waiting: &VecDeque<Vec<Work>>,
        intake: &mut Intake,
    ) -> Result<(), Undone> {
        let ops: Vec<Op> = pack.iter().flat_map(|work| work.ops.iter().cloned()).collect();
        let store = async {
            match self.inboxes.apply(&ops).await {
                Err(error) if error.is_slow() && pack.len() == 1 && ops.len() > 1 => {
                    if self.inboxes.answers().await {
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
                done = &mut store => return done.map_err(Undone::from),
                _ = tick.tick() => {
                    let ours = messages(pack).into_iter().chain(waiting.iter().flat_map(|pack| messages(pack)));
                    ack_all(ours.collect(), AckKind::Progress).await;
                    intake.hold().await;
                }
            }
        }
    }

    /// It takes too long alone, as when another has the inbox locked: it comes again, later each time, and what is behind it
    /// goes on.
    async fn set_aside(&self, work: &Work, error: &StoreError) {
        let tries = work.message.info().map_or(1, |info| info.delivered).clamp(1, 10);
        let delay = RETRY_AT_MOST.saturating_mul(1 << (tries - 1)).min(ASIDE_AT_MOST);
        tracing::warn!(place = work.place, error = chain(error), "an event takes too long, and waits");
        metrics::counter!("events_set_aside_total", "stream" => self.source.name()).increment(1);
        {
            let mut aside = self.aside();
            if aside.len() >= ASIDE {
                aside.clear();
            }
            aside.insert(work.place.clone());
        }
        ack(&work.message, AckKind::Nak(Some(delay))).await;
    }

    /// The same, with what took too long before at the end.
    fn aside_last(&self, works: Vec<Work>) -> (Vec<Work>, Vec<Work>) {
        works.into_iter().partition(|work| !self.is_aside(&work.place))
    }

    fn no_longer_aside(&self, done: &[Work]) {
        let mut aside = self.aside();
        if !aside.is_empty() {
            aside.retain(|place| done.iter().all(|work| work.place != *place));
        }
    }

    fn is_aside(&self, place: &str) -> bool {
        self.aside().contains(place)
    }

    fn aside(&self) -> MutexGuard<'_, HashSet<String>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
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

/// In halves, both before what else waits.
fn halve(mut pack: Vec<Work>, packs: &mut VecDeque<Vec<Work>>) {
    packs.push_front(pack.split_off(pack.len() / 2));
    packs.push_front(pack);
}

/// What goes into one transaction each: one message at least, and each of the second ones by itself.
fn packs((works, alone): (Vec<Work>, Vec<Work>)) -> VecDeque<Vec<Work>> {
    let mut packs: VecDeque<Vec<Work>> = VecDeque::new();
    let (mut room, mut bytes_room) = (0, 0);
    for work in works {
        let bytes: usize = work.ops.iter().map(bytes_of).sum();
        if packs.is_empty() || work.ops.len() > room || bytes > bytes_room {
            (room, bytes_room) = (OPS_PER_TRANSACTION, BYTES_PER_TRANSACTION);
            packs.push_back(Vec::new());
        }
        room = room.saturating_sub(work.ops.len());
        bytes_room = bytes_room.saturating_sub(bytes);
        if let Some(pack) = packs.back_mut() {
            pack.push(work);
        }
    }
    packs.extend(alone.into_iter().map(|work| vec![work]));
    packs
}

fn place_of(message: &Message) -> String {
    match message.info() {
        Ok(info) => place(info.stream, info.stream_sequence, info.published),
        Err(_) => message.reply.as_deref().unwrap_or_default().to_owned(),
    }
}
