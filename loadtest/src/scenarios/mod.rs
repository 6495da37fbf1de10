//! The scenarios.

mod chat;
mod common;
mod notify;
mod resume;
mod rooms;
mod sockets;
mod typing;

use crate::{meter::Meter, run::Run, target::Target};
use clap::Subcommand;
pub use common::Length;

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

impl Scenario {
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
