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
mod decision;
mod erasure;
pub mod event;
mod fetch;
mod inboxes;
mod message_ops;
mod ops;
mod outbox;
mod pace;
mod plan;
mod preferences;
mod presence;
mod presence_events;
mod quiet;
mod raw_message;
mod reminders;
mod rescue;
mod retention;
mod settled;
mod steps;
mod store;
mod streams;
mod telemetry;
mod unreadable;
mod webhooks;

pub use config::{Config, PresenceDefault, Webhooks};
pub use steps::{Step, Steps};

use anyhow::Context;
use catalogue::Catalogue;
use chat_events::Wanted;
use consumer::Consumer;
use consumer_health::ConsumerHealth;
use inboxes::Inboxes;
use outbox::Outbox;
use presence::PresenceStore;
use service::{
    Admin, Bus, Endpoints, Presence,
    admin::Checks,
    config::{OptionalEvent, Switch},
    postgres,
    streams::StreamsHealth,
};
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
        let steps = self.config.reminders.clone();
        if !self.endpoints.is_empty() || !self.config.optional_events.is_empty() || !steps.is_empty() {
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
        let inboxes = Inboxes::new(pool.clone(), bus.clone(), self.catalogue.subscribe())
            .with_steps(steps)
            .with_hides_by_default(self.config.presence_default == PresenceDefault::Hidden);
        let streams_health = move || std::future::ready(streams_health.check());
        let mut checks = Checks::default().nats(&bus).postgres(&pool).with("streams", streams_health);
        let wanted = Wanted::of(&self.config.optional_events, self.config.tell_text);
        let outbox = Outbox::start(&inboxes, wanted, &tasks, &shutdown);
        for source in [Source::Events, Source::Chat] {
            let health = consume(source, &bus, &inboxes, wanted, &tasks, &shutdown);
            checks = checks.with(source.name(), move || std::future::ready(health.check()));
        }
        let schedule = webhooks::Schedule::default();
        let webhooks = webhooks::start(&bus, self.endpoints, &schedule, &tasks, &shutdown)?;
        checks = checks.with("webhooks", move || std::future::ready(webhooks.check()));
        let days = self.config.notification_retention_days;
        tasks.spawn(retention::run(inboxes.clone(), days, shutdown.clone()));
        let present = match self.config.presence {
            Switch::On => Some(Presence::follow(&bus, &tasks, shutdown.clone()).await?),
            Switch::Off => None,
        };
        if !inboxes.steps().is_empty() {
            tasks.spawn(reminders::run(inboxes.clone(), present.clone(), shutdown.clone()));
        }
        let is_told = self.config.optional_events.contains(&OptionalEvent::Presence);
        let told = is_told.then_some(outbox);
        let presences = PresenceStore::new(inboxes.clone(), present.clone(), told);
        tasks.spawn(presences.clone().forget_undecided(shutdown.clone()));
        if let Some(present) = present {
            if is_told {
                let (presences, present) = (presences.clone(), present.clone());
                tasks.spawn(presence_events::run(presences, present, shutdown.clone()));
            }
            tasks.spawn(presences.clone().store_seen(present, shutdown.clone()));
        }
        let folder = self.config.catalogue_dir.clone();
        tasks.spawn(reload(hangup, folder, self.catalogue, shutdown.clone()));
        let description = "users' inboxes";
        let endpoints = Endpoints::new(&bus, "notify", description, tasks.clone(), shutdown.clone()).await?;
        api::serve(&endpoints, &inboxes, &presences).await?;
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
    wanted: Wanted,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Arc<ConsumerHealth> {
    let health = Arc::new(ConsumerHealth::new(source));
    let consumer =
        Consumer::new(source, bus, inboxes.with_own_connection(), wanted, health.clone(), shutdown.clone());
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
