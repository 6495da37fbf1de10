//! What is measured: every metric has a name, a form and a meaning, said in one list for each service.
//!
//! `docs/operations.md` has them all in one table, and a test compares what is exposed with that.

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, set_global_recorder,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::{sync::OnceLock, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// The form of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Only grows.
    Counter,
    /// Is as it is.
    Gauge,
    /// How often it was how much.
    Histogram,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    name: &'static str,
    form: Form,
    unit: Unit,
    help: &'static str,
    /// For a counter with a label: what that may be, where this is known. A counter that first appears when something
    /// went wrong shows no increase, so each starts from zero.
    label: Option<(&'static str, &'static [&'static str])>,
}

impl Metric {
    /// A counter of things.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, form: Form::Counter, unit: Unit::Count, help, label: None }
    }

    /// A gauge of things.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, form: Form::Gauge, unit: Unit::Count, help, label: None }
    }

    /// A histogram of things.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, form: Form::Histogram, unit: Unit::Count, help, label: None }
    }

    /// In seconds.
    #[must_use]
    pub const fn seconds(self) -> Self {
        Self { unit: Unit::Seconds, ..self }
    }

    /// With a label: all that it may be.
    #[must_use]
    pub const fn by(self, label: &'static str, values: &'static [&'static str]) -> Self {
        Self { label: Some((label, values)), ..self }
    }
}

/// What every process measures.
const EVERY: &[Metric] = &[
    Metric::gauge("target_info", "1, labelled with what runs: name, version, commit."),
    Metric::gauge("process_open_fds", "Files that the process has open, sockets included."),
    Metric::gauge("process_max_fds", "Files that the process may open."),
    Metric::counter("trace_spans_exported_total", "Spans that the collector took."),
    Metric::counter("trace_spans_dropped_total", "Spans that no collector got.")
        .by("reason", &["queue_full", "export_failed"]),
];

/// What every process measures that talks to NATS.
const NATS: &[Metric] = &[
    Metric::gauge("nats_connected", "Whether the connection to NATS stands: 1 or 0."),
    Metric::counter("nats_connects_total", "Connections to NATS made: the first, and each reconnect."),
    Metric::counter(
        "nats_dropped_total",
        "Overflows of a subscription: messages of NATS that were not taken.",
    ),
    Metric::counter("nats_messages_total", "Messages over NATS.").by("direction", &["in", "out"]),
    Metric::counter("nats_bytes_total", "Bytes of messages over NATS.").by("direction", &["in", "out"]),
    Metric::histogram(
        "nats_request_duration_seconds",
        "Time to answer a request over NATS, by its subject and whether it was done or refused.",
    )
    .seconds(),
    Metric::counter(
        "nats_requests_late_total",
        "Requests dropped because their requester had given up, by subject.",
    ),
    Metric::counter(
        "nats_requests_delayed_total",
        "Requests that waited because as many of their subject as may were under way.",
    ),
];

/// What every process measures that talks to Postgres.
pub(crate) const POSTGRES: &[Metric] = &[
    Metric::gauge("db_client_connection_count", "Connections to Postgres, by state: idle or used."),
    Metric::gauge("db_client_connection_max", "Connections to Postgres that there may be."),
    Metric::counter("postgres_timeouts_total", "Statements that Postgres did not end in time."),
    Metric::counter("postgres_broken_connections_total", "Connections to Postgres found broken in use."),
    Metric::counter(
        "postgres_silent_connections_total",
        "Connections to Postgres given up because they fell silent.",
    ),
];

/// Upper bounds of durations, in seconds.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds of what is counted.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

/// Describes metrics, and starts their counters from zero.
pub fn describe(metrics: &[Metric]) {
    for Metric { name, form, unit, help, label } in metrics.iter().copied() {
        match form {
            Form::Counter => describe_counter!(name, unit, help),
            Form::Gauge => describe_gauge!(name, unit, help),
            Form::Histogram => describe_histogram!(name, unit, help),
        }
        match (form, label) {
            (Form::Counter, None) => counter!(name).absolute(0),
            (Form::Counter, Some((label, values))) => {
                for value in values {
                    counter!(name, label => *value).absolute(0);
                }
            }
            _ => {}
        }
    }
}

/// Says what runs: the labels of `target_info`, by OpenTelemetry's names.
pub fn identify(service: &str) {
    recorder();
    let labels = [
        ("service_name", service.to_owned()),
        ("service_version", env!("CARGO_PKG_VERSION").to_owned()),
        // Known where the build said it.
        ("vcs_ref_head_revision", option_env!("GIT_COMMIT").unwrap_or("unknown").to_owned()),
    ];
    gauge!("target_info", &labels).set(1.0);
}

/// The process's metrics; services that a test runs in one process share them.
pub(crate) fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = builder().expect("these buckets are not empty").build_recorder();
            let handle = recorder.handle();
            // Only fails where a recorder is installed already; then ours shows nothing, and nothing else is wrong.
            if set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed");
            }
            describe(EVERY);
            describe(NATS);
            handle
        })
        .clone()
}

/// Aggregates the samples of histograms now and then: until that is done, each sample takes memory.
pub(crate) async fn aggregate(recorder: PrometheusHandle, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
    }
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets(COUNTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::metrics::with_local_recorder;

    /// KiB that this process has in memory.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn samples_take_no_memory_for_long_though_nobody_reads_the_metrics() {
        let recorder = builder().unwrap().build_recorder();
        let aggregates = tokio::spawn(aggregate(recorder.handle(), Duration::from_millis(10)));
        let before = resident();
        // In a thread of its own, as an Admin's tasks have theirs.
        let record = move || {
            with_local_recorder(&recorder, || {
                let histogram = ::metrics::histogram!("samples_seconds");
                for _ in 0..100 {
                    (0..100_000).for_each(|_| histogram.record(0.1));
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        };
        tokio::task::spawn_blocking(record).await.unwrap();
        let kib = resident().saturating_sub(before);
        assert!(kib < 32 * 1024, "10,000,000 samples, 8 bytes each, left {kib} KiB");
        aggregates.abort();
    }
}
