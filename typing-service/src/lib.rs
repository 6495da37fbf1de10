//! typing-service: tracks which users are typing in which conversations, and publishes which users are present.
//!
//! Its soft state is in memory, in any number of equal replicas; [`typists`] describes how they agree. A replica starts
//! without state and learns from the renewals of the others. Gateways expire typists that are not renewed.

mod config;
mod presence;
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
use service::{Admin, Bus, Endpoints, admin::Checks, config::Switch};
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

/// Queue group in which the replicas share the inputs.
const GROUP: &str = "typing";
/// Maximum number of requests in progress at once.
const CONCURRENT_REQUESTS: usize = 64;
/// Time limit of each step of a stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Maximum time that an announcement waits for space in the queue to NATS. After that, it is obsolete.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit of the loop's reply to a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// A replica that is bound to its admin port but doesn't run yet.
pub struct TypingService {
    config: Config,
    admin: Admin,
}

impl TypingService {
    /// Listens on the admin port.
    ///
    /// # Errors
    /// If the address can't be bound.
    pub async fn bind(config: Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let admin = Admin::bind(config.admin_addr, telemetry::METRICS, shutdown).await?;
        tracing::info!(admin = %admin.addr(), "typing-service is starting");
        Ok(Self { config, admin })
    }

    /// Address of the admin port.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Waits for NATS, then serves until the token is cancelled, and finishes the inputs and requests in progress. If
    /// dropped earlier, it stops at once, as if killed.
    ///
    /// # Errors
    /// If the configuration is invalid, or the NATS client has ended.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Some(bus) = Bus::connect("typing-service", &self.config.nats, &shutdown).await? else {
            return Ok(());
        };
        let rules =
            Rules { ttl: self.config.ttl, capacity: self.config.typists_max.get(), ..Rules::default() };
        let typists = Shared::new(Typists::new(rules, Instant::now()));
        // Subscribes to events before inputs: a replica that receives inputs should know the state of the others.
        let events = bus.subscribe(<TypingEvent as contract::Event>::PATTERN.to_owned()).await?;
        let inputs = bus.queue_subscribe::<TypingInputs>(GROUP).await?;
        let stop = shutdown.child_token();
        let _stop_if_dropped = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        if self.config.presence == Switch::On {
            presence::start(&bus, &tasks, stop.clone()).await?;
        }
        let endpoints = serve(&bus, &typists, &tasks, stop).await?;
        let (beat_sender, beats) = mpsc::channel(8);
        self.admin.started(checks(&bus, &endpoints, beat_sender));
        tracing::info!("typing-service is up");

        let disruptions = bus.disruptions();
        let replica = Replica {
            bus: bus.clone(),
            name: wire::name(&bus),
            typists,
            events,
            inputs,
            beats,
            disruptions,
            ttl: rules.ttl,
            remote_ttl: rules.remote_ttl(),
        };
        let ended = replica.run(&shutdown).await;
        service::boot::drain(&tasks, DRAIN, endpoints, &bus).await;
        ended
    }
}

