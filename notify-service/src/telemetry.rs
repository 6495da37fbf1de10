//! The metrics of this service.

use service::metrics::Metric;

/// All metrics with their descriptions.
pub const METRICS: &[Metric] = &[
    Metric::histogram("batch_messages", "Messages per batch of a stream."),
    Metric::counter("batch_retries_total", "Batches returned to NATS because Postgres did not store them.")
        .by("stream", &["EVENTS", "CHAT"]),
    Metric::counter(
        "batches_too_slow_total",
        "Transactions that took too long; their batch was split, or a single message deferred.",
    )
    .by("stream", &["EVENTS", "CHAT"]),
    Metric::counter("events_deferred_total", "Messages deferred because they took too long alone.")
        .formerly("events_set_aside_total")
        .by("stream", &["EVENTS", "CHAT"]),
    Metric::gauge(
        "held_messages",
        "Messages of the chat that wait until their notifications may supersede earlier ones.",
    ),
    Metric::counter(
        "held_messages_full_total",
        "Times that so many messages waited that no more were fetched.",
    ),
    Metric::counter(
        "notified_conversations_forgotten_total",
        "Times that so many conversations had just notified their users that all were forgotten, which costs transactions.",
    ),
    Metric::gauge("consumer_lag", "Messages of a stream that are not delivered yet or not acknowledged."),
    Metric::counter(
        "notifications_total",
        "Notifications by outcome: stored, repeated (the event was delivered again) or superseded.",
    )
    .by("outcome", &["stored", "repeated", "superseded"]),
    Metric::counter(
        "notifications_removed_total",
        "Notifications removed because they were older than the retention time.",
    ),
    Metric::counter(
        "rescued_messages_total",
        "Acknowledged messages that reappeared in a stream after a crash of NATS, and were processed again.",
    )
    .formerly("stranded_messages_total")
    .by("stream", &["EVENTS", "CHAT"]),
    Metric::counter(
        "chat_events_full_total",
        "Entries of the chat's log deferred because too many waited for their events to be published.",
    ),
    Metric::counter(
        "chat_events_retries_total",
        "Batches of the chat's log returned to NATS because their events were not published.",
    ),
    Metric::counter(
        "webhooks_total",
        "Deliveries of webhooks, by endpoint and outcome: delivered, failed (to be retried) or dead.",
    ),
    Metric::gauge("webhook_lag", "Events that an endpoint has not received, by endpoint."),
    Metric::counter("deadletters_total", "Invalid events, stored as dead letters."),
    Metric::counter(
        "deadletters_truncated_total",
        "Dead letters truncated because their event was too large.",
    ),
];
