//! Performance goals, each with the commands that measure it.

use crate::{report, run::Run, scenarios::Scenario};
use clap::Parser;

#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// Description of the measurement.
    pub what: &'static str,
    /// Required bound.
    pub bound: Bound,
    /// Unit of the bound.
    pub unit: &'static str,
    /// Measured figure.
    pub figure: Figure,
    /// Commands to run: one, or several whose figures [`Bound::Alike`] compares.
    pub commands: &'static [&'static str],
}

/// Requirement for a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// At most this value.
    AtMost(f64),
    /// At least this value.
    AtLeast(f64),
    /// The largest of several figures is at most this multiple of the smallest.
    Alike(f64),
}

/// A figure of a run.
#[derive(Debug, Clone, Copy)]
pub enum Figure {
    /// The figure with this name.
    Named(&'static str),
    /// The median latency, in milliseconds.
    P50,
    /// The 99th percentile of the latency, in milliseconds.
    P99,
}

const IDLE: &[&str] = &["idle --sockets 10000"];
const CHAT: &[&str] = &["chat --conversations 200"];
const CHAT_RATE: &[&str] = &["chat --conversations 200 --rate 2000"];
const GATEWAY_DELIVERY: Figure = Figure::Named("gateway CPU per delivery");
const PER_MESSAGE: Figure = Figure::Named("CPU per message");

/// All goals.
pub const GOALS: &[Goal] = &[
    Goal {
        what: "gateway memory of an idle, subscribed chat socket, two on each conversation",
        bound: Bound::AtMost(3.0),
        unit: "KiB",
        figure: Figure::Named("memory per socket"),
        commands: IDLE,
    },
    Goal {
        what: "gateway CPU of an idle socket in a second, pings included",
        bound: Bound::AtMost(2.0),
        unit: "us",
        figure: Figure::Named("CPU per socket and second"),
        commands: IDLE,
    },
    Goal {
        what: "gateway CPU per delivery, 1 message to 1,000 sockets, each written alone",
        bound: Bound::AtMost(6.0),
        unit: "us",
        figure: GATEWAY_DELIVERY,
        commands: &["fan-out --sockets 1000 --rate 20"],
    },
    Goal {
        what: "the same, 16 messages at the same instant",
        bound: Bound::AtMost(1.5),
        unit: "us",
        figure: GATEWAY_DELIVERY,
        commands: &["fan-out --sockets 1000 --senders 16 --rate 80 --burst"],
    },
    Goal {
        what: "CPU per chat message stored and delivered to 2, its notification included, saturated",
        bound: Bound::AtMost(40.0),
        unit: "us",
        figure: PER_MESSAGE,
        commands: CHAT,
    },
    Goal {
        what: "chat messages per second, the generator on the same processors",
        bound: Bound::AtLeast(20_000.0),
        unit: "/s",
        figure: Figure::Named("messages per second"),
        commands: CHAT,
    },
    Goal {
        what: "latency from send to the other side, one message at a time, p50",
        bound: Bound::AtMost(0.7),
        unit: "ms",
        figure: Figure::P50,
        commands: &["chat --conversations 1 --senders 1"],
    },
    Goal {
        what: "the same at 2,000 messages/s, p50",
        bound: Bound::AtMost(2.0),
        unit: "ms",
        figure: Figure::P50,
        commands: CHAT_RATE,
    },
    Goal {
        what: "the same at 2,000 messages/s, p99",
        bound: Bound::AtMost(10.0),
        unit: "ms",
        figure: Figure::P99,
        commands: CHAT_RATE,
    },
    Goal {
        what: "CPU per handshake, at 1,000/s: token, membership, subscription",
        bound: Bound::AtMost(150.0),
        unit: "us",
        figure: Figure::Named("CPU per handshake"),
        commands: &["handshake --rate 1000"],
    },
    Goal {
        what: "CPU per typing event, from one to one",
        bound: Bound::AtMost(20.0),
        unit: "us",
        figure: Figure::Named("CPU per event"),
        commands: &["typing --rate 2000"],
    },
    Goal {
        what: "CPU per backend event, from publish to its user's socket, saturated",
        bound: Bound::AtMost(60.0),
        unit: "us",
        figure: Figure::Named("CPU per event"),
        commands: &["notify --users 200 --no-fsync"],
    },
    Goal {
        what: "gateway CPU per delivery at 100, 1,000 and 10,000 sockets",
        bound: Bound::Alike(1.5),
        unit: "us",
        figure: GATEWAY_DELIVERY,
        commands: &[
            "fan-out --sockets 100 --rate 200",
            "fan-out --sockets 1000 --rate 20",
            "fan-out --sockets 10000 --rate 2",
        ],
    },
    Goal {
        what: "CPU per message at 1, 10 and 1,000 conversations, 500 messages/s",
        bound: Bound::Alike(1.5),
        unit: "us",
        figure: PER_MESSAGE,
        commands: &[
            "chat --conversations 1 --rate 500",
            "chat --conversations 10 --rate 500",
            "chat --conversations 1000 --rate 500",
        ],
    },
    Goal {
        what: "CPU per resume at 1,000 and 1,000,000 stored messages",
        bound: Bound::Alike(1.5),
        unit: "us",
        figure: Figure::Named("CPU per resume"),
        commands: &["resume --stored 1000", "resume --stored 1000000"],
    },
];

/// A parsed command of a goal.
#[derive(Debug, Parser)]
pub struct Line {
    /// Scenario to run.
    #[command(subcommand)]
    pub scenario: Scenario,
    /// True if Postgres and NATS don't wait for the disk, which costs time rather than CPU.
    #[arg(long, global = true)]
    pub no_fsync: bool,
}

/// Parses a command of a goal.
///
/// # Panics
/// If it is invalid.
pub fn line(command: &str) -> Line {
    let words = std::iter::once("load").chain(command.split_whitespace());
    Line::try_parse_from(words).expect("the goals' commands are valid")
}

/// All commands, without duplicates.
pub fn commands() -> Vec<&'static str> {
    let mut commands: Vec<&str> = Vec::new();
    for command in GOALS.iter().flat_map(|goal| goal.commands) {
        if !commands.contains(command) {
            commands.push(command);
        }
    }
    commands
}

