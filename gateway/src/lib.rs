//! The gateway: sockets, tokens, routing. No rule of chat, and no database.
//!
//! A client's frame goes from its `session` through the `packer` (or a request) to a service. What a service
//! publishes comes in at a `channel`, which puts it in order (`log`) and hands it to the `outbox` of each socket.

mod api;
mod auth;
#[cfg(any(test, feature = "bench"))]
pub mod bench;
mod canary;
mod channel;
mod config;
mod demo;
mod doors;
mod events;
mod forwarded;
mod frames;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gather;
mod guarded;
mod http;
mod hub;
mod keyboards;
mod keys;
mod languages;
mod limits;
mod log;
mod multiplex;
mod openapi;
mod opening;
mod outbox;
mod packer;
mod problem;
mod responses;
mod revocations;
mod server;
mod session;
mod telemetry;
mod typing;
mod upkeep;
mod users;
mod websocket;

pub use config::{Config, TokenExpiry, Tokens};

use anyhow::Context;
use auth::{Identity, Rejected};
use canary::Canary;
use contract::sessions::Revoke;
use doors::Doors;
use events::{Dialer, Events};
use hub::Hub;
use keyboards::Keyboards;
use languages::Languages;
use packer::Packer;
use responses::Responses;
use revocations::Revocations;
use service::{Admin, Bus, Endpoints, admin::Checks};
use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use users::Users;

/// Milliseconds between two sockets that are closed, where there is time: a few sockets need not wait for the whole
/// drain time.
const DRAIN_STEP_MS: u64 = 5;
/// How long a stop goes on waiting for sockets after the drain time.
const DRAIN_REST: Duration = Duration::from_secs(8);
/// Revocations that are worked on at once.
const CONCURRENT_REVOCATIONS: usize = 8;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a stop waits for what is not a socket.
const TASKS_REST: Duration = Duration::from_secs(4);

/// A gateway that listens and serves nothing yet.
pub struct Gateway {
    config: Config,
    listener: TcpListener,
    admin: Admin,
    verifier: auth::Verifier,
    shutdown: CancellationToken,
}

/// What every session and call needs.
pub(crate) struct Shared {
    hub: Arc<Hub>,
    packer: Packer,
    keyboards: Keyboards,
    doors: Doors,
    verifier: auth::Verifier,
    limits: Arc<limits::Limits>,
    users: Arc<Users>,
    /// What answers to calls may hold.
    responses: Responses,
    languages: Arc<Languages>,
    /// This gateway, among the others.
    id: String,
    allowed_origins: Vec<String>,
    outbox_frames: usize,
    outbox_bytes: usize,
    drain: Duration,
    demo: bool,
    /// A stop was asked for.
    shutdown: CancellationToken,
    /// Sockets.
    sessions: TaskTracker,
}

