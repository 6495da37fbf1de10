//! The metrics of this service.

use service::metrics::Metric;

/// All metrics with their descriptions.
pub const METRICS: &[Metric] = &[
    Metric::counter("chat_messages_total", "Messages stored."),
    Metric::counter("chat_changes_total", "Changes of messages, by kind: edit, data, delete or erase."),
    Metric::counter(
        "chat_expired_messages_total",
        "Messages deleted because they were older than MESSAGE_DAYS.",
    ),
    Metric::counter(
        "chat_kinds_reloads_failed_total",
        "Reloads of the kinds (SIGHUP) that failed because a file is invalid; the former kinds stay.",
    ),
    Metric::gauge("chat_erasures_waiting", "Erasures of users that are not done."),
    Metric::histogram("chat_batch_messages", "Messages per batch. Each batch is one commit."),
    Metric::counter(
        "chat_batches_failed_total",
        "Batches that could not be stored; their senders receive an error.",
    ),
    Metric::gauge("chat_lanes_waiting_messages", "Messages waiting in all writer lanes."),
    Metric::counter(
        "chat_lanes_full_total",
        "Messages that had to wait because the queue of their lane was full.",
    ),
    Metric::counter("chat_sends_late_total", "Messages not stored because their deadline had passed."),
    Metric::counter(
        "chat_detours_total",
        "Number of times a conversation left its lane because another transaction had locked it.",
    ),
    Metric::counter(
        "chat_detours_full_total",
        "Messages refused because too many were waiting for locked conversations.",
    ),
    Metric::counter("chat_joins_full_total", "Join requests that had to wait because the queue was full.")
        .formerly("chat_doors_full_total"),
    Metric::counter("chat_requests_late_total", "Requests refused because they exceeded their time limit.")
        .formerly("chat_answers_late_total"),
    Metric::gauge("chat_outbox_age_seconds", "Age of the oldest commit that JetStream has not acknowledged.")
        .seconds(),
    Metric::gauge("chat_outbox_waiting_commits", "Commits waiting to be published to JetStream.")
        .formerly("chat_outbox_told_entries"),
    Metric::counter(
        "chat_outbox_full_total",
        "Commits not published to JetStream at once because too many were waiting; published later.",
    ),
    Metric::counter(
        "chat_outbox_unacknowledged_total",
        "Commits that JetStream did not acknowledge; published again later.",
    ),
    Metric::counter(
        "chat_outbox_recovered_total",
        "Commits published from the outbox by any replica because the first attempt failed.",
    )
    .formerly("chat_outbox_healed_total"),
];
