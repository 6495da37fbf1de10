//! Users' inboxes: events of other backends and chat messages become notifications.
//!
//! An event that JetStream has acknowledged becomes one notification for each of its users, or one dead letter. An
//! inbox is a log like a conversation: its `seq` has no gaps, even if several replicas write it.

mod api;
#[cfg(any(test, feature = "bench"))]
pub mod bench;
pub mod catalogue;
mod chat_events;
mod config;
mod consumer;
mod consumer_health;
mod deadletter;
mod erasure;
pub mod event;
mod fetch;
mod inboxes;
mod message_ops;
mod pace;
mod plan;
mod raw_message;
mod rescue;
mod retention;
mod store;
mod streams;
mod telemetry;
mod unreadable;
mod webhooks;

pub use config::{Config, Webhooks};

use anyhow::Context;
use catalogue::Catalogue;
use chat_events::ChatEvents;
use consumer::Consumer;
use consumer_health::ConsumerHealth;
use inboxes::Inboxes;
use service::{Admin, Bus, Endpoints, admin::Checks, postgres, streams::StreamsHealth};
use sqlx::migrate::Migrator;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use streams::Source;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

static MIGRATIONS: Migrator = sqlx::migrate!();
/// Time that a stop waits for batches in progress.
const DRAIN: Duration = Duration::from_secs(20);

/// A notify-service that is bound to its admin port but doesn't run yet.
pub struct NotifyService {
    config: Config,
    catalogue: watch::Sender<Arc<Catalogue>>,
    endpoints: Vec<webhooks::Endpoint>,
    admin: Admin,
}

impl NotifyService {
    /// Loads the catalogue and listens on the admin port. Doesn't connect to other servers yet.
    ///
    /// # Errors
    /// If either fails.
    pub async fn bind(config: Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let catalogue =
            Catalogue::load(config.catalogue_dir.as_deref()).context("configuration: CATALOGUE_DIR")?;
        let catalogue = watch::Sender::new(Arc::new(catalogue));
        let endpoints = webhooks::load(&config.webhooks)?;
        let admin = Admin::bind(config.admin_addr, telemetry::METRICS, shutdown).await?;
        Ok(Self { config, catalogue, endpoints, admin })
    }

    /// Address that serves `/healthz`, `/readyz` and `/metrics`.
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Waits for NATS and Postgres, consumes and serves until the token is cancelled, and finishes batches in progress.
    ///
    /// # Errors
    /// If the configuration is invalid, or the NATS client has ended.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
        let Some(bus) = Bus::connect("notify-service", &self.config.nats, &shutdown).await? else {
            return Ok(());
        };
        let Some(pool) =
            postgres::open("notify", &MIGRATIONS, &postgres::PLANS, &self.config.database, &shutdown).await?
        else {
            return Ok(());
        };
        let mut streams = vec![streams::events(), streams::deadletters(), service::streams::chat_log()];
        if !self.endpoints.is_empty() || !self.config.optional_events.is_empty() {
            streams.push(service::streams::events_out());
        }
        for stream in &streams {
            service::streams::ensure(&bus, stream.clone(), &shutdown).await;
        }
        let tasks = TaskTracker::new();
        let streams_health = StreamsHealth::default();
        tasks.spawn(service::streams::maintain(
            bus.clone(),
            streams,
            streams_health.clone(),
            shutdown.clone(),
        ));
        let inboxes = Inboxes::new(pool.clone(), bus.clone(), self.catalogue.subscribe());
        let streams_health = move || std::future::ready(streams_health.check());
        let mut checks = Checks::default().nats(&bus).postgres(&pool).with("streams", streams_health);
        let Config { optional_events, tell_text, .. } = &self.config;
        let mut chat_events = ChatEvents::start(&bus, optional_events, *tell_text, &tasks);
        for source in [Source::Events, Source::Chat] {
            let chat_events = chat_events.take_if(|_| source == Source::Chat);
            let health = consume(source, &bus, &inboxes, chat_events, &tasks, &shutdown);
            checks = checks.with(source.name(), move || std::future::ready(health.check()));
        }
        let schedule = webhooks::Schedule::default();
        webhooks::start(&bus, self.endpoints, &schedule, &tasks, &shutdown)?;
        let days = self.config.notification_retention_days;
        tasks.spawn(retention::run(inboxes.clone(), days, shutdown.clone()));
        let folder = self.config.catalogue_dir.clone();
        tasks.spawn(reload(hangup, folder, self.catalogue, shutdown.clone()));
        let description = "users' inboxes";
        let endpoints = Endpoints::new(&bus, "notify", description, tasks.clone(), shutdown.clone()).await?;
        api::serve(&endpoints, &inboxes).await?;
        let endpoints_health = endpoints.health();
        self.admin.started(checks.with("endpoints", move || {
            let health = endpoints_health.clone();
            async move { health.check().await }
        }));
        tracing::info!("ready");
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            lost = bus.lost() => Err(lost),
        };
        shutdown.cancel();
        // NATS redelivers the messages of batches that do not finish in time.
        service::boot::drain(&tasks, DRAIN, endpoints, &bus).await;
        pool.close().await;
        ended
    }
}

/// Starts to consume a stream and to monitor the consumer.
fn consume(
    source: Source,
    bus: &Bus,
    inboxes: &Inboxes,
    chat_events: Option<ChatEvents>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Arc<ConsumerHealth> {
    let health = Arc::new(ConsumerHealth::new(source));
    let consumer = Consumer::new(
        source,
        bus,
        inboxes.with_own_connection(),
        chat_events,
        health.clone(),
        shutdown.clone(),
    );
    tasks.spawn(consumer.run());
    let (watched, bus, shutdown) = (health.clone(), bus.clone(), shutdown.clone());
    tasks.spawn(async move { watched.watch(&bus, shutdown).await });
    health
}

/// Reloads the catalogue on SIGHUP. If it is invalid, the old one stays.
async fn reload(
    mut hangup: Signal,
    folder: Option<PathBuf>,
    catalogue: watch::Sender<Arc<Catalogue>>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            Some(()) = hangup.recv() => {}
            () = shutdown.cancelled() => return,
        }
        match Catalogue::load(folder.as_deref()) {
            Ok(fresh) => {
                catalogue.send_replace(Arc::new(fresh));
                tracing::info!("reloaded the catalogue");
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "reload the catalogue; the old one stays");
            }
        }
    }
}

/// Migrates the schema `notify` without running the service.
///
/// # Errors
/// See [`postgres::migrate_only`].
pub async fn migrate(config: &Config, shutdown: &CancellationToken) -> anyhow::Result<()> {
    postgres::migrate_only("notify", &MIGRATIONS, &config.database, shutdown).await
}
