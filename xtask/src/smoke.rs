//! `cargo xtask smoke`

mod cases;
mod target;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;
use testkit::place;

use target::Target;

/// Check the main functions of a running stack, such as that of `docker compose up`.
///
/// The checks create a conversation, messages and notifications for users with random ids above one billion. Passwords
/// and the token key come from the environment or, by default, from `.env`.
#[derive(Args)]
pub struct Smoke {
    /// URL of a gateway; may be repeated [default: 127.0.0.1 and GATEWAY_PORT]
    #[arg(long, value_name = "URL")]
    http: Vec<String>,
    /// Host and port of NATS [default: 127.0.0.1 and NATS_PORT]
    #[arg(long, value_name = "HOST:PORT")]
    nats: Option<String>,
    /// File with JWT_SECRET, NATS_BILLING_PASSWORD and NATS_MARKETPLACE_PASSWORD [default: .env]
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
}

impl Smoke {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let env_file = self.env_file.unwrap_or_else(|| place::workspace().join(".env"));
        let target = Arc::new(Target::new(self.http, self.nats, &env_file)?);
        target.is_reachable().await?;
        // A failed check panics. The message is printed below, on one line.
        std::panic::set_hook(Box::new(|_| {}));
        let (mut passed, mut failed) = (0, 0);
        for (name, case) in cases::all(&target) {
            match tokio::spawn(case).await {
                Ok(()) => {
                    passed += 1;
                    println!("ok      {name}");
                }
                Err(error) => {
                    failed += 1;
                    println!("FAILED  {name}: {}", reason(error));
                }
            }
        }
        println!("\n{passed} passed, {failed} failed");
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn reason(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
