//! Metrics of the process and of its async runtime.

use std::sync::Mutex;
use tokio::runtime::Handle;
use tokio_metrics::{RuntimeIntervals, RuntimeMonitor};

/// Measures the process and the runtime on which it was created.
pub(crate) struct Process {
    collector: metrics_process::Collector,
    /// The time since the last measurement.
    intervals: Mutex<RuntimeIntervals>,
}

impl Process {
    /// Must be called on a runtime.
    pub(crate) fn new() -> Self {
        let intervals = RuntimeMonitor::new(&Handle::current()).intervals();
        Self { collector: metrics_process::Collector::default(), intervals: Mutex::new(intervals) }
    }

    /// Sets the metrics.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn measure(&self) {
        self.collector.collect();
        let interval = self.intervals.lock().expect("no holder of this lock panics").next();
        let Some(interval) = interval else { return };
        metrics::gauge!("tokio_workers").set(interval.workers_count as f64);
        metrics::gauge!("tokio_alive_tasks").set(interval.live_tasks_count as f64);
        metrics::gauge!("tokio_global_queue_tasks").set(interval.global_queue_depth as f64);
        let available = interval.elapsed.as_secs_f64() * interval.workers_count as f64;
        if available > 0.0 {
            metrics::gauge!("tokio_busy_ratio").set(interval.total_busy_duration.as_secs_f64() / available);
        }
        metrics::counter!("tokio_parks_total").increment(interval.total_park_count);
    }
}
