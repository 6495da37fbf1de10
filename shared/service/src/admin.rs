//! The admin port: `/healthz`, `/readyz`, `/metrics`, `/log`, and with the feature `profile` `/debug/pprof/profile`.

use crate::{
    Bus,
    logs::{self, FilterError},
    metrics::{self, Metric},
    postgres,
    process::Process,
};
use anyhow::Context;
use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, routing::get};
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

/// Timeout of one check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);
/// Interval of the aggregation of histogram samples, which does not depend on scrapes.
const AGGREGATION_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum size of a log filter.
const FILTER_BYTES: usize = 4096;
/// Time for which a reply of `/readyz` is reused.
const READYZ_CACHE: Duration = Duration::from_millis(500);

/// The admin port: reports whether the process is alive, whether it is ready, and its metrics; changes its log filter.
///
/// The process is not ready before [`Admin::started`]. After that, it is ready while every check passes.
#[derive(Clone)]
pub struct Admin {
    checks: Arc<RwLock<Option<Checks>>>,
    /// Last reply of `/readyz`. The checks never run concurrently, however many requests there are.
    last: Arc<Mutex<Option<(Instant, Answer)>>>,
    process: Arc<Process>,
    shutdown: CancellationToken,
    addr: SocketAddr,
}

type Answer = (StatusCode, String);

/// The readiness checks of a started service, and the functions that update its gauges before a scrape.
#[derive(Clone, Default)]
pub struct Checks {
    checks: Vec<NamedCheck>,
    measures: Vec<Measure>,
}

impl Checks {
    /// Adds a check of the round trip through NATS, and the metrics of the connection.
    #[must_use]
    pub fn nats(self, bus: &Bus) -> Self {
        let (checked, measured) = (bus.clone(), bus.clone());
        let check = move || {
            let bus = checked.clone();
            async move { bus.round_trip().await }
        };
        self.with("nats", check).measuring(move || measured.measure())
    }

    /// Adds a check of Postgres, and the metrics of the pool.
    #[must_use]
    pub fn postgres(self, pool: &PgPool) -> Self {
        let (checked, measured) = (pool.clone(), pool.clone());
        let check = move || {
            let pool = checked.clone();
            async move { postgres::answers(&pool).await }
        };
        self.with("postgres", check).measuring(move || postgres::measure(&measured))
    }

    /// Adds a check. It fails if it takes more than a few seconds.
    #[must_use]
    pub fn with<F, Fut>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.checks.push((name, Arc::new(move || Box::pin(check()))));
        self
    }

    /// Adds a function that updates gauges before each scrape.
    #[must_use]
    pub fn measuring(mut self, measure: impl Fn() + Send + Sync + 'static) -> Self {
        self.measures.push(Arc::new(measure));
        self
    }
}

impl Admin {
    /// Binds the admin port, and serves it until the process ends, even while the service drains. `measured` lists the
    /// service's own metrics.
    ///
    /// # Errors
    /// If the address can't be bound.
    pub async fn bind(
        addr: SocketAddr,
        measured: &'static [Metric],
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("configuration: listen on ADMIN_ADDR {addr}"))?;
        let addr = listener.local_addr().context("read the admin address")?;
        let process = Arc::new(Process::new());
        let admin = Self { checks: Arc::default(), last: Arc::default(), process, shutdown, addr };
        let recorder = metrics::recorder();
        metrics::describe(measured);
        tokio::spawn(metrics::aggregate(recorder.clone(), AGGREGATION_INTERVAL));
        let (ready, scraped) = (admin.clone(), admin.clone());
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(move || async move { ready.readyz().await }))
            .route(
                "/metrics",
                get(move || async move {
                    scraped.measure();
                    metrics::render(&recorder, measured)
                }),
            )
            .route("/log", get(async || log_answer(logs::filter())).put(change_log))
            .layer(DefaultBodyLimit::max(FILTER_BYTES));
        #[cfg(feature = "profile")]
        let router = router.route("/debug/pprof/profile", get(crate::profile::profile));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the admin port has failed");
            }
        });
        Ok(admin)
    }

    /// Address of the admin port.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Marks the service as started. From now on these checks decide whether it is ready.
    pub fn started(&self, checks: Checks) {
        *self.checks.write().expect("no holder of this lock panics") = Some(checks);
    }

    fn measure(&self) {
        self.process.measure();
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
            && at.elapsed() < READYZ_CACHE
        {
            return answer.clone();
        }
        let answer = checks.run().await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// Replaces the log filter by the body.
async fn change_log(body: String) -> Answer {
    let changed = logs::set_filter(&body);
    if let Ok(filter) = &changed {
        tracing::info!(filter, "the log filter was changed");
    }
    log_answer(changed)
}

/// The present filter, or why there is none.
fn log_answer(filter: Result<String, FilterError>) -> Answer {
    match filter {
        Ok(filter) => (StatusCode::OK, format!("{filter}\n")),
        Err(error @ FilterError::NotStarted) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(error) => {
            (StatusCode::BAD_REQUEST, format!("{error}; a filter is a level or a list: info,gateway=debug\n"))
        }
    }
}

impl Checks {
    async fn run(&self) -> Answer {
        let results = join_all(self.checks.iter().map(async |(name, check)| {
            let checked = timeout(CHECK_TIMEOUT, check()).await;
            (*name, checked.context("the check timed out").flatten())
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
