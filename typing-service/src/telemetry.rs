//! What is measured.

use service::metrics::Metric;

/// Each metric of this service.
pub const METRICS: &[Metric] = &[
    Metric::gauge("typing_typists", "Who types somewhere, as far as this replica knows."),
    Metric::counter("typing_inputs_total", "What gateways said of keyboards, taken by this replica."),
    Metric::counter("typing_events_total", "Events told: who starts, goes on or stops typing.")
        .by("kind", &["start", "renewal", "end"]),
    Metric::counter("typing_stale_total", "Inputs and events dropped because they came too late.")
        .by("what", &["input", "event"]),
    Metric::counter("typing_refused_total", "Typists not remembered, as there are TYPISTS_MAX."),
    Metric::counter("typing_unpublished_total", "Events that NATS did not take."),
    Metric::counter("typing_unreadable_total", "Payloads that can't be read.")
        .by("what", &["input", "event"]),
];
