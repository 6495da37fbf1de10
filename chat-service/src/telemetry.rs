//! What is measured.

use crate::{lanes::Lanes, outbox::Outbox};
use service::metrics::Metric;

/// Each metric of this service.
pub const METRICS: &[Metric] = &[
    Metric::counter("chat_messages_total", "Messages stored."),
    Metric::histogram("chat_batch_messages", "Messages of one batch, which is one commit."),
    Metric::counter("chat_batches_failed_total", "Batches given up: their senders are told `unavailable`."),
    Metric::gauge("chat_lanes_waiting_messages", "Messages that wait in the writer lanes, over all lanes."),
    Metric::counter(
        "chat_lanes_full_total",
        "Messages that found their lane full, and waited for room in it.",
    ),
    Metric::counter("chat_sends_late_total", "Messages not stored because their deadline had passed."),
    Metric::counter(
        "chat_detours_total",
        "Times that a conversation left its lane because another transaction had locked it.",
    ),
    Metric::counter(
        "chat_detours_full_total",
        "Messages refused because too many waited for locked conversations.",
    ),
    Metric::counter(
        "chat_doors_full_total",
        "Questions of who may be on conversations that waited for their turn.",
    ),
    Metric::counter("chat_answers_late_total", "Questions given up because their answer took too long."),
    Metric::gauge("chat_outbox_age_seconds", "Age of the oldest commit that JetStream has not acknowledged.")
        .seconds(),
    Metric::gauge("chat_outbox_told_entries", "Commits that JetStream is to be told with the next ones."),
    Metric::counter("chat_outbox_full_total", "Commits that found too many waiting; told again."),
    Metric::counter("chat_outbox_unacknowledged_total", "Commits that JetStream did not take; told again."),
    Metric::counter("chat_outbox_healed_total", "Commits that their writer left untold, told by a replica."),
];

/// Sets the depths of the queues. It keeps none of them open.
pub fn queues(lanes: &Lanes, outbox: &Outbox) -> impl Fn() + Send + Sync + use<> {
    let (lanes, told) = (lanes.depth(), outbox.depth());
    move || {
        metrics::gauge!("chat_lanes_waiting_messages").set(lanes() as f64);
        metrics::gauge!("chat_outbox_told_entries").set(told() as f64);
    }
}