async fn serve(
    bus: &Bus,
    typists: &Shared,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> anyhow::Result<Endpoints> {
    let endpoints = Endpoints::new(
        bus,
        "typing",
        "tracks which users are typing in which conversations",
        tasks.clone(),
        stop,
    )
    .await?;
    let typists = typists.clone();
    endpoints
        .serve(CONCURRENT_REQUESTS, move |request: WhoTypes| {
            let events = typists.lock().typing_in(request.conversation_id, Instant::now());
            let dated = |(event, age)| TypingEvent { at_ms: Some(wire::at_ms(age)), ..event };
            let events = events.into_iter().map(dated).collect();
            async move { Ok(events) }
        })
        .await?;
    Ok(endpoints)
}

/// Replies to a health check of the loop.
type Beat = oneshot::Sender<()>;

fn checks(bus: &Bus, endpoints: &Endpoints, beats: mpsc::Sender<Beat>) -> Checks {
    let endpoints_health = endpoints.health();
    Checks::default()
        .nats(bus)
        .with("endpoints", move || {
            let health = endpoints_health.clone();
            async move { health.check().await }
        })
        .with("loop", move || {
            let beats = beats.clone();
            async move {
                let check = async {
                    let (beat, reply) = oneshot::channel();
                    beats.send(beat).await?;
                    Ok(reply.await?)
                };
                timeout(HEALTH_TIMEOUT, check).await.context("the loop does not respond in time")?
            }
        })
}

/// The typists, shared by the loop and the request handlers. The lock is held only for single operations.
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

/// The loop that processes inputs, events of other replicas, and deadlines.
struct Replica {
    bus: Bus,
    name: String,
    typists: Shared,
    events: Subscriber,
    inputs: Subscriber,
    beats: mpsc::Receiver<Beat>,
    disruptions: watch::Receiver<u64>,
    /// Age from which on an input is stale.
    ttl: Duration,
    /// Age from which on an event of another replica is stale.
    remote_ttl: Duration,
}

enum Wake {
    Input(Option<Message>),
    Event(Option<Message>),
    Due,
    Disruption,
    Beat(Beat),
    Shutdown,
}

impl Replica {
    async fn run(mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        loop {
            let due = self.due();
            // Every branch is cancel safe: losing the race loses no message.
            let wake = tokio::select! {
                input = self.inputs.next() => Wake::Input(input),
                event = self.events.next() => Wake::Event(event),
                () = due => Wake::Due,
                Ok(()) = self.disruptions.changed() => Wake::Disruption,
                Some(beat) = self.beats.recv() => Wake::Beat(beat),
                () = shutdown.cancelled() => Wake::Shutdown,
            };
            match wake {
                Wake::Input(Some(message)) => self.inputs(&message).await,
                Wake::Event(Some(message)) => self.event(&message).await,
                Wake::Input(None) | Wake::Event(None) => {
                    anyhow::bail!("the NATS client has ended")
                }
                Wake::Due => self.expire().await,
                Wake::Disruption => self.typists.lock().doubt(Instant::now()),
                // The check may have timed out.
                Wake::Beat(beat) => _ = beat.send(()),
                Wake::Shutdown => break,
            }
        }
        self.drain().await;
        Ok(())
    }

    /// Waits until the next deadline. Never ready while NATS is disconnected: nothing could be published, and a late
    /// announcement may be wrong. [`Bus::disruptions`] wakes the loop once NATS is back.
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

    async fn event(&mut self, message: &Message) {
        if wire::is_from(message, &self.name) {
            return;
        }
        let event = match serde_json::from_slice::<TypingEvent>(&message.payload) {
            Ok(event) => event,
            Err(error) => return unreadable("event", &error),
        };
        let note = wire::note(message, &event);
        if event.is_typing && note.age + note.late >= self.remote_ttl {
            return stale("event");
        }
        let announcement = self.typists.lock().apply_remote(event, &note, Instant::now());
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
        let published = timeout(PUBLISH_TIMEOUT, wire::publish(&self.bus, &self.name, &announcement)).await;
        match published.context("the queue to NATS is full").flatten() {
            Ok(()) => metrics::counter!("typing_events_total", "kind" => kind).increment(1),
            Err(error) => {
                metrics::counter!("typing_unpublished_total").increment(1);
                tracing::warn!(error = format!("{error:#}"), "publish a typing event; it is lost");
            }
        }
    }

    fn measure(&self) {
        let mut typists = self.typists.lock();
        let (typing, refused) = (typists.typing(), typists.take_refused());
        drop(typists);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and this one stays small")]
        metrics::gauge!("typing_users").set(typing as f64);
        if refused > 0 {
            metrics::counter!("typing_refused_total").increment(refused);
        }
    }

    /// Stops receiving inputs and processes those that have arrived. Other replicas take over the current typists.
    async fn drain(&mut self) {
        let drained = timeout(DRAIN, async {
            self.inputs.drain().await.ok();
            while let Some(message) = self.inputs.next().await {
                self.inputs(&message).await;
            }
        });
        if drained.await.is_err() {
            tracing::warn!("draining the subscription to inputs timed out");
        }
    }
}

fn stale(what: &'static str) {
    metrics::counter!("typing_stale_total", "what" => what).increment(1);
}

fn unreadable(what: &'static str, error: &serde_json::Error) {
    metrics::counter!("typing_unreadable_total", "what" => what).increment(1);
    tracing::debug!(what, %error, "a payload can't be parsed");
}
