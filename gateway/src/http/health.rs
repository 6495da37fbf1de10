//! `GET /healthz` on the public port, for load balancers and for platforms with one port.
//!
//! It fails only if this gateway should receive no connections: during a stop, or if it alone cannot deliver events. An outage
//! of NATS affects all gateways, so it does not fail the check; otherwise a load balancer would remove them all at once.

use crate::{http::problem::Problem, state::Shared};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// How long a result is reused, so that clients cannot make the gateway publish probes without limit.
const CACHE: Duration = Duration::from_secs(1);

/// The last result. Probes never run concurrently.
#[derive(Default)]
struct Health(Mutex<Option<(Instant, bool)>>);

impl Health {
    /// Whether this gateway can deliver events, or NATS does not reply either.
    async fn delivers(&self, shared: &Shared) -> bool {
        let mut last = self.0.lock().await;
        if let Some((at, delivers)) = *last
            && at.elapsed() < CACHE
        {
            return delivers;
        }
        // At the same time, so that a check takes at most 2 s.
        let (probe, nats) = tokio::join!(shared.hub.probe(), shared.hub.bus().round_trip());
        let delivers = probe.is_ok() || nats.is_err();
        if let (Err(error), Ok(())) = (probe, nats) {
            tracing::warn!(error = format!("{error:#}"), "only this gateway does not receive events");
        }
        *last = Some((Instant::now(), delivers));
        delivers
    }
}

/// The route of the check.
pub fn router() -> Router<Arc<Shared>> {
    let health = Arc::new(Health::default());
    Router::new().route("/healthz", get(async move |State(shared)| healthz(&health, &shared).await))
}

async fn healthz(health: &Health, shared: &Arc<Shared>) -> Response {
    let detail = if shared.shutdown.is_cancelled() {
        "the gateway is stopping"
    } else if health.delivers(shared).await {
        return ([(header::CACHE_CONTROL, "no-store")], "ok\n").into_response();
    } else {
        "the gateway does not receive events"
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).into_response()
}
