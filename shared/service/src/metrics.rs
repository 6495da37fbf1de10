//! Metrics. Each process lists its metrics with name, type and meaning.
//!
//! `docs/operations.md` documents all of them in one table. A test compares the table with the exposed metrics.

use crate::version;
use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, set_global_recorder,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::{sync::OnceLock, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// Type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// A value that only increases.
    Counter,
    /// A value that increases and decreases.
    Gauge,
    /// A distribution of values.
    Histogram,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    name: &'static str,
    kind: MetricType,
    unit: Unit,
    help: &'static str,
    /// Label of a counter with its known values. Each value starts from zero, because a counter that first appears
    /// after a failure shows no increase.
    label: Option<(&'static str, &'static [&'static str])>,
    /// Name in the release before, under which the metric is exposed as well.
    former: Option<&'static str>,
    /// Whether a gauge starts from zero, so that it is exposed before it is first measured.
    from_zero: bool,
}

impl Metric {
    const fn new(name: &'static str, kind: MetricType, help: &'static str) -> Self {
        Self { name, kind, unit: Unit::Count, help, label: None, former: None, from_zero: false }
    }

    /// Creates a counter of things.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, MetricType::Counter, help)
    }

    /// Creates a gauge of things.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, MetricType::Gauge, help)
    }

    /// Creates a histogram of things.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self::new(name, MetricType::Histogram, help)
    }

    /// Sets the unit to seconds.
    #[must_use]
    pub const fn seconds(self) -> Self {
        Self { unit: Unit::Seconds, ..self }
    }

    /// Sets the unit to bytes.
    #[must_use]
    pub const fn bytes(self) -> Self {
        Self { unit: Unit::Bytes, ..self }
    }

    /// Starts a gauge from zero. An alert on zero also fires if the service never gets as far as its first measurement.
    #[must_use]
    pub const fn from_zero(self) -> Self {
        Self { from_zero: true, ..self }
    }

    /// Exposes the metric under its former name as well, so that dashboards and alerts work for one more release.
    #[must_use]
    pub const fn formerly(self, name: &'static str) -> Self {
        Self { former: Some(name), ..self }
    }

    /// Rewrites a line of the exposition of this metric for its former name.
    fn under_former_name(&self, line: &str) -> Option<String> {
        let former = self.former?;
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, _) = rest.split_once(' ')?;
            return (name == self.name).then(|| format!("# HELP {former} Deprecated: renamed to {name}."));
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ')?;
            return (name == self.name).then(|| format!("# TYPE {former} {kind}"));
        }
        let (name, sample) = line.split_at(line.find(['{', ' '])?);
        let suffix = name.strip_prefix(self.name)?;
        ["", "_bucket", "_sum", "_count"].contains(&suffix).then(|| format!("{former}{suffix}{sample}"))
    }

    /// Adds a label with all its values.
    #[must_use]
    pub const fn by(self, label: &'static str, values: &'static [&'static str]) -> Self {
        Self { label: Some((label, values)), ..self }
    }
}

/// Metrics of every process.
const COMMON: &[Metric] = &[
    Metric::gauge("target_info", "Always 1; the labels hold name, version and commit of the process."),
    Metric::counter("process_cpu_seconds_total", "CPU time of the process, in whole seconds.").seconds(),
    Metric::gauge("process_resident_memory_bytes", "Resident memory of the process.").bytes(),
    Metric::gauge("process_virtual_memory_bytes", "Virtual memory of the process.").bytes(),
    Metric::gauge("process_virtual_memory_max_bytes", "Maximum virtual memory of the process; 0: no limit.")
        .bytes(),
    Metric::gauge("process_start_time_seconds", "Start of the process, in Unix seconds.").seconds(),
    Metric::gauge("process_threads", "Number of threads of the process."),
    Metric::gauge("process_open_fds", "Number of open files, including sockets."),
    Metric::gauge("process_max_fds", "Maximum number of open files; 0: no limit."),
    Metric::gauge("tokio_workers", "Number of worker threads of the runtime."),
    Metric::gauge("tokio_alive_tasks", "Number of tasks that have not ended."),
    Metric::gauge(
        "tokio_global_queue_tasks",
        "Number of tasks that wait in the queue shared by all workers.",
    ),
    Metric::gauge(
        "tokio_busy_ratio",
        "Share of time for which the workers were busy since the last scrape, 0 to 1.",
    ),
    Metric::counter("tokio_parks_total", "Number of times that a worker found nothing to do and waited."),
    Metric::counter("panics_total", "Number of panics."),
    Metric::counter("trace_spans_exported_total", "Number of exported spans."),
    Metric::counter("trace_spans_dropped_total", "Number of spans dropped before export, by reason.")
        .by("reason", &["queue_full", "export_failed"]),
];

