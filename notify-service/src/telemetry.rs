//! What is measured.

use service::metrics::Metric;

/// Each metric of this service.
pub const METRICS: &[Metric] = &[
    Metric::histogram("batch_messages", "Messages of a stream that were taken together."),
    Metric::counter("batch_retries_total", "Batches given back to NATS, as Postgres did not store them.")
        .by("stream", &["EVENTS", "CHAT"]),
    Metric::counter(
        "batches_too_slow_total",
        "Transactions that took too long, and were done in halves or waited.",
    )
    .by("stream", &["EVENTS", "CHAT"]),
    Metric::counter("events_set_aside_total", "Messages that took too long alone, and come again later.")
        .by("stream", &["EVENTS", "CHAT"]),
    Metric::gauge("consumer_lag", "Messages of a stream that are not done: not delivered yet, or under way."),
    Metric::counter(
        "notifications_total",
        "Notifications: stored, repeated (the event came again), superseded.",
    )
    .by("outcome", &["stored", "repeated", "superseded"]),
    Metric::counter("notifications_removed_total", "Notifications removed as older than the retention."),
    Metric::counter(
        "stranded_messages_total",
        "Messages that NATS brought back and gives to nobody, done again.",
    )
    .by("stream", &["EVENTS", "CHAT"]),
    Metric::counter("deadletters_total", "Events that can't be used, kept as dead letters."),
    Metric::counter("deadletters_truncated_total", "Dead letters that don't hold all of their event."),
];
