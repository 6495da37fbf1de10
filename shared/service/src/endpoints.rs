//! The requests that a service answers, through NATS' service API (`nats micro ls`).

use crate::{
    Bus,
    trace::{self, Kind, Span},
};
use anyhow::Context;
use async_nats::service::{self, Service, ServiceExt, endpoint::Endpoint};
use contract::{Code, Refusal, Request};
use futures_util::StreamExt;
use std::{future::Future, sync::Arc};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Answers requests until the token is cancelled, and those already taken after that. To be kept until the tasks have
/// ended: dropped earlier, it drops requests that have arrived.
pub struct Endpoints {
    service: Service,
    tasks: TaskTracker,
    shutdown: CancellationToken,
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
        Ok(Self { service, tasks, shutdown })
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
        let (tasks, shutdown) = (self.tasks.clone(), self.shutdown.clone());
        self.tasks.spawn(run(endpoint, concurrency, Arc::new(answer), tasks, shutdown));
        Ok(())
    }
}

async fn run<R, F, Fut>(
    mut endpoint: Endpoint,
    concurrency: usize,
    answer: Arc<F>,
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
        let permit = permits.clone().acquire_owned().await.expect("this semaphore is never closed");
        let answer = answer.clone();
        let headers = request.message.headers.as_ref();
        let span = if R::PUBLIC {
            Span::caused_by(headers, R::SUBJECT, Kind::Server)
        } else {
            Span::under(trace::parent_in(headers), R::SUBJECT, Kind::Server)
        };
        tasks.spawn(span.within(async move {
            respond(&request, decode(&request, &*answer).await).await;
            drop(permit);
        }));
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
