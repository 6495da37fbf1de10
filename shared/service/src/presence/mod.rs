//! Follows presence: the users whom live gateways report as present.
//!
//! Each replica of a service that needs presence follows all gateways. It keeps nothing: a new replica knows every
//! present user a few seconds after its start.

pub mod leases;

use crate::{Bus, metrics::Metric};
use anyhow::Context;
use async_nats::{Message, Subscriber};
use contract::{
    Event, UserId,
    presence::{Alive, Delta, Hello, Snapshot, SnapshotPage},
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use leases::{Ask, Change, Leases};
use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::coop::unconstrained,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Maximum number of users that a replica knows, about 60 bytes each.
const USERS_MAX: usize = 100_000;
/// Time limit of a request for a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval at which the follower records that it runs.
const PULSE: Duration = Duration::from_secs(2);
/// Number of batches of changes that wait for one reader.
const CHANGES_WAITING: usize = 1_024;

/// Metrics of every process that follows presence.
const METRICS: &[Metric] = &[
    Metric::gauge("presence_users", "Users who are present, as known to this replica."),
    Metric::gauge("presence_gateways", "Gateways whose users are present, as known to this replica."),
    Metric::counter("presence_changes_total", "Changes of users' presence, as seen by this replica."),
    Metric::counter(
        "presence_full_total",
        "Users and gateways not tracked because this replica knows the maximum number.",
    ),
    Metric::counter(
        "presence_lapses_total",
        "Gateways whose users lapsed because they sent no sign of life.",
    ),
    Metric::counter(
        "presence_pauses_total",
        "Times that this process was suspended or starved for seconds, after which it asked all gateways for a sign of life.",
    ),
    Metric::counter("presence_snapshots_total", "Pages of snapshots requested from gateways, by outcome.")
        .by("outcome", &["done", "failed"]),
    Metric::counter(
        "presence_missed_total",
        "Times that a part of this process fell behind the changes of presence and read the state again.",
    ),
    Metric::counter("presence_unreadable_total", "Payloads on presence that could not be parsed."),
];

/// The present users, as this replica knows them. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    bus: Bus,
    leases: Arc<Mutex<Leases>>,
    changes: broadcast::Sender<Arc<[Change]>>,
}

/// What a reader of changes receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The next changes.
    Changes(Arc<[Change]>),
    /// The reader fell behind and has missed changes: it must read the whole state again.
    Missed,
}

/// The changes of presence from a point in time on.
pub struct Changes(broadcast::Receiver<Arc<[Change]>>);

impl Changes {
    /// Waits for the next changes. `None` once presence is no longer followed. Cancel safe.
    pub async fn next(&mut self) -> Option<Update> {
        match self.0.recv().await {
            Ok(changes) => Some(Update::Changes(changes)),
            Err(RecvError::Lagged(_)) => {
                metrics::counter!("presence_missed_total").increment(1);
                Some(Update::Missed)
            }
            Err(RecvError::Closed) => None,
        }
    }
}

impl Presence {
    /// Starts to follow all gateways, until the token is cancelled.
    ///
    /// # Errors
    /// If the NATS client is closed.
    pub async fn follow(bus: &Bus, tasks: &TaskTracker, stop: CancellationToken) -> anyhow::Result<Self> {
        crate::metrics::describe(METRICS);
        let deltas = bus.subscribe(Delta::PATTERN.to_owned()).await?;
        let alives = bus.subscribe(Alive::PATTERN.to_owned()).await?;
        let presence = Self {
            bus: bus.clone(),
            leases: Arc::new(Mutex::new(Leases::new(USERS_MAX, Instant::now()))),
            changes: broadcast::Sender::new(CHANGES_WAITING),
        };
        tasks.spawn(Follower { presence: presence.clone(), deltas, alives }.run(stop));
        Ok(presence)
    }

    /// Whether a user is present.
    pub fn is_present(&self, user: UserId) -> bool {
        self.leases().is_present(user)
    }

    /// The users of these who are present.
    pub fn present_of(&self, users: impl IntoIterator<Item = UserId>) -> Vec<UserId> {
        let leases = self.leases();
        users.into_iter().filter(|user| leases.is_present(*user)).collect()
    }

    /// Every present user.
    pub fn present(&self) -> Vec<UserId> {
        self.leases().present().collect()
    }

    /// How long this replica has known a user to be present; `None` if the user is not present.
    pub fn present_for(&self, user: UserId) -> Option<Duration> {
        self.leases().present_since(user).map(|since| since.elapsed())
    }

    /// Whether the replica has heard of every gateway: not in the first seconds, not while NATS is disconnected, not
    /// during a snapshot, and not after the process was suspended. Otherwise a user may be present although
    /// [`Presence::is_present`] is false.
    pub fn is_settled(&self) -> bool {
        self.bus.is_connected() && self.leases().is_settled(Instant::now())
    }

    /// [`Presence::is_settled`], and a number that stays the same as long as nothing came between: not even a moment in
    /// which this replica did not know who is present.
    pub fn settled(&self) -> Option<u64> {
        self.is_settled().then(|| self.leases().doubts())
    }

    /// The changes from now on. A reader that begins here and then reads the state misses nothing.
    pub fn changes(&self) -> Changes {
        Changes(self.changes.subscribe())
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().expect("no holder of this lock panics")
    }
}

/// The task that follows the gateways.
struct Follower {
    presence: Presence,
    deltas: Subscriber,
    alives: Subscriber,
}

