//! What starting a nats-server and a Postgres have in common.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};

use crate::process::Child;

/// How long a server may take until it answers; it usually takes well under a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a start went.
pub(crate) enum Started {
    /// It answers.
    Ready(Child),
    /// It ended again, as it does when its port is taken; its last words.
    Ended(String),
}

/// Runs what blocks without holding up the test's runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("the start panicked")?
}

/// Starts a server on `port`, or on a free one; tried again with another should that be taken in between.
pub(crate) fn start_on(
    port: Option<u16>,
    free_port: impl Fn() -> anyhow::Result<u16>,
    start: impl Fn(u16) -> anyhow::Result<Started>,
) -> anyhow::Result<(u16, Child)> {
    // The port that was asked for, or the data, may still be held by the server before it, for a moment.
    let began = Instant::now();
    let mut last_words = String::new();
    while began.elapsed() < Duration::from_secs(5) {
        let chosen = port.map_or_else(&free_port, Ok)?;
        match start(chosen)? {
            Started::Ready(child) => return Ok((chosen, child)),
            Started::Ended(words) => last_words = words,
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(anyhow!("it ended before it answered: {last_words}"))
}

/// Waits until `ready`, or until the server has ended.
pub(crate) fn await_ready(child: Child, log: &Path, ready: impl Fn() -> bool) -> anyhow::Result<Started> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if ready() {
            return Ok(Started::Ready(child));
        }
        if let Some(status) = child.status() {
            return Ok(Started::Ended(format!("{status}: {}", last_words(log))));
        }
        thread::sleep(Duration::from_millis(3));
    }
    bail!("no answer within {} s: {}", PATIENCE.as_secs(), last_words(log))
}

/// The end of a log.
pub(crate) fn last_words(log: &Path) -> String {
    let Ok(text) = fs::read(log) else { return "its log says why".to_owned() };
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" / ")
}
