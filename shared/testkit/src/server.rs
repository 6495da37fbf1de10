//! The common part of starting nats-server and Postgres.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};

use crate::process::Child;

/// Maximum time until a server is ready; it usually takes well under a second.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Outcome of a start.
pub(crate) enum StartOutcome {
    /// The server is ready.
    Ready(Child),
    /// The server exited, for example because its port is taken; with the end of its log.
    Ended(String),
}

/// Runs blocking code without blocking the test's runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("the start panicked")?
}

/// Starts a server on `port`, or on a free one. Retries if the port was taken meanwhile.
pub(crate) fn start_on(
    port: Option<u16>,
    free_port: impl Fn() -> anyhow::Result<u16>,
    start: impl Fn(u16) -> anyhow::Result<StartOutcome>,
) -> anyhow::Result<(u16, Child)> {
    // The previous server may still hold the given port, or the data, for a moment.
    let began = Instant::now();
    let mut log_end = String::new();
    while began.elapsed() < Duration::from_secs(5) {
        let chosen = port.map_or_else(&free_port, Ok)?;
        match start(chosen)? {
            StartOutcome::Ready(child) => return Ok((chosen, child)),
            StartOutcome::Ended(end) => log_end = end,
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(anyhow!("it exited before it was ready: {log_end}"))
}

/// Waits until the server is ready or has exited.
pub(crate) fn await_ready(
    child: Child,
    log: &Path,
    ready: impl Fn() -> bool,
) -> anyhow::Result<StartOutcome> {
    let began = Instant::now();
    while began.elapsed() < READY_TIMEOUT {
        if ready() {
            return Ok(StartOutcome::Ready(child));
        }
        if let Some(status) = child.status() {
            return Ok(StartOutcome::Ended(format!("{status}: {}", end_of_log(log))));
        }
        thread::sleep(Duration::from_millis(3));
    }
    bail!("not ready within {} s: {}", READY_TIMEOUT.as_secs(), end_of_log(log))
}

/// The last lines of a log.
pub(crate) fn end_of_log(log: &Path) -> String {
    let Ok(text) = fs::read(log) else { return "see its log".to_owned() };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" / ")
}
