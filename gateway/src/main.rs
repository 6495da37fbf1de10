//! The process of the gateway.

use gateway::{Config, Gateway};
use std::process::ExitCode;

fn main() -> ExitCode {
    service::main(service::Workers::PerProcessor, |config: Config, shutdown| async move {
        Gateway::bind(config, shutdown).await?.run().await
    })
}
