//! Startup and shutdown of a gateway: `wire`, `serve`, `drain`.

use crate::{
    Config,
    admission::{
        backend_keys::BackendKeys, presence_reports::Reports, present_users::PresentUsers,
        rate_limits::Limits, revocations::Revocations, tokens::Verifier, user_sockets::Users,
    },
    channel::hub::Hub,
    http::{self, listener},
    nats::{
        connection::{Dialer, Link},
        joins::Joins,
        languages::Languages,
        sends,
        typing_inputs::TypingInputs,
    },
    state::Shared,
    telemetry,
};
use anyhow::Context;
use contract::sessions::Revoke;
use service::{Admin, Bus, Endpoints, admin::Checks, boot, config::Switch};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

/// How long a stop waits for the remaining sockets after the drain time.
const DRAIN_GRACE: Duration = Duration::from_secs(8);
/// How long a stop waits for the other tasks after that.
const TASKS_GRACE: Duration = Duration::from_secs(4);
/// Number of revocations that are processed at once.
const CONCURRENT_REVOCATIONS: usize = 8;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A gateway that listens but does not serve yet.
pub struct Gateway {
    config: Config,
    listener: TcpListener,
    admin: Admin,
    verifier: Verifier,
    backend_keys: Option<BackendKeys>,
    shutdown: CancellationToken,
}

/// The parts of a running gateway.
struct Wired {
    shared: Arc<Shared>,
    bus: Bus,
    /// The task of the gateway's own connection to NATS, which the other tasks use until they end.
    connection: AbortOnDropHandle<()>,
    endpoints: Endpoints,
    tasks: TaskTracker,
    /// Ends the channels; cancelled once the last socket is closed.
    ended: CancellationToken,
}

impl Gateway {
    /// Checks the configuration and listens on both ports.
    ///
    /// # Errors
    /// If the configuration is invalid or a port is taken.
    pub async fn bind(config: Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        // A browser adds its cookies to the requests of any page, so any page could act for its visitors.
        anyhow::ensure!(
            config.tokens.token_cookie.is_none() || !config.allows_every_origin(),
            "configuration: if TOKEN_COOKIE is set, ALLOWED_ORIGINS must list origins and cannot be *"
        );
        let verifier = Verifier::new(config.tokens.clone())?;
        let backend_keys = BackendKeys::load(&config.backends)?;
        let addr = config.listen_addr();
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("configuration: listen on GATEWAY_ADDR {addr}"))?;
        let admin = Admin::bind(config.admin_addr, telemetry::METRICS, shutdown.clone()).await?;
        Ok(Self { config, listener, admin, verifier, backend_keys, shutdown })
    }

    /// The address of the public port.
    ///
    /// # Errors
    /// If the operating system does not report it.
    pub fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.listener.local_addr().context("read the gateway's address")
    }

    /// The address of `/healthz`, `/readyz` and `/metrics`.
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Waits for NATS, serves clients until the token is cancelled, and then closes their sockets one after the other.
    ///
    /// # Errors
    /// If the configuration is invalid or the NATS client has ended.
    pub async fn run(self) -> anyhow::Result<()> {
        let addr = self.local_addr()?;
        let Self { config, listener, admin, verifier, backend_keys, shutdown } = self;
        let Some(wired) = wire(config, verifier, backend_keys, &shutdown).await? else { return Ok(()) };
        admin.started(checks(&wired));
        tracing::info!(%addr, admin = %admin.addr(), "gateway is up");
        let lost = serve(listener, &wired, &shutdown).await;
        shutdown.cancel();
        drain(wired).await;
        tracing::info!("stopped");
        lost.map_or(Ok(()), Err)
    }
}

