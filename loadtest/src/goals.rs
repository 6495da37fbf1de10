//! Performance goals, each with the commands that measure it.

use crate::{
    peers::Peer,
    processes::Usage,
    report,
    run::{GENERATOR, Run},
    scenarios::Scenario,
    system::OURS,
};
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
    /// At most this multiple of [`PEER`]'s figure.
    AtMostOfPeer(f64),
    /// At least this multiple of [`PEER`]'s figure.
    AtLeastOfPeer(f64),
}

/// The system to which goals compare ours.
pub const PEER: Peer = Peer::Socketio;

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

const CHAT: &[&str] = &["chat --conversations 200"];
const CHAT_500: &[&str] = &["chat --conversations 200 --rate 500"];
const CHAT_2000: &[&str] = &["chat --conversations 200 --rate 2000"];
const FAN_OUT: &[&str] = &["fan-out --sockets 100 --senders 4"];
const GATEWAY_DELIVERY: Figure = Figure::Named("gateway CPU per delivery");
const PER_DELIVERY: Figure = Figure::Named("CPU per delivery");
const PER_MESSAGE: Figure = Figure::Named("CPU per message");
/// The command for which the CPU time is broken down by process.
const BY_PROCESS: &str = CHAT_500[0];

/// All goals.
pub const GOALS: &[Goal] = &[
    Goal {
        what: "CPU per message stored and shown to 2, 500 messages/s",
        bound: Bound::AtMostOfPeer(1.0),
        unit: "us",
        figure: PER_MESSAGE,
        commands: CHAT_500,
    },
    Goal {
        what: "the same, 2,000 messages/s",
        bound: Bound::AtMostOfPeer(0.6),
        unit: "us",
        figure: PER_MESSAGE,
        commands: CHAT_2000,
    },
    Goal {
        what: "the same, saturated",
        bound: Bound::AtMostOfPeer(0.3),
        unit: "us",
        figure: PER_MESSAGE,
        commands: CHAT,
    },
    Goal {
        what: "the same, saturated",
        bound: Bound::AtMost(60.0),
        unit: "us",
        figure: PER_MESSAGE,
        commands: CHAT,
    },
    Goal {
        what: "messages per second, the generator on the same processors",
        bound: Bound::AtLeast(20_000.0),
        unit: "/s",
        figure: Figure::Named("messages per second"),
        commands: CHAT,
    },
    Goal {
        what: "CPU per delivery, 1 message to 100 sockets, 20 messages/s",
        bound: Bound::AtMostOfPeer(0.9),
        unit: "us",
        figure: PER_DELIVERY,
        commands: &["fan-out --sockets 100 --rate 20"],
    },
    Goal {
        what: "the same, saturated",
        bound: Bound::AtMostOfPeer(0.6),
        unit: "us",
        figure: PER_DELIVERY,
        commands: FAN_OUT,
    },
    Goal {
        what: "deliveries per second, saturated",
        bound: Bound::AtLeastOfPeer(1.5),
        unit: "/s",
        figure: Figure::Named("deliveries per second"),
        commands: FAN_OUT,
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
        what: "latency of a message, 500 messages/s, p50",
        bound: Bound::AtMost(5.0),
        unit: "ms",
        figure: Figure::P50,
        commands: CHAT_500,
    },
    Goal {
        what: "the same, p99",
        bound: Bound::AtMost(15.0),
        unit: "ms",
        figure: Figure::P99,
        commands: CHAT_500,
    },
    Goal {
        what: "the same, 2,000 messages/s, p50",
        bound: Bound::AtMost(5.0),
        unit: "ms",
        figure: Figure::P50,
        commands: CHAT_2000,
    },
    Goal {
        what: "the same, p99",
        bound: Bound::AtMost(15.0),
        unit: "ms",
        figure: Figure::P99,
        commands: CHAT_2000,
    },
    Goal {
        what: "latency of one message at a time, p50",
        bound: Bound::AtMost(0.75),
        unit: "ms",
        figure: Figure::P50,
        commands: &["chat --conversations 1 --senders 1"],
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
        bound: Bound::AtMost(35.0),
        unit: "us",
        figure: Figure::Named("CPU per event"),
        commands: &["typing --rate 2000"],
    },
    Goal {
        what: "CPU of the whole system in a second, nobody connected",
        bound: Bound::AtMost(5.0),
        unit: "ms",
        figure: Figure::Named("CPU per second, all processes"),
        commands: &["idle --sockets 0"],
    },
    Goal {
        what: "CPU of all processes for an idle socket in a second, each with its own conversation",
        bound: Bound::AtMost(3.0),
        unit: "us",
        figure: Figure::Named("CPU per socket and second, all processes"),
        commands: &["idle --sockets 10000 --per-conversation 1"],
    },
    Goal {
        what: "gateway memory of an idle, subscribed chat socket, two on each conversation",
        bound: Bound::AtMost(2.4),
        unit: "KiB",
        figure: Figure::Named("memory per socket"),
        commands: &["idle --sockets 10000"],
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

/// Whether a goal compares this command's figures with those of [`PEER`].
pub fn needs_peer(command: &str) -> bool {
    let compares = |goal: &Goal| matches!(goal.bound, Bound::AtMostOfPeer(_) | Bound::AtLeastOfPeer(_));
    GOALS.iter().any(|goal| compares(goal) && goal.commands.contains(&command))
}

/// The goals as a table: the median of each command's runs, and whether it meets the goal.
pub fn table(runs: &[(&'static str, Run)]) -> String {
    let rows: Vec<Vec<String>> = GOALS.iter().filter_map(|goal| row(goal, runs)).collect();
    let mut out = String::new();
    let peer = format!("measured ({})", PEER.name());
    let head = ["what", "goal", &peer, "", "`cargo xtask load` …"];
    report::aligned(&mut out, &head, &rows).expect("writing to a String doesn't fail");
    out
}

/// CPU time per message by process at ordinary load, as a table: the median of our runs.
pub fn by_process(runs: &[(&'static str, Run)]) -> Option<String> {
    let of_command = || ours(runs, BY_PROCESS);
    let names = &of_command().next()?.processes;
    let row = |usage: &Usage| {
        let cpu = |run: &Run| run.cpu(Some(&usage.name)) * 1e6 / run.sent.max(1) as f64;
        let cpu = median(of_command().map(cpu).collect())?;
        (usage.name != GENERATOR).then(|| vec![usage.name.clone(), report::amount(cpu, "us")])
    };
    let mut out = String::new();
    let head = [&format!("`{BY_PROCESS}`: CPU per message"), "median"].map(str::to_owned);
    let rows: Vec<Vec<String>> = names.iter().filter_map(row).collect();
    report::aligned(&mut out, &[&head[0], &head[1]], &rows).expect("writing to a String doesn't fail");
    Some(out)
}

fn ours<'a>(runs: &'a [(&'static str, Run)], command: &'a str) -> impl Iterator<Item = &'a Run> {
    let is_ours = move |(other, run): &&(&str, Run)| *other == command && run.system == OURS;
    runs.iter().filter(is_ours).map(|(_, run)| run)
}

fn row(goal: &Goal, runs: &[(&'static str, Run)]) -> Option<Vec<String>> {
    let of_command =
        |command: &&str| median(ours(runs, command).filter_map(|run| goal.figure.of(run)).collect());
    let medians: Vec<f64> = goal.commands.iter().map(of_command).collect::<Option<_>>()?;
    let least = medians.iter().copied().fold(f64::MAX, f64::min);
    let most = medians.iter().copied().fold(0.0, f64::max);
    let mut shown: Vec<String> = medians.iter().map(|median| report::amount(*median, goal.unit)).collect();
    let of_peer = || {
        let theirs =
            runs.iter().filter(|(other, run)| goal.commands.contains(other) && run.system == PEER.name());
        median(theirs.filter_map(|(_, run)| goal.figure.of(run)).collect())
    };
    let mut ratio = || {
        let theirs = of_peer()?;
        shown = vec![format!(
            "{} ({}, {})",
            report::ratio(most / theirs),
            report::amount(most, goal.unit),
            report::amount(theirs, goal.unit),
        )];
        Some(most / theirs)
    };
    let (required, met) = match goal.bound {
        Bound::AtMost(bound) => (format!("≤ {}", report::amount(bound, goal.unit)), most <= bound),
        Bound::AtLeast(bound) => (format!("≥ {}", report::amount(bound, goal.unit)), least >= bound),
        Bound::Alike(bound) => (format!("within {bound}×"), most <= bound * least),
        Bound::AtMostOfPeer(bound) => (format!("≤ {}", report::ratio(bound)), ratio()? <= bound),
        Bound::AtLeastOfPeer(bound) => (format!("≥ {}", report::ratio(bound)), ratio()? >= bound),
    };
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