/// Metrics of every process that uses NATS.
const NATS: &[Metric] = &[
    // A service that waits for NATS when it starts is not connected either.
    Metric::gauge("nats_connected", "1 while connected to NATS, otherwise 0.").from_zero(),
    Metric::counter("nats_connects_total", "Number of connections to NATS, including reconnects."),
    Metric::counter(
        "nats_dropped_total",
        "Number of overflows of a NATS subscription, each of which dropped messages.",
    ),
    Metric::counter("nats_messages_total", "Number of NATS messages, by direction.")
        .by("direction", &["in", "out"]),
    Metric::counter("nats_bytes_total", "Bytes of NATS messages, by direction.")
        .by("direction", &["in", "out"]),
    Metric::histogram(
        "nats_request_duration_seconds",
        "Time to handle a NATS request, by subject and outcome (done, refused or late).",
    )
    .seconds(),
    Metric::counter(
        "nats_requests_late_total",
        "Number of requests dropped because their deadline had passed, by subject.",
    ),
    Metric::counter(
        "nats_requests_delayed_total",
        "Number of requests delayed by the concurrency limit of their subject.",
    ),
];

/// Metrics of every process that uses Postgres.
pub(crate) const POSTGRES: &[Metric] = &[
    Metric::gauge(
        "db_client_connection_count",
        "Number of connections to Postgres, by state (idle or used).",
    ),
    Metric::gauge("db_client_connection_max", "Maximum number of connections to Postgres."),
    Metric::gauge(
        "postgres_oldest_transaction_seconds",
        "Age of the oldest transaction in the database; NaN if Postgres does not reply.",
    )
    .seconds(),
    Metric::counter("postgres_timeouts_total", "Number of statements that timed out."),
    Metric::counter(
        "postgres_broken_connections_total",
        "Number of connections to Postgres that broke in use.",
    ),
    Metric::counter(
        "postgres_silent_connections_total",
        "Number of connections to Postgres closed because they did not reply.",
    ),
];

/// Histogram buckets of durations, in seconds.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Histogram buckets of counts.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

/// Describes metrics, and starts their counters, and some gauges, from zero.
pub fn describe(metrics: &[Metric]) {
    for Metric { name, kind, unit, help, label, from_zero, .. } in metrics.iter().copied() {
        match kind {
            MetricType::Counter => describe_counter!(name, unit, help),
            MetricType::Gauge => describe_gauge!(name, unit, help),
            MetricType::Histogram => describe_histogram!(name, unit, help),
        }
        match (kind, label) {
            (MetricType::Counter, None) => counter!(name).absolute(0),
            (MetricType::Counter, Some((label, values))) => {
                for value in values {
                    counter!(name, label => *value).absolute(0);
                }
            }
            (MetricType::Gauge, _) if from_zero => gauge!(name).set(0.0),
            _ => {}
        }
    }
}

/// Renders all metrics in Prometheus' text format, renamed ones under both names.
pub(crate) fn render(recorder: &PrometheusHandle, metrics: &[Metric]) -> String {
    let text = recorder.render();
    let former = metrics
        .iter()
        .filter(|metric| metric.former.is_some())
        .flat_map(|metric| text.lines().filter_map(|line| metric.under_former_name(line)));
    let former: String = former.map(|line| line + "\n").collect();
    text + &former
}

