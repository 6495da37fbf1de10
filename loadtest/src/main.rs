//! `loadtest`, as `cargo xtask load` runs it.

use anyhow::Context;
use clap::{Args, Parser};
use loadtest::{
    report,
    run::Report,
    scenarios::Scenario,
    system::{self, Make, System},
};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{fs, path::PathBuf, process::ExitCode, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

/// Put load on a stack, and see what it costs and whether everything arrives.
///
/// The stack is one of its own, a release build with its own NATS and Postgres on free ports, unless --ready-file names
/// one that runs.
#[derive(Parser)]
#[command(name = "cargo xtask load", bin_name = "cargo xtask load")]
struct Load {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// Load the stack of `cargo xtask up` that wrote this file, with the limits that it has
    #[arg(long, value_name = "PATH", global = true)]
    ready_file: Option<PathBuf>,
    /// How many gateways to start
    #[arg(long, value_name = "N", default_value_t = 1, global = true, value_parser = clap::value_parser!(u8).range(1..=8))]
    gateways: u8,
    /// Don't wait for the disk, in Postgres and NATS
    #[arg(long, global = true)]
    no_fsync: bool,
    /// Write what was found here, as JSON
    #[arg(long, value_name = "PATH", global = true)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let load = Load::parse();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("start a runtime").and_then(|runtime| {
        let done = LocalSet::new().block_on(&runtime, until_interrupted(load));
        runtime.shutdown_timeout(Duration::from_secs(1));
        done
    });
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Each socket is a file, here and, as limits are inherited, in what we start.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("the limit of open files stays where it is: {error}");
    }
}

async fn until_interrupted(load: Load) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run(load) => done,
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn run(load: Load) -> anyhow::Result<ExitCode> {
    let Load { scenario, options } = load;
    let began = OffsetDateTime::now_utc().format(&Rfc3339).context("tell the time")?;
    let system = options.system().await?;
    let run = scenario.run(&system.target).await?;
    println!("{}", report::table(&run));
    let report = Report { began, machine: report::machine(), command: command(), runs: vec![run] };
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Options {
    async fn system(&self) -> anyhow::Result<System> {
        if let Some(file) = &self.ready_file {
            return system::running(file);
        }
        let us = std::env::current_exe().context("find our own program")?;
        let make = Make {
            programs: us.parent().map(PathBuf::from),
            gateways: self.gateways.into(),
            durable: !self.no_fsync,
        };
        Ok(system::start(&make).await)
    }
}

fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask load {}", arguments.join(" "))
}
