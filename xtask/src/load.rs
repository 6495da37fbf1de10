//! `cargo xtask load`

use std::{ffi::OsString, process::ExitCode};

use clap::Args;
use testkit::{Output, Program, Signal};
use tokio::signal::unix::{SignalKind, signal};

use crate::{build, servers};

/// Run a load test on a stack, and measure its cost and completeness
///
/// The arguments go to the load generator, whose own `--help` lists the scenarios. The generator and the services are
/// built first, as release builds.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Load {
    /// Scenario and its options
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Load {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        servers::provide().await?;
        let programs = build::programs(true).await?;
        // It cleans up after SIGTERM, so it is signalled and awaited.
        let generator = Program::new(programs.join("loadtest"))
            .args(self.arguments)
            .output(Output::Inherit)
            .stop_signal(Signal::Term)
            .spawn()?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let status = loop {
            tokio::select! {
                status = generator.wait() => break status,
                _ = interrupt.recv() => generator.signal(Signal::Term),
                _ = terminate.recv() => generator.signal(Signal::Term),
            }
        };
        let code = status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}