/// Creates the parts and connects them. Returns `None` if the token is cancelled first.
async fn wire(
    config: Config,
    verifier: Verifier,
    backend_keys: Option<BackendKeys>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Wired>> {
    let dialer = Dialer::new(&config.nats)?;
    let Some(bus) = Bus::connect("gateway", &config.nats, shutdown).await? else { return Ok(None) };
    let (tasks, ended) = (TaskTracker::new(), CancellationToken::new());
    if let Some(keys) = verifier.key_set() {
        if !keys.start(shutdown).await? {
            return Ok(None);
        }
        tasks.spawn(keys.clone().follow(shutdown.clone()));
    }
    let link = Link::new();
    let hub = follow_events(&bus, &link, &tasks, &ended);
    let connection = AbortOnDropHandle::new(tokio::spawn(link.clone().run(dialer, hub.clone())));
    let limits = Arc::new(Limits::new(&config.limits));
    tasks.spawn(limits.clone().clean_up(ended.clone()));
    let id = format!("{:016x}", fastrand::u64(..));
    let present = (config.presence == Switch::On).then(Arc::<PresentUsers>::default);
    if let Some(present) = &present {
        let reports = Reports::new(bus.clone(), id.clone(), present.clone()).await?;
        tasks.spawn(reports.run(ended.clone()));
        tasks.spawn(hub.presence().clone().compare(ended.clone()));
    }
    let retention = DAY * config.limits.revocation_days;
    let users = Arc::new(Users::new(limits.sockets_per_user, retention, present));
    let revocations = Arc::new(Revocations::new(users.clone(), bus.clone()));
    let endpoints = serve_revocations(&bus, &revocations, &tasks, shutdown).await?;
    if !follow_revocations(revocations, &tasks, &ended, shutdown).await {
        return Ok(None);
    }
    let shared = Arc::new(Shared {
        sends: sends::start(link.clone(), Duration::from_millis(config.send_gather_ms.into()), &tasks),
        typing_inputs: TypingInputs::start(link.clone(), &tasks),
        joins: Joins::start(link, &tasks),
        languages: Languages::start(bus.clone(), &tasks),
        hub,
        signing_key_id: verifier.signing_key_id(),
        verifier,
        backend_keys,
        limits,
        users,
        id,
        presence_people: (config.presence == Switch::On).then_some(config.presence_people.into()),
        allowed_origins: config.allowed_origins,
        outbox_frames: config.outbox_frames as usize,
        outbox_bytes: config.outbox_bytes as usize,
        drain: Duration::from_secs(config.drain_seconds.into()),
        demo: config.demo,
        shutdown: shutdown.clone(),
        sessions: TaskTracker::new(),
    });
    Ok(Some(Wired { shared, bus, connection, endpoints, tasks, ended }))
}

/// Starts the tasks that keep channels complete.
fn follow_events(bus: &Bus, link: &Link, tasks: &TaskTracker, ended: &CancellationToken) -> Arc<Hub> {
    let hub = Arc::new(Hub::new(bus.clone(), link.clone(), tasks.clone(), ended.clone()));
    tasks.spawn(hub.clone().compare());
    tasks.spawn(hub.clone().sweep());
    hub
}

/// Follows revocations, and waits until all existing ones are read, because no client is admitted before that. Returns
/// false if the token is cancelled first.
async fn follow_revocations(
    revocations: Arc<Revocations>,
    tasks: &TaskTracker,
    ended: &CancellationToken,
    shutdown: &CancellationToken,
) -> bool {
    let (read, all_read) = oneshot::channel();
    tasks.spawn(revocations.follow(ended.clone(), move || {
        read.send(()).ok();
    }));
    tokio::select! {
        all_read = all_read => all_read.is_ok(),
        () = shutdown.cancelled() => false,
    }
}

/// The checks of `/readyz`, and the measurements that are taken when the metrics are read.
fn checks(wired: &Wired) -> Checks {
    let Wired { shared, bus, endpoints, .. } = wired;
    let (endpoints_health, waiting) = (endpoints.health(), shared.sends.depth());
    let (probed, measured) = (shared.hub.clone(), shared.hub.clone());
    Checks::default()
        .nats(bus)
        .with("probe", move || {
            let hub = probed.clone();
            async move { hub.probe().await }
        })
        .with("endpoints", move || {
            let health = endpoints_health.clone();
            async move { health.check().await }
        })
        .measuring(move || metrics::gauge!("gateway_sends_waiting").set(waiting() as f64))
        .measuring(move || measured.measure())
}

/// Serves clients until the token is cancelled or the NATS client ends; returns the error in the latter case.
async fn serve(listener: TcpListener, wired: &Wired, shutdown: &CancellationToken) -> Option<anyhow::Error> {
    let router = http::router(wired.shared.clone());
    tokio::select! {
        () = listener::run(listener, router, wired.shared.limits.clone(), shutdown) => None,
        lost = wired.bus.lost() => Some(lost),
    }
}

/// Waits until the sockets are closed and the other tasks are finished.
async fn drain(wired: Wired) {
    let Wired { shared, bus, connection, endpoints, tasks, ended } = wired;
    let (sessions, limit) = (shared.sessions.clone(), shared.drain + DRAIN_GRACE);
    drop(shared);
    boot::wait_for(&sessions, limit, "sockets").await;
    ended.cancel();
    boot::drain(&tasks, TASKS_GRACE, endpoints, &bus).await;
    drop(connection);
}

/// Starts to serve the requests of backends that end a user's sessions.
async fn serve_revocations(
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