impl Figure {
    /// Value of the figure, if the run has it.
    pub fn of(self, run: &Run) -> Option<f64> {
        match self {
            Self::Named(name) => run.figure(name),
            Self::P50 => run.latency.as_ref().map(|latency| latency.p50 as f64 / 1e3),
            Self::P99 => run.latency.as_ref().map(|latency| latency.p99 as f64 / 1e3),
        }
    }
}

/// The goals as a table: the median of each command's runs, and whether it meets the goal.
pub fn table(runs: &[(&'static str, Run)]) -> String {
    let rows: Vec<Vec<String>> = GOALS.iter().filter_map(|goal| row(goal, runs)).collect();
    let mut out = String::new();
    let head = ["what", "goal", "measured", "", "`cargo xtask load` …"];
    report::aligned(&mut out, &head, &rows).expect("writing to a String doesn't fail");
    out
}

fn row(goal: &Goal, runs: &[(&'static str, Run)]) -> Option<Vec<String>> {
    let of_command = |command: &&str| {
        let of_it = runs.iter().filter(|(other, _)| other == command);
        median(of_it.filter_map(|(_, run)| goal.figure.of(run)).collect())
    };
    let medians: Vec<f64> = goal.commands.iter().map(of_command).collect::<Option<_>>()?;
    let least = medians.iter().copied().fold(f64::MAX, f64::min);
    let most = medians.iter().copied().fold(0.0, f64::max);
    let (required, met) = match goal.bound {
        Bound::AtMost(bound) => (format!("≤ {}", report::amount(bound, goal.unit)), most <= bound),
        Bound::AtLeast(bound) => (format!("≥ {}", report::amount(bound, goal.unit)), least >= bound),
        Bound::Alike(bound) => (format!("within {bound}×"), most <= bound * least),
    };
    let shown: Vec<String> = medians.iter().map(|median| report::amount(*median, goal.unit)).collect();
    let commands: Vec<String> = goal.commands.iter().map(|command| format!("`{command}`")).collect();
    let met = if met { "met" } else { "**missed**" };
    Some(vec![goal.what.to_owned(), required, shown.join(", "), met.to_owned(), commands.join(", ")])
}

/// The median.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_has_valid_commands() {
        for goal in GOALS {
            assert_eq!(goal.commands.len() > 1, matches!(goal.bound, Bound::Alike(_)), "{goal:?}");
        }
        for command in commands() {
            line(command).scenario.shorten();
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![]), None);
    }
}
