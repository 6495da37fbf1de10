//! Request handlers of a service, through NATS' service API (`nats micro ls`).

use crate::{
    Bus,
    trace::{self, Kind, Span},
    version,
};
use anyhow::Context;
use async_nats::service::{self, Service, ServiceExt, endpoint::Endpoint};
use contract::{Code, Deadline, Refusal, Request, deadline::DEADLINE};
use futures_util::StreamExt;
use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handles requests until the token is cancelled, and then finishes those already received. Keep it until the tasks
/// have ended: dropping it earlier drops requests that have arrived.
pub struct Endpoints {
    service: Service,
    health: EndpointHealth,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Checks whether requests are handled. Cheap to clone.
#[derive(Clone)]
pub struct EndpointHealth {
    bus: Bus,
    /// Subject of this process' own `ping` endpoint.
    own: String,
    /// Subjects with a request that waits for a free handler, and since when.
    full: Arc<Mutex<HashMap<&'static str, Instant>>>,
}

tokio::task_local! {
    static DEADLINE_OF_TASK: Option<Deadline>;
}

/// The deadline of the request that this task handles, if it has one.
pub fn deadline() -> Option<Deadline> {
    DEADLINE_OF_TASK.try_with(|deadline| *deadline).ok().flatten()
}

/// Timeout of the service's request to itself.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// A request that waits for longer than this means that the handlers are stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// A request of the service to itself.
#[derive(serde::Serialize, serde::Deserialize)]
struct Ping;

impl Request for Ping {
    const SUBJECT: &'static str = "ping";
    type Reply = ();
}

impl EndpointHealth {
    /// Checks that a request to this process is answered, and that no request waits for too long.
    ///
    /// # Errors
    /// If either check fails.
    pub async fn check(&self) -> anyhow::Result<()> {
        let reply = self.bus.client().request(self.own.clone(), "null".into());
        timeout(PING_TIMEOUT, reply).await.context("no reply to a request to itself within 2 s")??;
        let full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        match full.iter().find(|(_, since)| since.elapsed() > STUCK_AFTER) {
            Some((subject, since)) => {
                anyhow::bail!("a request on {subject} has waited for {} s", since.elapsed().as_secs())
            }
            None => Ok(()),
        }
    }

    fn set_waiting(&self, subject: &'static str, since: Option<Instant>) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        match since {
            Some(since) => drop(full.insert(subject, since)),
            None => drop(full.remove(subject)),
        }
    }
}

impl Endpoints {
    /// Registers a service. Its replicas share the requests.
    ///
    /// # Errors
    /// If NATS fails.
    pub async fn new(
        bus: &Bus,
        name: &str,
        description: &str,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let service = bus
            .client()
            .service_builder()
            .description(description)
            .start(name, version::VERSION)
            .await
            .map_err(|error| anyhow::anyhow!("register the service with NATS: {error}"))?;
        let own = bus.client().new_inbox();
        let health = EndpointHealth { bus: bus.clone(), own: own.clone(), full: Arc::default() };
        let endpoints = Self { service, health, tasks, shutdown };
        let ping = endpoints.service.endpoint_builder().name("ping").add(own).await;
        let ping = ping.map_err(|error| anyhow::anyhow!("register the ping endpoint: {error}"))?;
        endpoints.start::<Ping, _, _>(ping, 1, async |Ping| Ok(()));
        Ok(endpoints)
    }

    /// Returns the check of whether requests are handled.
    pub fn health(&self) -> EndpointHealth {
        self.health.clone()
    }

