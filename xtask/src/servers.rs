//! Gets what the stack stands on, and shows how that goes.

use std::{cell::RefCell, time::Duration};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use testkit::provision;

/// Makes sure of nats-server and Postgres; what has to be fetched is fetched.
pub async fn provide() -> anyhow::Result<()> {
    shown(|report| {
        provision::nats_server(report)?;
        provision::postgres(report)?;
        Ok(())
    })
    .await
}

/// Makes sure of a browser and of what drives it.
pub async fn provide_browser() -> anyhow::Result<()> {
    shown(|report| provision::debian("chromedriver", &["chromium", "chromium-driver"], report)).await
}

/// Makes sure of what checks the files under `deploy`; what can't be had is told, and its checks are skipped.
pub async fn provide_checkers() -> Vec<anyhow::Error> {
    const CHECKERS: [(&str, &str); 5] = [
        ("promtool", "prometheus"),
        ("nginx", "nginx-light"),
        ("caddy", "caddy"),
        ("shellcheck", "shellcheck"),
        ("openssl", "openssl"),
    ];
    // All at once where that can be; else what there is of them.
    let all = CHECKERS.map(|(_, package)| package);
    let mut missing = Vec::new();
    for (program, package) in CHECKERS {
        let provide = move |report: provision::Report<'_>| {
            provision::debian(program, &all, report)
                .or_else(|_| provision::debian(program, &[package], report))
        };
        missing.extend(shown(provide).await.err());
    }
    missing
}

/// Runs what takes a while, with a line for each thing it does.
async fn shown(
    work: impl FnOnce(provision::Report<'_>) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let work = move || {
        let under_way: RefCell<Option<Step>> = RefCell::default();
        let done = work(&|what| {
            let before = under_way.take();
            before.inspect(Step::done);
            under_way.replace(Some(Step::new(what)));
        });
        if let (Ok(()), Some(last)) = (&done, under_way.take()) {
            last.done();
        }
        done
    };
    tokio::task::spawn_blocking(work).await.context("looking for programs panicked")?
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
