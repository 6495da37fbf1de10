//! typing-service: who is typing where.
//!
//! Soft state in memory, in any number of replicas of which none is special: [`typists`] says how they agree.
//! A replica that starts knows nothing; it learns from the renewals of the others, and gateways forget by themselves
//! whoever is not renewed.

mod config;
mod telemetry;
pub mod typists;
mod wire;

pub use config::Config;

use anyhow::Context;
use async_nats::{Message, Subscriber};
use contract::{
    Timestamp,
    typing::{self, TypingEvent, TypingInputs, WhoTypes},
};
use futures_util::StreamExt;
use service::{Admin, Bus, Endpoints, admin::Checks};
use std::{
    future::{Future, pending},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use typists::{Announcement, Kind, Rules, Typists};

/// The queue group in which the replicas share the inputs.
const GROUP: &str = "typing";
/// Questions of who types that one replica answers at once.
const CONCURRENT_ANSWERS: usize = 64;
/// How long any one thing may take at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long an announcement may wait for its place in the queue to NATS; after that it is no news.
const ANNOUNCE: Duration = Duration::from_secs(1);
/// How long the loop may take to say that it runs.
const ALIVE: Duration = Duration::from_secs(2);

/// A replica that has its admin port, and no more yet.
pub struct TypingService {
    config: Config,
    admin: Admin,
}

impl TypingService {
    /// Opens the admin port.
    ///
    /// # Errors
    /// When it can't be had.
    pub async fn bind(config: Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let admin = Admin::bind(config.admin_addr, telemetry::METRICS, shutdown).await?;
        tracing::info!(admin = %admin.addr(), "typing-service starts");
        Ok(Self { config, admin })
    }

    /// Where the admin port is.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Waits for NATS, then serves until the token is cancelled and what was taken by then is done. Dropped before,
    /// it stops at once, as if killed.
    ///
    /// # Errors
    /// When the configuration can't be used, or NATS has closed the connection for good.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Some(bus) = Bus::connect("typing-service", &self.config.nats, &shutdown).await? else {
            return Ok(());
        };
        let rules =
            Rules { ttl: self.config.ttl, capacity: self.config.typists_max.get(), ..Rules::default() };
        let typists = Shared::new(Typists::new(rules, Instant::now()));
        // Before the inputs: whoever takes one should know what the others do.
        let events = bus.subscribe(<TypingEvent as contract::Event>::PATTERN.to_owned()).await?;
        let inputs = bus.share::<TypingInputs>(GROUP).await?;
        let stop = shutdown.child_token();
        let _stop_if_dropped = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        let endpoints = serve(&bus, &typists, &tasks, stop).await?;
        let (alive, beats) = mpsc::channel(8);
        self.admin.started(checks(&bus, &endpoints, alive));
        tracing::info!("typing-service serves");

        let doubts = bus.doubts();
        let replica = Replica {
            bus: bus.clone(),
            name: wire::name(&bus),
            typists,
            events,
            inputs,
            beats,
            doubts,
            ttl: rules.ttl,
            stale: rules.heard(),
        };
        let ended = replica.run(&shutdown).await;
        tasks.close();
        if timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!("some answers were not given in time");
        }
        drop(endpoints); // Not before: it would drop the requests that have arrived.
        bus.close().await;
        ended
    }
}

