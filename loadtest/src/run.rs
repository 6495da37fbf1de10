//! What a run found, as it is kept and compared.

use crate::{judge::Verdict, processes::Usage};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One or more runs, as `--json` writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When the first began, RFC 3339.
    pub began: String,
    /// What they ran on.
    pub machine: Machine,
    /// The command.
    pub command: String,
    /// Each run.
    pub runs: Vec<Run>,
}

/// What a run ran on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors.
    pub cpus: usize,
    /// Their model.
    pub model: String,
    /// The kernel.
    pub kernel: String,
}

/// One scenario on one system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The scenario.
    pub scenario: String,
    /// The system.
    pub system: String,
    /// How it was loaded, in words.
    pub load: String,
    /// Seconds for which load was put on.
    pub seconds: f64,
    /// What it all comes down to.
    pub figures: Vec<Figure>,
    /// Things sent.
    pub sent: u64,
    /// Things that reached a socket.
    pub delivered: u64,
    /// Error frames.
    pub errors: u64,
    /// Sockets that the system closed.
    pub closed: u64,
    /// What was wrong with what came.
    pub verdict: Verdict,
    /// From when each thing was due until it was there.
    pub latency: Option<Latency>,
    /// What each process used, the generator included.
    pub processes: Vec<Usage>,
    /// How it went over time.
    pub samples: Vec<Sample>,
}

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: String,
    /// Whether more of it is better.
    #[serde(default)]
    pub more_is_better: bool,
}

impl Figure {
    /// A figure of which less is better.
    pub fn cost(name: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { name: name.into(), value, unit: unit.to_owned(), more_is_better: false }
    }

    /// A figure of which more is better.
    pub fn rate(name: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { more_is_better: true, ..Self::cost(name, value, unit) }
    }
}

impl Run {
    /// The value of a figure.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// CPU seconds of the system's processes, or of those of one name.
    pub fn cpu(&self, name: Option<&str>) -> f64 {
        let ours = self.processes.iter().filter(|usage| usage.name != GENERATOR);
        ours.filter(|usage| name.is_none_or(|name| usage.name == name)).map(|usage| usage.cpu_seconds).sum()
    }
}

/// What the generator is called among the processes.
pub const GENERATOR: &str = "load generator";

/// How long things took, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// Half of them took at most this long.
    pub p50: u64,
    /// And so on.
    pub p90: u64,
    /// And so on.
    pub p99: u64,
    /// And so on.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// Pairs of percentile and microseconds, closer together towards 100.
    pub curve: Vec<(f64, u64)>,
}

impl Latency {
    /// What a histogram of microseconds says, if it has anything.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let at = |percentile| histogram.value_at_quantile(percentile / 100.0);
        let curve = histogram.iter_quantiles(5).map(|step| (step.percentile(), step.value_iterated_to()));
        Some(Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: histogram.max(),
            curve: curve.collect(),
        })
    }
}

/// A moment of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the load began.
    pub at: f64,
    /// Sent per second.
    pub sent: f64,
    /// Delivered per second.
    pub delivered: f64,
    /// Latencies in microseconds, where anything came.
    pub p50: Option<u64>,
    /// And so on.
    pub p99: Option<u64>,
    /// The longest.
    pub max: Option<u64>,
}
