//! Comparison of our system with the peers: the same commands on each, one after the other.

use crate::{
    goals::{Figure, median},
    report,
    run::Run,
    system::OURS,
};

/// A figure of one command.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// Description of the measurement.
    pub what: &'static str,
    /// Measured figure.
    pub figure: Figure,
    /// Unit of the figure.
    pub unit: &'static str,
    /// Command to run.
    pub command: &'static str,
}

const CHAT: &str = "chat --conversations 20 --seconds 5 --warm-up 1";
const ALONE: &str = "chat --conversations 1 --senders 1 --seconds 5 --warm-up 1";
const FAN_OUT: &str = "fan-out --sockets 100 --rate 20 --seconds 5 --warm-up 1";
const OVERLOAD: &str = "fan-out --sockets 100 --senders 50 --rate 100 --seconds 10 --warm-up 1";
const HANDSHAKE: &str = "handshake --rate 50 --seconds 5 --warm-up 1";
const IDLE: &str = "idle --sockets 2000 --seconds 25";
const TYPING: &str = "typing --pairs 20 --rate 100 --seconds 5 --warm-up 1";
/// Named like a figure: the percentage of lost deliveries.
const LOST: &str = "lost";

/// All comparisons. Except for the overload, the slowest system can handle each load.
pub const COMPARISONS: &[Comparison] = &[
    Comparison {
        what: "CPU per message stored and shown to 2, 20 conversations, saturated",
        figure: Figure::Named("CPU per message"),
        unit: "us",
        command: CHAT,
    },
    Comparison {
        what: "messages per second, the same",
        figure: Figure::Named("messages per second"),
        unit: "/s",
        command: CHAT,
    },
    Comparison {
        what: "latency of one message at a time, p50",
        figure: Figure::P50,
        unit: "ms",
        command: ALONE,
    },
    Comparison {
        what: "latency of one message at a time, p99",
        figure: Figure::P99,
        unit: "ms",
        command: ALONE,
    },
    Comparison {
        what: "CPU per delivery, 1 message to 100 sockets",
        figure: Figure::Named("CPU per delivery"),
        unit: "us",
        command: FAN_OUT,
    },
    Comparison {
        what: "latency, 50 senders to 100 sockets, 100 messages/s, p99",
        figure: Figure::P99,
        unit: "ms",
        command: OVERLOAD,
    },
    Comparison {
        what: "deliveries lost, the same",
        figure: Figure::Named(LOST),
        unit: "%",
        command: OVERLOAD,
    },
    Comparison {
        what: "CPU per handshake",
        figure: Figure::Named("CPU per handshake"),
        unit: "us",
        command: HANDSHAKE,
    },
    Comparison {
        what: "memory of an idle socket, in the process that holds it",
        figure: Figure::Named("memory per socket"),
        unit: "KiB",
        command: IDLE,
    },
    Comparison {
        what: "CPU per typing event, from one to one",
        figure: Figure::Named("CPU per event"),
        unit: "us",
        command: TYPING,
    },
];

/// All commands, without duplicates.
pub fn commands() -> Vec<&'static str> {
    let mut commands: Vec<&str> = COMPARISONS.iter().map(|comparison| comparison.command).collect();
    commands.dedup();
    commands
}

/// The comparisons as a table: the median of each system's runs, and each peer's ratio to ours.
pub fn table(runs: &[(&'static str, Run)], peers: &[&str]) -> String {
    let mut head = vec!["what", OURS];
    for peer in peers {
        head.extend([peer, "ratio"]);
    }
    head.push("`cargo xtask load` …");
    let mut rows = Vec::new();
    for Comparison { what, figure, unit, command } in COMPARISONS {
        let of_system = |system: &str| {
            let of_it = runs.iter().filter(|(other, run)| other == command && run.system == system);
            median(of_it.filter_map(|(_, run)| value(*figure, run)).collect())
        };
        let Some(ours) = of_system(OURS) else { continue };
        let mut row = vec![(*what).to_owned(), report::amount(ours, unit)];
        for peer in peers {
            let theirs = of_system(peer);
            row.push(theirs.map_or("–".to_owned(), |theirs| report::amount(theirs, unit)));
            row.push(
                theirs.filter(|_| ours > 0.0).map_or("–".to_owned(), |theirs| report::ratio(theirs / ours)),
            );
        }
        row.push(format!("`{command}`"));
        rows.push(row);
    }
    let mut out = String::new();
    report::aligned(&mut out, &head, &rows).expect("writing to a String doesn't fail");
    out
}

fn value(figure: Figure, run: &Run) -> Option<f64> {
    match figure {
        Figure::Named(LOST) => {
            let lost = run.verdict.lost as f64;
            Some(100.0 * lost / (run.delivered as f64 + lost).max(1.0))
        }
        figure => figure.of(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::line;

    #[test]
    fn every_comparison_has_a_valid_command() {
        for command in commands() {
            line(command).scenario.shorten();
        }
        assert_eq!(commands().len(), 7, "the comparisons of one command are adjacent");
    }
}
