//! Results of runs, in the form in which they are stored and compared.

use crate::{judge::Verdict, processes::Usage};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One or more runs, in the format of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Start of the first run, in RFC 3339.
    pub began: String,
    /// Machine of the runs.
    pub machine: Machine,
    /// Command line.
    pub command: String,
    pub runs: Vec<Run>,
}

/// The machine of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Number of processors.
    pub cpus: usize,
    /// Model of the processors.
    pub model: String,
    /// Version of the kernel.
    pub kernel: String,
}

/// A run of one scenario on one system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub scenario: String,
    pub system: String,
    /// Description of the load.
    pub load: String,
    /// Duration of the load in seconds.
    pub seconds: f64,
    /// Main results.
    pub figures: Vec<Figure>,
    /// Number of items sent.
    pub sent: u64,
    /// Number of items that reached a socket.
    pub delivered: u64,
    /// Number of error frames.
    pub errors: u64,
    /// Number of sockets closed by the system.
    pub closed: u64,
    /// Errors in the delivered items.
    pub verdict: Verdict,
    /// Latency of each item, from its due time to its arrival.
    pub latency: Option<Latency>,
    /// Resource usage of each process, including the generator.
    pub processes: Vec<Usage>,
    /// Samples over time.
    pub samples: Vec<Sample>,
}

/// A result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    /// Value in this unit.
    pub value: f64,
    /// Unit of the value.
    pub unit: String,
    /// True if a larger value is better.
    #[serde(default)]
    pub more_is_better: bool,
}

impl Figure {
    /// Creates a figure for which a smaller value is better.
    pub fn cost(name: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { name: name.into(), value, unit: unit.to_owned(), more_is_better: false }
    }

    /// Creates a figure for which a larger value is better.
    pub fn rate(name: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { more_is_better: true, ..Self::cost(name, value, unit) }
    }
}

impl Run {
    /// Value of a figure.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// CPU seconds of the system's processes, or of those with this name.
    pub fn cpu(&self, name: Option<&str>) -> f64 {
        let ours = self.processes.iter().filter(|usage| usage.name != GENERATOR);
        ours.filter(|usage| name.is_none_or(|name| usage.name == name)).map(|usage| usage.cpu_seconds).sum()
    }
}

/// Name of the generator among the processes.
pub const GENERATOR: &str = "load generator";

/// Latencies in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Number of latencies.
    pub count: u64,
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Maximum.
    pub max: u64,
    /// Pairs of percentile and microseconds, at smaller intervals towards 100.
    pub curve: Vec<(f64, u64)>,
}

impl Latency {
    /// Evaluates a histogram of microseconds; `None` if it is empty.
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

/// A sample of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the start of the load.
    pub at: f64,
    /// Items sent per second.
    pub sent: f64,
    /// Items delivered per second.
    pub delivered: f64,
    /// Median latency in microseconds, if any item arrived.
    pub p50: Option<u64>,
    /// 99th percentile in microseconds.
    pub p99: Option<u64>,
    /// Maximum in microseconds.
    pub max: Option<u64>,
}
