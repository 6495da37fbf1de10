//! The scenarios.

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
    /// Users in conversations of two: each message is stored and delivered to both
    Chat(chat::Chat),
    /// One conversation with many sockets: each message is delivered to all of them
    FanOut(chat::FanOut),
    /// Idle sockets: their memory, and the CPU that keeps them alive
    Idle(sockets::Idle),
    /// New sockets at a fixed rate: token, membership, subscription
    Handshake(sockets::Handshake),
    /// Pairs of users, of whom one types and the other receives the events
    Typing(typing::Typing),
    /// Events of a backend, each delivered to its user
    Notify(notify::Notify),
    /// Clients that resume a long conversation and receive the messages that they missed
    Resume(resume::Resume),
}

/// Duration of a run.
#[derive(Debug, Clone, Copy, Args)]
pub struct Length {
    /// Duration of the measurement in seconds
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub seconds: f64,
    /// Duration of the same load before it, in seconds
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
    /// Name of the scenario.
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

    /// Shortens the run, and uses a tenth of the idle sockets: this checks that the scenario works, rather than its
    /// cost.
    pub fn shorten(&mut self) {
        let length = match self {
            Self::Chat(chat) => &mut chat.length,
            Self::FanOut(fan_out) => &mut fan_out.length,
            Self::Idle(idle) => return idle.shorten(),
            Self::Handshake(handshake) => &mut handshake.length,
            Self::Typing(typing) => &mut typing.length,
            Self::Notify(notify) => &mut notify.length,
            Self::Resume(resume) => &mut resume.length,
        };
        *length = Length { seconds: 1.0, warm_up: 0.5 };
    }

    /// Runs the scenario.
    ///
    /// # Errors
    /// If the load can't be generated.
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

/// A run with the measurements, but without figures.
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

/// Microseconds per item, from total seconds.
fn per(seconds: f64, count: f64) -> f64 {
    if count == 0.0 { 0.0 } else { seconds * 1e6 / count }
}

fn at_most(most: i64) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    clap::value_parser!(i64).range(1..=most).map(|value| usize::try_from(value).unwrap_or(1))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.1..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err("must be from 0.1 to 1000000".to_owned()) }
}