async fn serve(
    bus: &Bus,
    typists: &Shared,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> anyhow::Result<Endpoints> {
    let endpoints = Endpoints::new(bus, "typing", "who is typing where", tasks.clone(), stop).await?;
    let typists = typists.clone();
    endpoints
        .serve(CONCURRENT_ANSWERS, move |question: WhoTypes| {
            let who = typists.lock().who(question.conversation_id, Instant::now());
            let dated = |(event, age)| TypingEvent { at_ms: Some(wire::at_ms(age)), ..event };
            let who = who.into_iter().map(dated).collect();
            async move { Ok(who) }
        })
        .await?;
    Ok(endpoints)
}

type Beat = oneshot::Sender<()>;

fn checks(bus: &Bus, endpoints: &Endpoints, alive: mpsc::Sender<Beat>) -> Checks {
    let answers = endpoints.pulse();
    Checks::default()
        .nats(bus)
        .with("endpoints", move || {
            let answers = answers.clone();
            async move { answers.check().await }
        })
        .with("loop", move || {
            let alive = alive.clone();
            async move {
                let asked = async {
                    let (beat, beaten) = oneshot::channel();
                    alive.send(beat).await?;
                    Ok(beaten.await?)
                };
                timeout(ALIVE, asked).await.context("the loop does not answer in time")?
            }
        })
}

/// The typists, shared by the loop and the answers. The lock is held for single operations only.
#[derive(Clone)]
struct Shared(Arc<Mutex<Typists>>);

impl Shared {
    fn new(typists: Typists) -> Self {
        Self(Arc::new(Mutex::new(typists)))
    }

    fn lock(&self) -> MutexGuard<'_, Typists> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// The loop that takes inputs, listens to the other replicas, and watches the deadlines.
struct Replica {
    bus: Bus,
    name: String,
    typists: Shared,
    events: Subscriber,
    inputs: Subscriber,
    beats: mpsc::Receiver<Beat>,
    doubts: watch::Receiver<u64>,
    /// An input of this age is over.
    ttl: Duration,
    /// An input of this age is over for the other replicas, too.
    stale: Duration,
}

enum Happened {
    Input(Option<Message>),
    Event(Option<Message>),
    Due,
    Doubt,
    Beat(Beat),
    Shutdown,
}

impl Replica {
    async fn run(mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        loop {
            let due = self.due();
            // Every branch is cancel safe: losing the race loses no message.
            let happened = tokio::select! {
                input = self.inputs.next() => Happened::Input(input),
                event = self.events.next() => Happened::Event(event),
                () = due => Happened::Due,
                Ok(()) = self.doubts.changed() => Happened::Doubt,
                Some(beat) = self.beats.recv() => Happened::Beat(beat),
                () = shutdown.cancelled() => Happened::Shutdown,
            };
            match happened {
                Happened::Input(Some(message)) => self.inputs(&message).await,
                Happened::Event(Some(message)) => self.heard(&message).await,
                Happened::Input(None) | Happened::Event(None) => {
                    anyhow::bail!("NATS closed the connection for good")
                }
                Happened::Due => self.expire().await,
                Happened::Doubt => self.typists.lock().doubt(Instant::now()),
                // Whoever asked may have gone.
                Happened::Beat(beat) => _ = beat.send(()),
                Happened::Shutdown => break,
            }
        }
        self.drain().await;
        Ok(())
    }

    /// Waits until time alone brings something about. Not while NATS is away: nobody could be told, and what is told
    /// late may no longer be true. [`Bus::doubts`] wakes the loop when it is back.
    fn due(&self) -> impl Future<Output = ()> + use<> {
        let due = self.typists.lock().due().filter(|_| self.bus.is_connected());
        async move {
            match due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        }
    }

    async fn inputs(&mut self, message: &Message) {
        let TypingInputs(inputs) = match serde_json::from_slice(&message.payload) {
            Ok(inputs) => inputs,
            Err(error) => return unreadable("input", &error),
        };
        metrics::counter!("typing_inputs_total").increment(inputs.len() as u64);
        for input in inputs {
            let age = typing::age(input.at_ms, Timestamp::now());
            if age >= self.ttl {
                stale("input");
                continue;
            }
            let announcement = self.typists.lock().input(input, age, Instant::now());
            self.announce(announcement).await;
        }
        self.measure();
    }

    async fn heard(&mut self, message: &Message) {
        if wire::is_from(message, &self.name) {
            return;
        }
        let event = match serde_json::from_slice::<TypingEvent>(&message.payload) {
            Ok(event) => event,
            Err(error) => return unreadable("event", &error),
        };
        let note = wire::note(message, &event);
        if event.is_typing && note.age + note.late >= self.stale {
            return stale("event");
        }
        let announcement = self.typists.lock().heard(event, &note, Instant::now());
        self.announce(announcement).await;
        self.measure();
    }

    async fn expire(&mut self) {
        loop {
            let announcement = self.typists.lock().expire(Instant::now());
            if announcement.is_none() {
                break;
            }
            self.announce(announcement).await;
        }
        self.measure();
    }

    async fn announce(&mut self, announcement: Option<Announcement>) {
        let Some(announcement) = announcement else { return };
        let kind = match announcement.kind {
            Kind::Start => "start",
            Kind::Renewal => "renewal",
            Kind::End => "end",
        };
        let published = timeout(ANNOUNCE, wire::publish(&self.bus, &self.name, &announcement)).await;
        match published.context("the queue to NATS is full").flatten() {
            Ok(()) => metrics::counter!("typing_events_total", "kind" => kind).increment(1),
            Err(error) => {
                metrics::counter!("typing_unpublished_total").increment(1);
                tracing::warn!(error = format!("{error:#}"), "a typing event is lost");
            }
        }
    }

    fn measure(&self) {
        let mut typists = self.typists.lock();
        let (typing, refused) = (typists.typing(), typists.take_refused());
        drop(typists);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and this one stays small")]
        metrics::gauge!("typing_typists").set(typing as f64);
        if refused > 0 {
            metrics::counter!("typing_refused_total").increment(refused);
        }
    }

    /// Takes no more inputs, and does those that are here already. Whoever types is left to the other replicas.
    async fn drain(&mut self) {
        let drained = timeout(DRAIN, async {
            self.inputs.drain().await.ok();
            while let Some(message) = self.inputs.next().await {
                self.inputs(&message).await;
            }
        });
        if drained.await.is_err() {
            tracing::warn!("NATS did not let go of the inputs in time");
        }
    }
}

fn stale(what: &'static str) {
    metrics::counter!("typing_stale_total", "what" => what).increment(1);
}

fn unreadable(what: &'static str, error: &serde_json::Error) {
    metrics::counter!("typing_unreadable_total", "what" => what).increment(1);
    tracing::debug!(what, %error, "a payload can't be read");
}
