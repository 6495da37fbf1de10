//! What is done to a system.

mod chat;
mod notify;
mod resume;
mod rooms;
mod sockets;
mod typing;

use crate::{
    judge::Verdict,
    meter::{Measured, Meter},
    run::Run,
    target::Target,
};
use clap::{Args, Subcommand};
use std::time::Duration;

/// A scenario.
#[derive(Debug, Clone, Subcommand)]
pub enum Scenario {
    /// People in conversations of two: each message is stored, and shown to both
    Chat(chat::Chat),
    /// One conversation with many sockets: each message goes to all of them
    FanOut(chat::FanOut),
    /// Sockets on which nothing happens: their memory, and the CPU that keeps them alive
    Idle(sockets::Idle),
    /// Sockets that come at a rate: token, membership, subscription
    Handshake(sockets::Handshake),
    /// Pairs of which one types and the other sees it
    Typing(typing::Typing),
    /// Events of a backend, each shown to its user
    Notify(notify::Notify),
    /// Clients that come back to a long conversation and are sent what they missed
    Resume(resume::Resume),
}

/// How long.
#[derive(Debug, Clone, Copy, Args)]
pub struct Length {
    /// Seconds that are measured
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub seconds: f64,
    /// Seconds of the same load before
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    pub warm_up: f64,
}

impl Length {
    fn measured(self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.1, 3600.0))
    }

    fn warm_up(self) -> Duration {
        Duration::from_secs_f64(self.warm_up.clamp(0.0, 600.0))
    }
}

impl Scenario {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Chat(_) => "chat",
            Self::FanOut(_) => "fan-out",
            Self::Idle(_) => "idle",
            Self::Handshake(_) => "handshake",
            Self::Typing(_) => "typing",
            Self::Notify(_) => "notify",
            Self::Resume(_) => "resume",
        }
    }

    /// The same for a moment, on a tenth of the idle sockets: says whether it works, and little about what it costs.
    pub fn hurry(&mut self) {
        let length = match self {
            Self::Chat(chat) => &mut chat.length,
            Self::FanOut(fan_out) => &mut fan_out.length,
            Self::Idle(idle) => return idle.hurry(),
            Self::Handshake(handshake) => &mut handshake.length,
            Self::Typing(typing) => &mut typing.length,
            Self::Notify(notify) => &mut notify.length,
            Self::Resume(resume) => &mut resume.length,
        };
        *length = Length { seconds: 1.0, warm_up: 0.5 };
    }

    /// Puts the load on.
    ///
    /// # Errors
    /// When it can't be put on.
    pub async fn run(&self, target: &Target) -> anyhow::Result<Run> {
        let meter = Meter::new(&format!("{} on {}", self.name(), target.name), &target.processes);
        let run = match self {
            Self::Chat(chat) => chat.run(target, &meter).await,
            Self::FanOut(fan_out) => fan_out.run(target, &meter).await,
            Self::Idle(idle) => idle.run(target, &meter).await,
            Self::Handshake(handshake) => handshake.run(target, &meter).await,
            Self::Typing(typing) => typing.run(target, &meter).await,
            Self::Notify(notify) => notify.run(target, &meter).await,
            Self::Resume(resume) => resume.run(target, &meter).await,
        };
        meter.finish();
        let mut run = run?;
        run.scenario = self.name().to_owned();
        target.name.clone_into(&mut run.system);
        run.errors = meter.errors.get();
        run.closed = meter.closed.get();
        run.latency = meter.latency();
        run.samples = meter.samples();
        Ok(run)
    }
}

/// A run with what was measured, its figures to be added.
fn measured_run(measured: &Measured, seconds: f64) -> Run {
    Run {
        scenario: String::new(),
        system: String::new(),
        load: String::new(),
        seconds,
        figures: Vec::new(),
        sent: measured.sent,
        delivered: measured.delivered,
        errors: 0,
        closed: 0,
        verdict: Verdict::default(),
        latency: None,
        processes: measured.usage.clone(),
        samples: Vec::new(),
    }
}

/// Microseconds for each, of seconds for all.
fn per(seconds: f64, count: f64) -> f64 {
    if count == 0.0 { 0.0 } else { seconds * 1e6 / count }
}

fn at_most(most: i64) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    clap::value_parser!(i64).range(1..=most).map(|value| usize::try_from(value).unwrap_or(1))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.1..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err("0.1 to 1000000".to_owned()) }
}
