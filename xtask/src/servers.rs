//! Provides the servers and tools that the stack and its tests need, with progress output.

use std::{cell::RefCell, time::Duration};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use testkit::provision;

/// Provides nats-server and Postgres. Fetches missing ones.
pub async fn provide() -> anyhow::Result<()> {
    with_progress(|report| {
        provision::nats_server(report)?;
        provision::postgres(report)?;
        Ok(())
    })
    .await
}

/// Provides the browsers and their drivers. Returns an error for each missing one; its tests are skipped.
pub async fn provide_browsers() -> Vec<anyhow::Error> {
    let chromium =
        with_progress(|report| provision::debian("chromedriver", &["chromium", "chromium-driver"], report));
    let chromium = chromium.await.context("no Chromium");
    let firefox = with_progress(provision::firefox).await.context("no Firefox");
    chromium.err().into_iter().chain(firefox.err()).collect()
}

/// Provides the tools that check the files under `deploy`. Returns an error for each missing one; its checks are
/// skipped.
pub async fn provide_checkers() -> Vec<anyhow::Error> {
    const CHECKERS: [(&str, &str); 7] = [
        ("promtool", "prometheus"),
        ("nginx", "nginx-light"),
        ("caddy", "caddy"),
        ("shellcheck", "shellcheck"),
        ("openssl", "openssl"),
        ("pgbouncer", "pgbouncer"),
        ("psql", "postgresql-client"),
    ];
    // Installs all at once if possible, otherwise those that are available.
    let all = CHECKERS.map(|(_, package)| package);
    let mut missing = Vec::new();
    for (program, package) in CHECKERS {
        let provide = move |report: provision::Report<'_>| {
            provision::debian(program, &all, report)
                .or_else(|_| provision::debian(program, &[package], report))
        };
        missing.extend(with_progress(provide).await.err());
    }
    missing
}

/// Runs slow work, with a progress line for each step.
async fn with_progress(
    work: impl FnOnce(provision::Report<'_>) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let work = move || {
        let current: RefCell<Option<Step>> = RefCell::default();
        let done = work(&|what| {
            let previous = current.take();
            previous.inspect(Step::done);
            current.replace(Some(Step::new(what)));
        });
        if let (Ok(()), Some(last)) = (&done, current.take()) {
            last.done();
        }
        done
    };
    tokio::task::spawn_blocking(work).await.context("the installation panicked")?
}

struct Step {
    what: String,
    bar: ProgressBar,
}

impl Step {
    fn new(what: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
            bar.set_style(style);
        }
        if bar.is_hidden() {
            eprintln!("{what}"); // Not a terminal.
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { what: what.to_owned(), bar }
    }

    fn done(&self) {
        self.bar.finish_and_clear();
        let seconds = self.bar.elapsed().as_secs_f32();
        eprintln!("{}: done in {seconds:.1} s", self.what);
    }
}