enum Wake {
    Delta(Option<Message>),
    Alive(Option<Message>),
    Page(Ask, anyhow::Result<SnapshotPage>),
    Due,
    Pulse,
    Disruption,
    Stop,
}

impl Follower {
    async fn run(mut self, stop: CancellationToken) {
        let mut disruptions = self.presence.bus.disruptions();
        let (mut pages, mut pulse) = (FuturesUnordered::new(), interval(PULSE));
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.hello().await;
        loop {
            let due = self.due();
            // Every branch is cancel safe: losing the race loses no message.
            let wake = tokio::select! {
                delta = self.deltas.next() => Wake::Delta(delta),
                alive = self.alives.next() => Wake::Alive(alive),
                Some((ask, page)) = pages.next() => Wake::Page(ask, page),
                () = wait_until(due) => Wake::Due,
                _ = pulse.tick() => Wake::Pulse,
                Ok(()) = disruptions.changed() => Wake::Disruption,
                () = stop.cancelled() => Wake::Stop,
            };
            let was_suspended = self.presence.leases().runs(Instant::now());
            if was_suspended {
                metrics::counter!("presence_pauses_total").increment(1);
                self.hello().await;
            }
            match wake {
                Wake::Delta(Some(message)) => self.delta(&message),
                Wake::Alive(Some(message)) => self.alive(&message),
                // The process ends with its NATS client.
                Wake::Delta(None) | Wake::Alive(None) | Wake::Stop => return,
                Wake::Page(ask, page) => self.page(&ask, page),
                Wake::Pulse => {}
                Wake::Due => {
                    // Those that have arrived renew leases that are over otherwise.
                    while let Some(Some(message)) = unconstrained(self.alives.next()).now_or_never() {
                        self.alive(&message);
                    }
                    let changes = self.presence.leases().lapse(Instant::now());
                    self.announce(changes);
                }
                Wake::Disruption => {
                    self.presence.leases().doubt(Instant::now());
                    self.hello().await;
                }
            }
            let asks = self.presence.leases().asks(Instant::now());
            pages.extend(asks.into_iter().map(|ask| request(self.presence.bus.clone(), ask)));
            self.measure();
        }
    }

    /// Asks every gateway for a sign of life.
    async fn hello(&self) {
        if self.presence.bus.is_connected()
            && let Err(error) = self.presence.bus.publish(&Hello {}).await
        {
            tracing::debug!(error = format!("{error:#}"), "say hello; the next signs of life follow anyway");
        }
    }

    /// The next deadline. There is none while NATS is disconnected: gateways can't renew their leases, and
    /// [`Bus::disruptions`] wakes the loop once they can.
    fn due(&self) -> Option<Instant> {
        self.presence.leases().due().filter(|_| self.presence.bus.is_connected())
    }

    fn delta(&self, message: &Message) {
        if let Some(delta) = decode::<Delta>(message) {
            let changes = self.presence.leases().delta(&delta, Instant::now());
            self.announce(changes);
        }
    }

    fn alive(&mut self, message: &Message) {
        // The batches that a gateway sent before its sign of life have arrived before it, on the other subscription. All
        // of them: tokio's budget for a task must not end the loop.
        while let Some(Some(message)) = unconstrained(self.deltas.next()).now_or_never() {
            self.delta(&message);
        }
        if let Some(alive) = decode::<Alive>(message) {
            self.presence.leases().alive(&alive, Instant::now());
        }
    }

    fn page(&self, ask: &Ask, page: anyhow::Result<SnapshotPage>) {
        let outcome = match page {
            Ok(page) => {
                let changes = self.presence.leases().page(ask, &page, Instant::now());
                self.announce(changes);
                "done"
            }
            Err(error) => {
                tracing::warn!(
                    gateway = ask.gateway,
                    error = format!("{error:#}"),
                    "request a snapshot of presence"
                );
                "failed"
            }
        };
        metrics::counter!("presence_snapshots_total", "outcome" => outcome).increment(1);
    }

    fn announce(&self, changes: Vec<Change>) {
        if !changes.is_empty() {
            metrics::counter!("presence_changes_total").increment(changes.len() as u64);
            // Without readers there is nothing to do.
            self.presence.changes.send(changes.into()).ok();
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and these stay small")]
    fn measure(&self) {
        let mut leases = self.presence.leases();
        metrics::gauge!("presence_users").set(leases.len() as f64);
        metrics::gauge!("presence_gateways").set(leases.gateways() as f64);
        metrics::counter!("presence_full_total").increment(leases.take_refused());
        metrics::counter!("presence_lapses_total").increment(leases.take_lapsed());
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

async fn request(bus: Bus, ask: Ask) -> (Ask, anyhow::Result<SnapshotPage>) {
    let page = async {
        let subject = Snapshot::subject(&ask.gateway).context("the gateway's id is not a token")?;
        let payload = serde_json::to_vec(&Snapshot { after: ask.after }).context("encode a request")?;
        let request = async_nats::Request::new().payload(payload.into()).timeout(Some(PAGE_TIMEOUT));
        let reply = bus.client().send_request(subject, request).await?;
        serde_json::from_slice(&reply.payload).context("decode a page")
    };
    let page = page.await;
    (ask, page)
}

fn decode<E: Event>(message: &Message) -> Option<E> {
    serde_json::from_slice(&message.payload)
        .inspect_err(|error| {
            metrics::counter!("presence_unreadable_total").increment(1);
            tracing::debug!(subject = %message.subject, %error, "a payload can't be parsed");
        })
        .ok()
}
