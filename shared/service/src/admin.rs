//! The admin port: `/healthz`, `/readyz`, `/metrics`.

use crate::{
    Bus, files,
    metrics::{self, Metric},
    postgres,
};
use anyhow::Context;
use axum::{Router, http::StatusCode, routing::get};
use futures_util::future::{BoxFuture, join_all};
use sqlx::PgPool;
use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

type Check = Arc<dyn Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;
type NamedCheck = (&'static str, Check);
type Measure = Arc<dyn Fn() + Send + Sync>;

/// How long one check may take.
const CHECK: Duration = Duration::from_secs(4);
/// How often the samples of histograms are aggregated, whether or not anyone reads the metrics.
const AGGREGATE: Duration = Duration::from_secs(5);
/// How long an answer stands: whoever asks again sooner is told the same.
const STANDS: Duration = Duration::from_millis(500);

/// Says whether the process runs, whether it does its job, and how much of it.
///
/// Until [`Admin::started`] it is not ready; after that, it is while every check passes.
#[derive(Clone)]
pub struct Admin {
    checks: Arc<RwLock<Option<Checks>>>,
    /// The last answer of `/readyz`. However many ask at once, the checks run once at a time.
    last: Arc<Mutex<Option<(Instant, Answer)>>>,
    shutdown: CancellationToken,
    addr: SocketAddr,
}

type Answer = (StatusCode, String);

/// The checks of a service that has started, and what it measures when it is asked for its metrics.
#[derive(Clone, Default)]
pub struct Checks {
    checks: Vec<NamedCheck>,
    measures: Vec<Measure>,
}

impl Checks {
    /// Whether NATS brings back what this process publishes, and how much goes over it.
    #[must_use]
    pub fn nats(self, bus: &Bus) -> Self {
        let (asked, measured) = (bus.clone(), bus.clone());
        let check = move || {
            let bus = asked.clone();
            async move { bus.round_trip().await }
        };
        self.with("nats", check).measuring(move || measured.measure())
    }

    /// Whether Postgres answers, and how many connections to it there are.
    #[must_use]
    pub fn postgres(self, pool: &PgPool) -> Self {
        let (asked, measured) = (pool.clone(), pool.clone());
        let check = move || {
            let pool = asked.clone();
            async move { postgres::answers(&pool).await }
        };
        self.with("postgres", check).measuring(move || postgres::measure(&measured))
    }

    /// Adds a check; one that takes more than a few seconds has failed.
    #[must_use]
    pub fn with<F, Fut>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.checks.push((name, Arc::new(move || Box::pin(check()))));
        self
    }

    /// Adds gauges that are set whenever the metrics are asked for.
    #[must_use]
    pub fn measuring(mut self, measure: impl Fn() + Send + Sync + 'static) -> Self {
        self.measures.push(Arc::new(measure));
        self
    }
}

impl Admin {
    /// Listens, and answers until the process ends, also while the service drains. `measured` is what the service has of its own.
    ///
    /// # Errors
    /// When the address can't be had.
    pub async fn bind(
        addr: SocketAddr,
        measured: &[Metric],
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("configuration: listen on ADMIN_ADDR {addr}"))?;
        let addr = listener.local_addr().context("read the admin address")?;
        let admin = Self { checks: Arc::default(), last: Arc::default(), shutdown, addr };
        let recorder = metrics::recorder();
        metrics::describe(measured);
        tokio::spawn(metrics::aggregate(recorder.clone(), AGGREGATE));
        let (ready, asked) = (admin.clone(), admin.clone());
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(move || async move { ready.readyz().await }))
            .route(
                "/metrics",
                get(move || async move {
                    asked.measure();
                    recorder.render()
                }),
            );
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the admin port failed");
            }
        });
        Ok(admin)
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The service has started; from now on these checks say whether it is ready.
    pub fn started(&self, checks: Checks) {
        *self.checks.write().expect("no holder of this lock panics") = Some(checks);
    }

    fn measure(&self) {
        files::measure();
        let checks = self.checks.read().expect("no holder of this lock panics").clone();
        for measure in checks.iter().flat_map(|checks| &checks.measures) {
            measure();
        }
    }

    async fn readyz(&self) -> Answer {
        if self.shutdown.is_cancelled() {
            return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
        }
        let checks = self.checks.read().expect("no holder of this lock panics").clone();
        let Some(checks) = checks else {
            return (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned());
        };
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < STANDS
        {
            return answer.clone();
        }
        let answer = checks.run().await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

impl Checks {
    async fn run(&self) -> Answer {
        let results = join_all(self.checks.iter().map(async |(name, check)| {
            let checked = timeout(CHECK, check()).await;
            (*name, checked.context("it takes too long").flatten())
        }))
        .await;
        let mut status = StatusCode::OK;
        let mut text = String::new();
        for (name, result) in results {
            match result {
                Ok(()) => text += &format!("{name}: ok\n"),
                Err(error) => {
                    status = StatusCode::SERVICE_UNAVAILABLE;
                    text += &format!("{name}: {error:#}\n");
                }
            }
        }
        (status, text)
    }
}
