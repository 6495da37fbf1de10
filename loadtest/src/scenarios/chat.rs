//! Users who send messages: a few in each of many conversations, or many in one.

use super::{
    common::{Length, at_most, measured_run, per, rate},
    rooms::{Pace, Plan, Rooms},
};
use crate::{
    meter::Meter,
    run::{Figure, Run},
    target::Target,
    world,
};
use clap::Args;
use std::{rc::Rc, time::Instant};

/// Users in conversations of two.
#[derive(Debug, Clone, Args)]
pub struct Chat {
    /// Number of conversations
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = at_most(10_000))]
    conversations: usize,
    /// Number of senders in each conversation
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_most(2))]
    senders: usize,
    /// Total messages per second, whether or not earlier ones have arrived; by default each sender sends its next
    /// message when it receives its last one
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Length of a message in characters
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = at_most(4000))]
    size: usize,
    #[command(flatten)]
    pub(super) length: Length,
}

/// One conversation with many sockets.
#[derive(Debug, Clone, Args)]
pub struct FanOut {
    /// Number of sockets
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_most(15_000))]
    sockets: usize,
    /// Number of sending sockets
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_most(1000))]
    senders: usize,
    /// Total messages per second; by default each sender sends its next message when it receives its last one
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// All senders send at the same instant
    #[arg(long, requires = "rate")]
    burst: bool,
    /// Length of a message in characters
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = at_most(4000))]
    size: usize,
    #[command(flatten)]
    pub(super) length: Length,
}

impl Chat {
    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        let plan = Plan {
            conversations: self.conversations,
            people: 2,
            sockets: 2,
            senders: self.senders,
            size: self.size,
            pace: pace(self.rate, false),
        };
        let load = format!(
            "{} conversations of two, {} sending {}",
            self.conversations,
            if self.senders == 1 { "one" } else { "both" },
            shown_rate(self.rate)
        );
        let run = run_plan(target, meter, plan, self.length).await?;
        Ok(Run { load, ..run })
    }
}

impl FanOut {
    pub(super) async fn run(&self, target: &Target, meter: &Rc<Meter>) -> anyhow::Result<Run> {
        let plan = Plan {
            conversations: 1,
            people: self.sockets.clamp(2, contract::limits::PARTICIPANTS_MAX),
            sockets: self.sockets.max(2),
            senders: self.senders.min(self.sockets),
            size: self.size,
            pace: pace(self.rate, self.burst),
        };
        let together = if self.burst { ", together" } else { "" };
        let load =
            format!("{} sockets, {} sending {}{together}", self.sockets, self.senders, shown_rate(self.rate));
        let run = run_plan(target, meter, plan, self.length).await?;
        Ok(Run { load, ..run })
    }
}

/// Runs the plan, and measures its cost.
async fn run_plan(target: &Target, meter: &Rc<Meter>, plan: Plan, length: Length) -> anyhow::Result<Run> {
    let rooms = Rooms::open(target, meter, plan).await?;
    meter.show("warming up");
    rooms.run(length.warm_up()).await;
    world::settled(target).await?;
    let (window, began) = (meter.begin(), Instant::now());
    rooms.run(length.measured()).await;
    let took = began.elapsed().as_secs_f64();
    world::settled(target).await?;
    let measured = meter.end(window);
    let mut run = measured_run(&measured, length.seconds);
    run.verdict = rooms.verdict();
    let (sent, delivered) = (measured.sent as f64, measured.delivered as f64);
    run.figures = vec![
        Figure::rate("messages per second", sent / took, "/s"),
        Figure::rate("deliveries per second", delivered / took, "/s"),
        Figure::cost("CPU per message", per(run.cpu(None), sent), "us"),
        Figure::cost("CPU per delivery", per(run.cpu(None), delivered), "us"),
    ];
    if run.processes.iter().any(|usage| usage.name == "gateway") {
        let gateway = per(run.cpu(Some("gateway")), delivered);
        run.figures.push(Figure::cost("gateway CPU per delivery", gateway, "us"));
    }
    Ok(run)
}

fn pace(rate: Option<f64>, burst: bool) -> Pace {
    rate.map_or(Pace::Closed, |rate| Pace::Open { rate, burst })
}

fn shown_rate(rate: Option<f64>) -> String {
    rate.map_or("one after the other".to_owned(), |rate| format!("{rate} messages/s"))
}
