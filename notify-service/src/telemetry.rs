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
    Metric::gauge(
        "events_out_waiting",
        "Events for backends that are not in the stream EVENTS_OUT yet, counted up to a million of each subject.",
    ),
    Metric::gauge("events_out_age_seconds", "Age of the oldest of them; 0 if there are none."),
    Metric::counter(
        "events_out_retries_total",
        "Publications of events for backends that failed; they are repeated.",
    ),
    Metric::counter(
        "events_out_full_total",
        "Times that changes of presence were put off because a million of them waited.",
    ),
    Metric::counter(
        "reminders_total",
        "Decisions on reminders, by step and outcome: issued (users), postponed or dropped (unread things).",
    ),
    Metric::histogram(
        "reminders_late_seconds",
        "Time from when a reminder of an unread thing was due until it was issued.",
    ),
    Metric::gauge(
        "reminders_behind_seconds",
        "Time by which the sweeps of a step are behind: what is due since then may not be decided. 0 if nothing is due or waits, otherwise up to 12 s.",
    ),
    Metric::gauge(
        "reminders_waiting",
        "Unread things whose reminder is postponed, by step; at most 100,000.",
    ),
    Metric::counter(
        "reminders_forgotten_total",
        "Decisions on reminders removed because what they were about had been read, or their step is gone.",
    ),
    Metric::counter(
        "webhooks_total",
        "Deliveries of webhooks, by endpoint and outcome: delivered, failed (to be retried) or dead.",
    ),
    Metric::gauge("webhook_lag", "Events that an endpoint has not received, by endpoint."),
    Metric::gauge(
        "webhook_room_ratio",
        "Part of the stream EVENTS_OUT that can be written before it loses an event that an endpoint lacks, by endpoint.",
    ),
    Metric::gauge(
        "webhook_retrying",
        "Events being delivered or waiting for another attempt, by endpoint; at most 50,000.",
    ),
    Metric::counter(
        "presence_events_dropped_total",
        "Changes of presence put off because too many had not settled; a comparison finds them.",
    ),
    Metric::counter(
        "presence_unstored_total",
        "Users whose last-seen time could not be stored; the next time follows.",
    ),
    Metric::counter("deadletters_total", "Invalid events, stored as dead letters."),
    Metric::counter(
        "deadletters_truncated_total",
        "Dead letters truncated because their event was too large.",
    ),
];
