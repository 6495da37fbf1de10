//! The requests that a service answers, through NATS' service API (`nats micro ls`).

use crate::{
    Bus,
    trace::{self, Kind, Span},
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

/// Answers requests until the token is cancelled, and those already taken after that. To be kept until the tasks have
/// ended: dropped earlier, it drops requests that have arrived.
pub struct Endpoints {
    service: Service,
    pulse: Pulse,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Whether requests are answered. Cheap to clone.
#[derive(Clone)]
pub struct Pulse {
    bus: Bus,
    /// Where this very process answers, as it answers requests.
    own: String,
    /// The subjects of which a request waits for others to be done, and since when.
    full: Arc<Mutex<HashMap<&'static str, Instant>>>,
}

tokio::task_local! {
    static CURRENT: Option<Deadline>;
}

/// The deadline of the request that this task answers, if it has one.
pub fn deadline() -> Option<Deadline> {
    CURRENT.try_with(|deadline| *deadline).ok().flatten()
}

/// How long its own request may take to be answered.
const ANSWER: Duration = Duration::from_secs(2);
/// Requests that wait for longer wait for what does not end.
const STUCK: Duration = Duration::from_secs(10);

/// A service's request to itself.
#[derive(serde::Serialize, serde::Deserialize)]
struct Ping;

impl Request for Ping {
    const SUBJECT: &'static str = "ping";
    type Reply = ();
}

impl Pulse {
    /// Whether a request to this process is answered, and none waits for ever.
    ///
    /// # Errors
    /// When it isn't, or one does.
    pub async fn check(&self) -> anyhow::Result<()> {
        let asked = self.bus.client().request(self.own.clone(), "null".into());
        timeout(ANSWER, asked).await.context("its own request is not answered within 2 s")??;
        let full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        match full.iter().find(|(_, since)| since.elapsed() > STUCK) {
            Some((subject, since)) => {
                anyhow::bail!("requests on {subject} wait for {} s", since.elapsed().as_secs())
            }
            None => Ok(()),
        }
    }

    fn waits(&self, subject: &'static str, since: Option<Instant>) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        match since {
            Some(since) => drop(full.insert(subject, since)),
            None => drop(full.remove(subject)),
        }
    }
}

impl Endpoints {
    /// Announces a service. Its replicas share the requests.
    ///
    /// # Errors
    /// When NATS can't be asked.
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
            .start(name, env!("CARGO_PKG_VERSION"))
            .await
            .map_err(|error| anyhow::anyhow!("announce the service to NATS: {error}"))?;
        let own = bus.client().new_inbox();
        let pulse = Pulse { bus: bus.clone(), own: own.clone(), full: Arc::default() };
        let endpoints = Self { service, pulse, tasks, shutdown };
        let ping = endpoints.service.endpoint_builder().name("ping").add(own).await;
        let ping = ping.map_err(|error| anyhow::anyhow!("listen to its own requests: {error}"))?;
        endpoints.start::<Ping, _, _>(ping, 1, async |Ping| Ok(()));
        Ok(endpoints)
    }

    /// What says whether requests are answered.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Answers `R`, at most `concurrency` at once; further ones wait in the subscription.
    ///
    /// # Errors
    /// When NATS can't be asked.
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
            .with_context(|| format!("listen on {}", R::SUBJECT))?;
        self.start(endpoint, concurrency, answer);
        Ok(())
    }

    fn start<R, F, Fut>(&self, endpoint: Endpoint, concurrency: usize, answer: F)
    where
        R: Request,
        F: Fn(R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Reply, Refusal>> + Send + 'static,
    {
        let (pulse, tasks, shutdown) = (self.pulse.clone(), self.tasks.clone(), self.shutdown.clone());
        self.tasks.spawn(run(endpoint, concurrency, Arc::new(answer), pulse, tasks, shutdown));
    }
}

async fn run<R, F, Fut>(
    mut endpoint: Endpoint,
    concurrency: usize,
    answer: Arc<F>,
    pulse: Pulse,
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
                pulse.waits(R::SUBJECT, Some(Instant::now()));
                let permit = permits.clone().acquire_owned().await.expect("this semaphore is never closed");
                pulse.waits(R::SUBJECT, None);
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
            let received = Instant::now();
            let outcome = match in_time(deadline, decode(&request, &*answer)).await {
                Some(answered) => {
                    let outcome = if answered.is_ok() { "done" } else { "refused" };
                    respond(&request, answered).await;
                    outcome
                }
                None => "late",
            };
            metrics::histogram!("nats_request_duration_seconds", "subject" => R::SUBJECT, "outcome" => outcome)
                .record(received.elapsed().as_secs_f64());
            drop(permit);
        }));
    }
}

/// Whether the requester has given up. The request is then dropped: it was reported as not done.
fn is_late<R: Request>(deadline: Option<Deadline>) -> bool {
    let is_late = deadline.is_some_and(Deadline::is_past);
    if is_late {
        metrics::counter!("nats_requests_late_total", "subject" => R::SUBJECT).increment(1);
        tracing::debug!(subject = R::SUBJECT, "dropped a request whose deadline has passed");
    }
    is_late
}

/// Answers a request within its deadline, or not at all.
async fn in_time<T>(deadline: Option<Deadline>, answer: impl Future<Output = T>) -> Option<T> {
    let answer = CURRENT.scope(deadline, answer);
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
    let question = serde_json::from_slice(&request.message.payload)
        .map_err(|error| Refusal::new(Code::InvalidRequest, format!("the payload can't be read: {error}")))?;
    answer(question).await
}

async fn respond<T: serde::Serialize>(request: &service::Request, answer: Result<T, Refusal>) {
    let response = answer
        .and_then(|answer| {
            serde_json::to_vec(&answer).map_err(|error| {
                tracing::error!(%error, "encode an answer");
                Refusal::new(Code::Internal, "a fault of the server")
            })
        })
        .map_err(|refusal| service::error::Error {
            code: usize::from(refusal.code.status()),
            status: refusal.header(),
        });
    // Without a reply subject nobody waits for it.
    if let Err(error) = request.respond(response.map(Into::into)).await {
        tracing::debug!(%error, "a request can't be answered");
    }
}
