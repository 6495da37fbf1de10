//! The notify service's process.

use notify_service::{Config, NotifyService};
use service::config::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    service::main(service::Workers::One, async |config: Config, shutdown| match config.command {
        Some(Command::Migrate) => notify_service::migrate(&config, &shutdown).await,
        None => NotifyService::bind(config, shutdown.clone()).await?.run(shutdown).await,
    })
}
