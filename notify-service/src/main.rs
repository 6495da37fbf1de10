//! The notify service's process.

use notify_service::{Config, NotifyService};
use std::process::ExitCode;

fn main() -> ExitCode {
    service::main(service::Workers::One, async |config: Config, shutdown| {
        NotifyService::bind(config, shutdown.clone()).await?.run(shutdown).await
    })
}
