//! The chat service's process.

use chat_service::{ChatService, Config};
use service::config::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    service::main(service::Workers::One, |config: Config, shutdown| async move {
        match config.command {
            Some(Command::Migrate) => chat_service::migrate(&config, &shutdown).await,
            None => ChatService::bind(config, shutdown).await?.run().await,
        }
    })
}
