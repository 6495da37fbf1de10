//! From `main` to a running service, and to its exit code.

use crate::{
    config::{self, Telemetry},
    files, logs, metrics, trace,
};
use anyhow::Context;
use std::{future::Future, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How many threads a service's tasks run on, unless `TOKIO_WORKER_THREADS` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One: such a service mostly waits for Postgres and NATS, and a second thread's looking for work costs it more.
    One,
    /// One for each processor.
    PerProcessor,
}

/// The whole of a service's `main`: reads the configuration, starts logs and traces, runs the service until SIGTERM
/// or SIGINT cancels the token, and says how it ended: 0 after a clean stop, 2 for a wrong configuration, 1 else.
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
            // One line, wherever it goes: logs may be filtered out, or not there yet.
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!(error = format!("{error:#}"), "stopped by an error");
            } else {
                eprintln!("{error:#}");
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
    files::raise();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if workers == Workers::One && std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(1);
    }
    let runtime = runtime.enable_all().build().context("start the runtime")?;
    metrics::identify(name);
    // Dropped before the runtime that carries the last spans.
    let _tracing = trace::export::start(name, config.as_ref(), runtime.handle())?;
    runtime.block_on(async {
        let shutdown = on_signal()?;
        run(config, shutdown).await
    })
}

/// A token that SIGTERM or SIGINT cancels. A second signal ends the process at once.
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
        tracing::warn!(signal = name, "stopping at once");
        std::process::exit(1);
    });
    Ok(token)
}
