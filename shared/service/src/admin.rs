//! The admin port: `/healthz`, `/readyz`, `/metrics`.

use anyhow::Context;
use axum::{Router, http::StatusCode, routing::get};
use futures_util::future::{BoxFuture, join_all};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, OnceLock, RwLock},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Check = Arc<dyn Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;
type NamedCheck = (&'static str, Check);

/// Says whether the process runs, whether it does its job, and how much of it.
///
/// Until [`Admin::started`] it is not ready; after that, it is while every check passes.
#[derive(Clone)]
pub struct Admin {
    checks: Arc<RwLock<Option<Vec<NamedCheck>>>>,
    shutdown: CancellationToken,
    addr: SocketAddr,
}

/// The checks of a service that has started.
#[derive(Default)]
pub struct Checks(Vec<NamedCheck>);

impl Checks {
    /// Adds a check. It must end within a few seconds.
    #[must_use]
    pub fn with<F, Fut>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.0.push((name, Arc::new(move || Box::pin(check()))));
        self
    }
}

impl Admin {
    /// Listens, and answers until the process ends, also while the service drains.
    ///
    /// # Errors
    /// When the address can't be had.
    pub async fn bind(addr: SocketAddr, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("configuration: listen on ADMIN_ADDR {addr}"))?;
        let addr = listener.local_addr().context("read the admin address")?;
        let admin = Self { checks: Arc::default(), shutdown, addr };
        let metrics = recorder();
        let ready = admin.clone();
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(move || async move { ready.readyz().await }))
            .route("/metrics", get(move || async move { metrics.render() }));
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
        *self.checks.write().expect("no holder of this lock panics") = Some(checks.0);
    }

    async fn readyz(&self) -> (StatusCode, String) {
        if self.shutdown.is_cancelled() {
            return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
        }
        let checks = self.checks.read().expect("no holder of this lock panics").clone();
        let Some(checks) = checks else {
            return (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned());
        };
        let results = join_all(checks.iter().map(async |(name, check)| (*name, check().await))).await;
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

/// The process's metrics; services that a test runs in one process share them.
fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            // Only fails where a recorder is installed already; then ours shows nothing, and nothing else is wrong.
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed");
            }
            handle
        })
        .clone()
}
