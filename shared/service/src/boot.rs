//! The common `main` of all services: boot, run, exit code.

use crate::{
    Bus, Endpoints,
    bus::chain,
    config::{self, Telemetry},
    files, logs, metrics, panics, trace,
};
use anyhow::Context;
use std::{env, future::Future, num::NonZeroUsize, process::ExitCode, thread, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Number of worker threads of a service, unless `TOKIO_WORKER_THREADS` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One thread. Such a service mostly waits for Postgres and NATS, so the idle search of a second thread costs more
    /// than it gains.
    One,
    /// One thread for each processor.
    PerProcessor,
}

/// Variable with a number of worker threads.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// Implements a service's `main`: reads the configuration, starts logs and traces, and runs the service until SIGTERM
/// or SIGINT cancels the token. Returns the exit code: 0 after a clean stop, 2 for an invalid configuration, 1
/// otherwise.
pub fn main<C, F>(workers: Workers, run: impl FnOnce(C, CancellationToken) -> F) -> ExitCode
where
    C: clap::Parser + AsRef<Telemetry>,
    F: Future<Output = anyhow::Result<()>>,
{
    let config = match config::read::<C>(std::env::args_os()) {
        Ok(config) => config,
        Err(exit) => return exit.print(),
    };
    match boot(C::command().get_name(), workers, config, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line in either case: the filter may drop errors, or logs may not have started yet.
            let error = chain(error.as_ref());
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!(error, "stopped because of an error");
            } else {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn boot<C, F>(
    name: &str,
    workers: Workers,
    config: C,
    run: impl FnOnce(C, CancellationToken) -> F,
) -> anyhow::Result<()>
where
    C: AsRef<Telemetry>,
    F: Future<Output = anyhow::Result<()>>,
{
    logs::start(config.as_ref())?;
    panics::count();
    files::raise_limit();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(worker_threads(workers)?.get());
    let runtime = runtime.enable_all().build().context("start the runtime")?;
    metrics::identify(name);
    // Dropped before the runtime, which sends the last spans.
    let _tracing = trace::export::start(name, config.as_ref(), runtime.handle())?;
    runtime.block_on(async {
        let shutdown = on_signal()?;
        run(config, shutdown).await
    })
}

/// Number of worker threads. tokio itself would panic if the variable is empty or no number.
fn worker_threads(workers: Workers) -> anyhow::Result<NonZeroUsize> {
    if let Some(threads) = env::var_os(WORKER_THREADS).filter(|threads| !threads.is_empty()) {
        let number = threads.to_str().and_then(|threads| threads.parse().ok());
        return number.with_context(|| format!("{WORKER_THREADS} must be a number of threads"));
    }
    Ok(match workers {
        Workers::One => NonZeroUsize::MIN,
        Workers::PerProcessor => thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    })
}

/// Ends a service whose token is cancelled: waits for its tasks, then flushes NATS. The endpoints are dropped only after the
/// tasks, because that drops requests that have arrived.
pub async fn drain(tasks: &TaskTracker, limit: Duration, endpoints: Endpoints, bus: &Bus) {
    wait_for(tasks, limit, "tasks").await;
    drop(endpoints);
    bus.close().await;
}

/// Waits until all tasks have ended, and logs the number of tasks that have not after `limit`.
pub async fn wait_for(tasks: &TaskTracker, limit: Duration, what: &'static str) {
    tasks.close();
    if tokio::time::timeout(limit, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), what, "stopped before everything was finished");
    }
}

/// A token that SIGTERM or SIGINT cancels. A second signal exits immediately.
fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "stopping");
        cancel.cancel();
        let name = next().await;
        tracing::warn!(signal = name, "stopping immediately");
        std::process::exit(1);
    });
    Ok(token)
}
