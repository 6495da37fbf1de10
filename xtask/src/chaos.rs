//! `cargo xtask chaos`

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use e2e::chaos::{Chaos as Run, Counters, Part};
use indicatif::{ProgressBar, ProgressStyle};
use testkit::place;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::interval,
};

use crate::{build, servers};

/// Kill, freeze and disconnect parts of a stack while clients chat, and check for lost, duplicated or reordered
/// messages
///
/// It uses a separate stack with its own NATS and Postgres; nothing else on this machine is affected.
#[derive(Args)]
pub struct Chaos {
    /// Duration of the chat, in seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Parts that may fail
    #[arg(
        long,
        value_name = "PARTS",
        value_delimiter = ',',
        default_value = "gateway,chat,notify,typing,nats,postgres,net"
    )]
    parts: Vec<Part>,
    /// Seed of all random choices; random by default
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Number of nats-servers; three form a cluster
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    nats: u8,
    /// Number of gateways
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    gateways: u8,
    /// Number of chat-services
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    chat: u8,
    /// Number of notify-services
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    notify: u8,
    /// Number of typing-services
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    typing: u8,
    /// Number of clients
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Use release builds instead of debug ones
    #[arg(long)]
    release: bool,
    /// Commit or tag of another release. Every second replica starts with its programs, and every restart changes the
    /// release of a replica
    #[arg(long, value_name = "REVISION")]
    beside: Option<String>,
}

impl Chaos {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        servers::provide().await?;
        let programs = build::programs(self.release).await?;
        let other_release = match &self.beside {
            Some(revision) => Some(build::programs_of(revision, self.release).await?),
            None => None,
        };
        let logs = place::local().join("chaos");
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
        eprintln!("Seed {seed}; the services' logs are in {}.", logs.display());
        let run = Run {
            seed,
            length: Duration::from_secs(self.seconds),
            parts: self.parts,
            counts: [self.gateways, self.chat, self.notify, self.typing].map(usize::from),
            servers: self.nats.into(),
            clients: self.clients.into(),
            programs: Some(programs),
            other_release,
            logs: Some(logs),
        };
        let counters = Arc::new(Counters::default());
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let report = tokio::select! {
            report = run.run(counters.clone()) => report?,
            () = show_progress(&counters, self.seconds) => unreachable!("the progress line never ends"),
            _ = interrupt.recv() => return Ok(ExitCode::from(130)),
            _ = terminate.recv() => return Ok(ExitCode::from(143)),
        };
        println!("{report}");
        if let Some(revision) = self.beside {
            println!(
                "Every second start of a replica used the programs of {revision}: add --beside {revision}."
            );
        }
        Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Shows the progress on one line.
async fn show_progress(counters: &Counters, seconds: u64) {
    let bar = ProgressBar::new(seconds);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed}  {msg}") {
        bar.set_style(style);
    }
    let mut ticks = interval(Duration::from_millis(200));
    loop {
        ticks.tick().await;
        let [acked, messages, reconnects, faults, violations] = [
            &counters.acked,
            &counters.messages,
            &counters.reconnects,
            &counters.faults,
            &counters.violations,
        ]
        .map(Counters::get);
        bar.set_message(format!(
            "{acked} of {messages} messages acknowledged, {reconnects} reconnects, {faults} faults, {violations} violations"
        ));
        bar.tick();
    }
}
