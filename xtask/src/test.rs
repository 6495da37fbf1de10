//! `cargo xtask test`

use std::process::ExitCode;

use clap::Args;
use testkit::{Postgres, Program, Signal, database, provision};
use tokio::signal::unix::{SignalKind, signal};

use crate::{build, servers};

/// The variable in which the test harness expects the number of its threads.
const THREADS: &str = "RUST_TEST_THREADS";

/// Run all tests, on a real nats-server, a real Postgres and, if available, real browsers.
///
/// Missing programs are fetched or installed first.
#[derive(Args)]
pub struct Test {
    /// Only tests whose name contains one of these; arguments that start with a dash go to the test programs
    #[arg(value_name = "FILTER", trailing_var_arg = true, allow_hyphen_values = true)]
    filters: Vec<String>,
}

impl Test {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        servers::provide().await?;
        for error in servers::provide_browsers().await {
            eprintln!("\n*** WARNING: a browser is missing, so its tests are SKIPPED. {error:#}. ***\n");
        }
        for error in servers::provide_checkers().await {
            eprintln!("\n*** WARNING: some files under deploy are NOT CHECKED. {error:#}. ***\n");
        }
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            code = self.build_and_test() => code,
            _ = interrupt.recv() => Ok(ExitCode::from(130)),
            _ = terminate.recv() => Ok(ExitCode::from(143)),
        }
    }

    async fn build_and_test(&self) -> anyhow::Result<ExitCode> {
        // Tests start the programs of other packages, which cargo doesn't build for a test.
        let code = run(build::cargo(&["build", "--workspace", "--all-targets", "--locked"])).await?;
        if code != 0 {
            return Ok(ExitCode::from(code));
        }
        let postgres = Postgres::start().await?;
        let mut args = vec!["test", "--workspace", "--locked", "--no-fail-fast", "--"];
        args.extend(self.filters.iter().map(String::as_str));
        let tests = build::cargo(&args)
            .env(THREADS, threads())
            .env(database::TEST_POSTGRES_URL, postgres.url("postgres"))
            .env(provision::NATS_SERVER_BIN, provision::nats_server(&provision::print)?)
            .env(provision::POSTGRES_BIN_DIR, provision::postgres(&provision::print)?);
        Ok(ExitCode::from(run(tests).await?))
    }
}

/// Number of tests of a test program that run at the same time: one more than there are processors, because many tests
/// wait.
fn threads() -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::env::var(THREADS).unwrap_or_else(|_| (processors + 1).to_string())
}

/// Runs cargo and returns its exit code. If this future is dropped, cargo and all its children are stopped.
async fn run(cargo: Program) -> anyhow::Result<u8> {
    let child = cargo.stop_signal(Signal::Term).spawn()?;
    let status = child.wait().await;
    Ok(status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
