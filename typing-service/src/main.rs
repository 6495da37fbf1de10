//! The typing service's process.

use std::process::ExitCode;
use typing_service::{Config, TypingService};

fn main() -> ExitCode {
    service::main(service::Workers::One, |config: Config, shutdown| async move {
        TypingService::bind(config, shutdown.clone()).await?.run(shutdown).await
    })
}