    /// Handles requests of type `R`, at most `concurrency` at once. Further ones wait in the subscription.
    ///
    /// # Errors
    /// If NATS fails.
    pub async fn serve<R, F, Fut>(&self, concurrency: usize, answer: F) -> anyhow::Result<()>
    where
        R: Request,
        F: Fn(R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Reply, Refusal>> + Send + 'static,
    {
        let endpoint = self
            .service
            .endpoint(R::SUBJECT)
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(|| format!("register an endpoint on {}", R::SUBJECT))?;
        self.start(endpoint, concurrency, answer);
        Ok(())
    }

    fn start<R, F, Fut>(&self, endpoint: Endpoint, concurrency: usize, answer: F)
    where
        R: Request,
        F: Fn(R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Reply, Refusal>> + Send + 'static,
    {
        let (health, tasks, shutdown) = (self.health.clone(), self.tasks.clone(), self.shutdown.clone());
        self.tasks.spawn(run(endpoint, concurrency, Arc::new(answer), health, tasks, shutdown));
    }
}

async fn run<R, F, Fut>(
    mut endpoint: Endpoint,
    concurrency: usize,
    answer: Arc<F>,
    health: EndpointHealth,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) where
    R: Request,
    F: Fn(R) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R::Reply, Refusal>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(concurrency));
    let mut stopping = false;
    loop {
        let request = tokio::select! {
            request = endpoint.next() => request,
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                if endpoint.stop().await.is_err() {
                    return;
                }
                continue;
            }
        };
        let Some(request) = request else { return };
        let headers = request.message.headers.as_ref();
        let deadline = headers.and_then(|headers| headers.get(DEADLINE)?.as_str().parse::<Deadline>().ok());
        if is_late::<R>(deadline) {
            continue;
        }
        let permit = match permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                metrics::counter!("nats_requests_delayed_total", "subject" => R::SUBJECT).increment(1);
                health.set_waiting(R::SUBJECT, Some(Instant::now()));
                let permit = permits.clone().acquire_owned().await.expect("this semaphore is never closed");
                health.set_waiting(R::SUBJECT, None);
                permit
            }
        };
        if is_late::<R>(deadline) {
            continue;
        }
        let answer = answer.clone();
        let span = if R::PUBLIC {
            Span::caused_by(headers, R::SUBJECT, Kind::Server)
        } else {
            Span::under(trace::parent_in(headers), R::SUBJECT, Kind::Server)
        };
        tasks.spawn(span.within(async move {
            let started = Instant::now();
            let outcome = match in_time(deadline, decode(&request, &*answer)).await {
                Some(answered) => {
                    let outcome = if answered.is_ok() { "done" } else { "refused" };
                    respond(&request, answered).await;
                    outcome
                }
                None => "late",
            };
            metrics::histogram!("nats_request_duration_seconds", "subject" => R::SUBJECT, "outcome" => outcome)
                .record(started.elapsed().as_secs_f64());
            drop(permit);
        }));
    }
}

/// Whether the deadline has passed. The request is then dropped, because its requester has already reported a failure.
fn is_late<R: Request>(deadline: Option<Deadline>) -> bool {
    let is_late = deadline.is_some_and(Deadline::is_past);
    if is_late {
        metrics::counter!("nats_requests_late_total", "subject" => R::SUBJECT).increment(1);
        tracing::debug!(subject = R::SUBJECT, "dropped a request whose deadline has passed");
    }
    is_late
}

/// Runs a handler until its deadline; `None` if it doesn't finish in time.
async fn in_time<T>(deadline: Option<Deadline>, answer: impl Future<Output = T>) -> Option<T> {
    let answer = DEADLINE_OF_TASK.scope(deadline, answer);
    match deadline {
        Some(deadline) => timeout(deadline.remaining(), answer).await.ok(),
        None => Some(answer.await),
    }
}

async fn decode<R, F, Fut>(request: &service::Request, answer: &F) -> Result<R::Reply, Refusal>
where
    R: Request,
    F: Fn(R) -> Fut,
    Fut: Future<Output = Result<R::Reply, Refusal>>,
{
    let decoded = serde_json::from_slice(&request.message.payload)
        .map_err(|error| Refusal::new(Code::InvalidRequest, format!("can't decode the payload: {error}")))?;
    answer(decoded).await
}

async fn respond<T: serde::Serialize>(request: &service::Request, answer: Result<T, Refusal>) {
    let response = answer
        .and_then(|answer| {
            serde_json::to_vec(&answer).map_err(|error| {
                tracing::error!(%error, "can't encode a reply");
                Refusal::internal()
            })
        })
        .map_err(|refusal| service::error::Error {
            code: usize::from(refusal.code.status()),
            status: refusal.header(),
        });
    // A request without a reply subject expects no reply.
    if let Err(error) = request.respond(response.map(Into::into)).await {
        tracing::debug!(%error, "can't reply to a request");
    }
}