impl Gateway {
    /// Checks the configuration and listens on both ports.
    ///
    /// # Errors
    /// When the configuration can't be used.
    pub async fn bind(config: Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        // A browser sends cookies whichever page asks, so every page would speak for its visitors.
        anyhow::ensure!(
            config.tokens.token_cookie.is_none() || !config.allows_every_origin(),
            "configuration: with TOKEN_COOKIE, ALLOWED_ORIGINS must name origins; * is not possible"
        );
        let verifier = auth::Verifier::new(config.tokens.clone())?;
        let addr = config.listen_addr();
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("configuration: listen on GATEWAY_ADDR {addr}"))?;
        let admin = Admin::bind(config.admin_addr, telemetry::METRICS, shutdown.clone()).await?;
        Ok(Self { config, listener, admin, verifier, shutdown })
    }

    /// Where clients connect.
    ///
    /// # Errors
    /// When the operating system doesn't say.
    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.listener.local_addr().context("read the gateway's address")
    }

    /// Where `/readyz` is.
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Waits for NATS, lets clients in until the token is cancelled, and then closes their sockets one after the other.
    ///
    /// # Errors
    /// When the configuration can't be used, or the NATS client has ended.
    pub async fn run(self) -> anyhow::Result<()> {
        let addr = self.local_addr()?;
        let Self { config, listener, admin, verifier, shutdown } = self;
        let dialer = Dialer::new(&config.nats)?;
        let Some(bus) = Bus::connect("gateway", &config.nats, &shutdown).await? else { return Ok(()) };

        let (sessions, tasks) = (TaskTracker::new(), TaskTracker::new());
        if let Some(keys) = verifier.key_set() {
            if !keys.start(&shutdown).await? {
                return Ok(());
            }
            tasks.spawn(keys.clone().follow(shutdown.clone()));
        }
        // Channels outlive the stop until the last socket is closed.
        let ended = CancellationToken::new();
        let events = Events::new();
        let hub = Arc::new(Hub::new(bus.clone(), events.clone(), tasks.clone(), ended.clone()));
        tasks.spawn(events.run(dialer, hub.clone(), ended.clone()));
        tasks.spawn(hub.clone().compare());
        tasks.spawn(hub.clone().sweep());
        let limits = Arc::new(limits::Limits::new(&config.limits));
        tasks.spawn(limits.clone().forget(ended.clone()));
        let keep = DAY * config.limits.revocation_days;
        let users = Arc::new(Users::new(limits.sockets_per_user, keep));
        let revocations = Arc::new(Revocations::new(users.clone(), bus.clone()));
        let endpoints = sessions_api(&bus, &revocations, &tasks, &shutdown).await?;
        // Nobody is let in before it is known whose tokens are refused.
        let (learnt, known) = oneshot::channel();
        tasks.spawn(revocations.follow(ended.clone(), move || {
            let _ = learnt.send(());
        }));
        let known = tokio::select! {
            known = known => known.is_ok(),
            () = shutdown.cancelled() => false,
        };
        if !known {
            return Ok(());
        }
        let shared = Arc::new(Shared {
            packer: packer::start(bus.clone(), &tasks),
            keyboards: Keyboards::start(bus.clone(), &tasks),
            doors: Doors::start(bus.clone(), &tasks),
            languages: Languages::start(bus.clone(), &tasks),
            hub,
            verifier,
            limits,
            users,
            responses: Responses::default(),
            id: format!("{:016x}", fastrand::u64(..)),
            allowed_origins: config.allowed_origins,
            outbox_frames: config.outbox_frames as usize,
            outbox_bytes: config.outbox_bytes as usize,
            drain: Duration::from_secs(config.drain_seconds.into()),
            demo: config.demo,
            shutdown: shutdown.clone(),
            sessions: sessions.clone(),
        });
        let canary = Arc::new(Canary::new(&shared.hub).await?);
        let (answers, waiting, measured) = (endpoints.pulse(), shared.packer.depth(), shared.hub.clone());
        admin.started(
            Checks::default()
                .nats(&bus)
                .with("canary", move || {
                    let canary = canary.clone();
                    async move { canary.fly().await }
                })
                .with("endpoints", move || {
                    let answers = answers.clone();
                    async move { answers.check().await }
                })
                .measuring(move || metrics::gauge!("gateway_packer_waiting_sends").set(waiting() as f64))
                .measuring(move || measured.measure()),
        );
        tracing::info!(%addr, admin = %admin.addr(), "gateway is up");

        let router = http::router(shared.clone());
        let lost = tokio::select! {
            () = server::run(listener, router, shared.limits.clone(), &shutdown) => None,
            lost = bus.lost() => Some(lost),
        };
        shutdown.cancel();

        sessions.close();
        let drain = shared.drain + DRAIN_REST;
        drop(shared);
        if tokio::time::timeout(drain, sessions.wait()).await.is_err() {
            tracing::warn!(left = sessions.len(), "stopped before every socket was closed");
        }
        ended.cancel();
        tasks.close();
        if tokio::time::timeout(TASKS_REST, tasks.wait()).await.is_err() {
            tracing::warn!(left = tasks.len(), "stopped before everything was finished");
        }
        drop(endpoints);
        bus.close().await;
        tracing::info!("stopped");
        lost.map_or(Ok(()), Err)
    }
}

/// Answers backends that end a user's sessions.
async fn sessions_api(
    bus: &Bus,
    revocations: &Arc<Revocations>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<Endpoints> {
    let description = "sockets: ends the sessions of users";
    let endpoints = Endpoints::new(bus, "gateway", description, tasks.clone(), shutdown.clone()).await?;
    let revocations = revocations.clone();
    endpoints
        .serve::<Revoke, _, _>(CONCURRENT_REVOCATIONS, move |revoke| {
            let revocations = revocations.clone();
            async move { revocations.answer(revoke).await }
        })
        .await?;
    Ok(endpoints)
}

impl Shared {
    /// Whose token it is, if it is taken; after its key was looked for where keys are published.
    async fn identify_anew(&self, token: &str) -> Result<Identity, Rejected> {
        self.verifier.learn(token).await;
        self.identify(token)
    }

    /// Whose token it is, if it is taken.
    fn identify(&self, token: &str) -> Result<Identity, Rejected> {
        let identity = self.verifier.verify(token)?;
        if self.users.is_revoked(&identity) { Err(Rejected::Revoked) } else { Ok(identity) }
    }

    /// How long after a stop one socket is closed, so that clients don't all come back at once.
    fn drain_delay(&self) -> Duration {
        let window = Duration::from_millis(DRAIN_STEP_MS * self.sessions.len() as u64).min(self.drain);
        window.mul_f64(fastrand::f64())
    }
}
