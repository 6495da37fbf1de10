//! Keeps each user's inbox: what other backends and the chat publish becomes notifications.

use notify_service::{Config, NotifyService};
use std::process::ExitCode;

fn main() -> ExitCode {
    service::main(service::Workers::One, async |config: Config, shutdown| {
        NotifyService::bind(config, shutdown.clone()).await?.run(shutdown).await
    })
}
