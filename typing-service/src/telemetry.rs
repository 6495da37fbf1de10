//! The metrics of this service.

use service::metrics::Metric;

/// All metrics with their descriptions.
pub const METRICS: &[Metric] = &[
    Metric::gauge("typing_users", "Users typing in a conversation, as known to this replica.")
        .formerly("typing_typists"),
    Metric::counter("typing_inputs_total", "Typing inputs received by this replica."),
    Metric::counter("typing_events_total", "Typing events published, by kind: start, renewal or end.")
        .by("kind", &["start", "renewal", "end"]),
    Metric::counter("typing_stale_total", "Inputs and events dropped because they arrived too late.")
        .by("what", &["input", "event"]),
    Metric::counter("typing_refused_total", "Typists not tracked because TYPISTS_MAX was reached."),
    Metric::counter("typing_unpublished_total", "Events that could not be published to NATS."),
    Metric::counter("typing_unreadable_total", "Payloads that could not be parsed.")
        .by("what", &["input", "event"]),
    Metric::counter("presence_published_total", "Changes of users' presence, published for gateways."),
    Metric::counter(
        "presence_unpublished_total",
        "Changes of users' presence that could not be published to NATS.",
    ),
];