/// Sets `target_info`, whose labels identify the process by OpenTelemetry's names.
pub fn identify(service: &str) {
    recorder();
    let labels = [
        ("service_name", service.to_owned()),
        ("service_version", version::VERSION.to_owned()),
        ("vcs_ref_head_revision", version::COMMIT.to_owned()),
    ];
    gauge!("target_info", &labels).set(1.0);
}

/// The metrics recorder of the process. Services that a test runs in one process share it.
pub(crate) fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = builder().expect("these buckets are not empty").build_recorder();
            let handle = recorder.handle();
            // Fails only if another recorder is installed. Then ours stays empty, without further harm.
            if set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed");
            }
            describe(COMMON);
            describe(NATS);
            handle
        })
        .clone()
}

/// Aggregates the samples of histograms regularly, because each sample takes memory until then.
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

    #[test]
    fn counters_and_marked_gauges_are_exposed_before_their_first_value() {
        let recorder = builder().unwrap().build_recorder();
        with_local_recorder(&recorder, || {
            let by = Metric::counter("failures_total", "Failures.").by("reason", &["a", "b"]);
            describe(&[
                by,
                Metric::gauge("connected", "Connected.").from_zero(),
                Metric::gauge("age", "Age."),
            ]);
        });
        let text = recorder.handle().render();
        for line in ["failures_total{reason=\"a\"} 0", "failures_total{reason=\"b\"} 0", "connected 0"] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("\nage "), "{text}");
    }

    #[test]
    fn a_renamed_metric_is_exposed_under_both_names() {
        let metrics = [
            Metric::counter("joins_total", "Joins.").formerly("doors_total"),
            Metric::histogram("batch", "Batches.").formerly("pack"),
            Metric::counter("joins_total_other", "Not renamed."),
        ];
        let recorder = builder().unwrap().build_recorder();
        with_local_recorder(&recorder, || {
            describe(&metrics);
            counter!("joins_total", "kind" => "a").increment(2);
            ::metrics::histogram!("batch").record(3.0);
        });
        let text = render(&recorder.handle(), &metrics);
        for line in [
            "# HELP doors_total Deprecated: renamed to joins_total.",
            "# TYPE doors_total counter",
            "doors_total{kind=\"a\"} 2",
            "joins_total{kind=\"a\"} 2",
            "pack_bucket{le=\"4\"} 1",
            "pack_sum 3",
            "pack_count 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("doors_total_other"), "{text}");
    }

    /// Resident memory of this process in KiB.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn samples_are_aggregated_even_if_nobody_reads_the_metrics() {
        // In a process of its own, because the other tests use memory, too.
        const ALONE: &str = "SAMPLES_ALONE";
        const NAME: &str = "metrics::tests::samples_are_aggregated_even_if_nobody_reads_the_metrics";
        if std::env::var_os(ALONE).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            return runtime.block_on(record_samples());
        }
        let test = std::env::current_exe().unwrap();
        let ran = std::process::Command::new(test).args(["--exact", NAME]).env(ALONE, "1").output().unwrap();
        let printed = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && printed.contains("1 passed"), "{printed}");
    }

    #[cfg(target_os = "linux")]
    async fn record_samples() {
        let recorder = builder().unwrap().build_recorder();
        let aggregation = tokio::spawn(aggregate(recorder.handle(), Duration::from_millis(10)));
        let before = resident();
        // On one thread, no samples come in while the aggregation is due.
        for _ in 0..100 {
            with_local_recorder(&recorder, || {
                let histogram = ::metrics::histogram!("samples_seconds");
                (0..100_000).for_each(|_| histogram.record(0.1));
            });
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let kib = resident().saturating_sub(before);
        assert!(kib < 32 * 1024, "10,000,000 samples of 8 bytes each still use {kib} KiB");
        aggregation.abort();
    }
}
