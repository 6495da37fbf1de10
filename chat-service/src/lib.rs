//! Conversations: the only reader and writer of the chat tables.
//!
//! Path of a message: `lanes` queues the messages that arrive while a batch is in progress, `store` commits the next
//! batch, and `outbox` publishes it to the gateways and notify-service. Only then the sender gets its reply.

mod api;
mod changes;
mod config;
mod erasures;
mod error;
mod export;
mod joins;
pub mod kinds;
mod lanes;
mod listing;
mod outbox;
mod pace;
mod reports;
mod retention;
mod soft_state;
mod store;
mod telemetry;

pub use config::{Config, ConversationsBy};

use anyhow::Context;
use api::{Api, Rules, SystemUser};
use changes::{Changes, Times};
use erasures::Erasures;
use kinds::{Loader, Source};
use outbox::EventRules;
use retention::Days;
use service::{Admin, Bus, admin::Checks, config::OptionalEvent, postgres, streams::StreamsHealth};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// A chat service that is bound to its admin port but doesn't run yet.
pub struct ChatService {
    config: Config,
    kinds: Loader,
    admin: Admin,
    shutdown: CancellationToken,
}

impl ChatService {
    /// Loads the kinds of messages and listens on the admin port.
    ///
    /// # Errors
    /// If either fails.
    pub async fn bind(config: Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let source = Source { folder: config.kinds_dir.clone(), lang: config.kinds_lang.clone() };
        let kinds = Loader::new(source).context("configuration: KINDS_DIR")?;
        let admin = Admin::bind(config.admin_addr, telemetry::METRICS, shutdown.clone()).await?;
        Ok(Self { config, kinds, admin, shutdown })
    }

    /// Address that serves `/readyz`.
    pub const fn admin_addr(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// Waits for NATS and Postgres, serves requests until the token is cancelled, and finishes those in progress.
    ///
    /// # Errors
    /// If the configuration is invalid, or the NATS client has ended.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { config, kinds, admin, shutdown } = self;
        // Before anything else: until then, this signal ends the process.
        let hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
        let Some(bus) = Bus::connect("chat-service", &config.nats, &shutdown).await? else { return Ok(()) };
        let Some(pool) = postgres::open("chat", &MIGRATIONS, &[], &config.database, &shutdown).await? else {
            return Ok(());
        };
        let streams = vec![service::streams::chat_log(), service::streams::events_out()];
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
        let is_wanted = |event| config.optional_events.contains(&event);
        let publishes_changes = is_wanted(OptionalEvent::Changed);
        let publishes_openings = is_wanted(OptionalEvent::Opened);
        let current_kinds = kinds.current();
        tasks.spawn(kinds.reload(hangup, shutdown.clone()));
        let events = EventRules { publishes_changes, publishes_openings, kinds: current_kinds.clone() };
        let outbox = outbox::start(bus.clone(), pool.clone(), events, &tasks, shutdown.clone());
        let lanes = lanes::start(usize::from(config.lanes), &pool, &outbox, &tasks);
        let joins = joins::start(&pool, &tasks);
        let outbox_health = outbox.health();
        let queues = queue_depths(&lanes, &outbox);
        let Config { edit_seconds, delete_seconds, version_days, system_user_id, system_username, .. } =
            config;
        let times = Times { edit_seconds, delete_seconds, version_days };
        let changes = Changes::new(pool.clone(), outbox.clone(), current_kinds.clone(), times);
        let days = Days { messages: config.message_days, reports: config.report_days };
        tasks.spawn(retention::run(pool.clone(), outbox.clone(), days, shutdown.clone()));
        let erasures = Erasures { bus: bus.clone(), pool: pool.clone(), outbox: outbox.clone() };
        tasks.spawn(erasures.clone().run(shutdown.clone()));
        let rules = Rules {
            kinds: current_kinds,
            system_user: system_user_id.map(|user_id| SystemUser { user_id, username: system_username }),
            conversations_by: config.conversations_by,
        };
        let api = Arc::new(Api {
            bus: bus.clone(),
            pool: pool.clone(),
            lanes,
            joins,
            outbox,
            changes,
            erasures,
            rules,
        });
        let endpoints = api::serve(&api, &bus, &tasks, &shutdown).await?;
        drop(api);

        let endpoints_health = endpoints.health();
        admin.started(
            Checks::default()
                .nats(&bus)
                .postgres(&pool)
                .with("outbox", move || std::future::ready(outbox_health.check()))
                .with("streams", move || std::future::ready(streams_health.check()))
                .with("endpoints", move || {
                    let health = endpoints_health.clone();
                    async move { health.check().await }
                })
                .measuring(queues),
        );
        tracing::info!(admin = %admin.addr(), "chat-service is up");

        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            lost = bus.lost() => Err(lost),
        };
        shutdown.cancel();
        service::boot::drain(&tasks, DRAIN, endpoints, &bus).await;
        pool.close().await;
        tracing::info!("stopped");
        ended
    }
}

/// Time that a stop waits for requests in progress.
const DRAIN: Duration = Duration::from_secs(15);

/// Name and description of this service in `nats micro ls`.
const SERVICE: (&str, &str) = ("chat", "conversations: stores messages and keeps their order");

/// Returns a function that sets the gauges of queue depths. It keeps none of the queues open.
fn queue_depths(lanes: &lanes::Lanes, outbox: &outbox::Outbox) -> impl Fn() + Send + Sync + use<> {
    let (lanes, pending) = (lanes.depth(), outbox.depth());
    move || {
        metrics::gauge!("chat_lanes_waiting_messages").set(lanes() as f64);
        metrics::gauge!("chat_outbox_waiting_commits").set(pending() as f64);
    }
}

/// Migrates the schema `chat` without running the service.
///
/// # Errors
/// See [`postgres::migrate_only`].
pub async fn migrate(config: &Config, shutdown: &CancellationToken) -> anyhow::Result<()> {
    postgres::migrate_only("chat", &MIGRATIONS, &config.database, shutdown).await
}
