//! The chat service's process.

use chat_service::{ChatService, Config};
use std::process::ExitCode;

fn main() -> ExitCode {
    service::main(service::Workers::One, |config: Config, shutdown| async move {
        ChatService::bind(config, shutdown).await?.run().await
    })
}
