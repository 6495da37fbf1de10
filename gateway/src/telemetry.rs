//! The metrics of the gateway.

use service::metrics::Metric;

/// Each metric of the gateway.
pub const METRICS: &[Metric] = &[
    Metric::gauge("gateway_sockets", "Open sockets, by kind."),
    Metric::counter("gateway_handshakes_total", "Sockets let in, by kind.")
        .by("kind", &["chat", "notifications", "typing", "multiplexed"]),
    Metric::counter("gateway_handshakes_refused_total", "Sockets not let in, by reason.").by(
        "reason",
        &["address", "bad_address", "overload", "origin", "user", "token", "forbidden", "unavailable"],
    ),
    Metric::counter("gateway_closes_total", "Sockets closed, by close code.").by(
        "code",
        &["1000", "1002", "1003", "1007", "1009", "1011", "1012", "1013", "4400", "4401", "4403", "4429"],
    ),
    Metric::counter("gateway_sockets_limited_total", "Handshakes of users with SOCKETS_PER_USER sockets."),
    Metric::counter("gateway_frames_limited_total", "Frames refused because of their user's rate."),
    Metric::counter("gateway_sends_limited_total", "Messages refused for their user's rate."),
    Metric::counter(
        "gateway_typing_limited_total",
        "Starts and ends of typing refused for their user's rate.",
    ),
    Metric::counter("gateway_calls_limited_total", "Calls of the HTTP API refused for their user's rate."),
    Metric::counter(
        "gateway_conversations_limited_total",
        "Conversations not opened because of their user's rate.",
    ),
    Metric::counter("gateway_reads_limited_total", "Read markers refused for their user's rate."),
    Metric::counter("gateway_subscribes_limited_total", "Subscriptions refused for their user's rate."),
    Metric::counter("gateway_typing_full_total", "Starts and ends of typing refused as too many waited."),
    Metric::counter("gateway_requests_refused_total", "Requests of HTTP refused for a limit.")
        .by("limit", &["head_bytes", "head_time", "body_bytes", "body_time"]),
    Metric::counter(
        "gateway_connections_refused_total",
        "Connections refused with 503 because files would run out otherwise.",
    ),
    Metric::gauge("gateway_response_bytes", "Bytes of answers to calls that are not yet written."),
    Metric::counter(
        "gateway_responses_limited_total",
        "Answers to calls refused because too many were under way.",
    )
    .by("limit", &["answers", "user_answers", "bytes", "user_bytes"]),
    Metric::counter(
        "gateway_responses_stalled_total",
        "Connections ended because their client did not read an answer in time.",
    ),
    Metric::counter("gateway_typing_stale_total", "Typing events dropped because they came too late."),
    Metric::counter("gateway_slow_clients_total", "Sockets closed because their client read too slowly."),
    Metric::counter(
        "gateway_silent_clients_total",
        "Sockets closed because nothing was heard of their client.",
    ),
    Metric::counter("gateway_channels_limited_total", "Subscriptions refused, as one socket has no more."),
    Metric::counter(
        "gateway_doors_full_total",
        "Questions of who may be on a conversation that waited for room.",
    ),
    Metric::histogram("gateway_pack_sends", "Messages that travelled to chat-service together."),
    Metric::counter("gateway_packs_failed_total", "Packs without an answer from chat-service; asked again."),
    Metric::gauge("gateway_packer_waiting_sends", "Messages that wait for a pack."),
    Metric::counter(
        "gateway_packer_full_total",
        "Messages that found as many waiting as may, and waited for room.",
    ),
    Metric::histogram(
        "gateway_delivery_duration_seconds",
        "From the commit until no socket of this gateway waits for it any more, of messages that came live.",
    )
    .seconds(),
    Metric::gauge("gateway_events_connected", "Whether the connection to NATS for events stands: 1 or 0."),
    Metric::counter("gateway_events_total", "Events of services that came."),
    Metric::counter("gateway_events_bytes_total", "Bytes of events of services that came."),
    Metric::counter(
        "gateway_events_full_total",
        "Connections to NATS for events given up because NATS did not take as much as was to be written.",
    ),
    Metric::gauge("gateway_channels_mending", "Channels that have missed something, and read it soon."),
    Metric::counter(
        "gateway_logs_restarted_total",
        "Channels whose log went back, as after a restore of Postgres; their sockets were closed.",
    ),
    Metric::counter("gateway_repairs_total", "Reads of what a channel had missed."),
    Metric::counter(
        "gateway_pending_full_total",
        "Events that came too far ahead of a hole; read again later.",
    ),
    Metric::counter("gateway_undecodable_total", "Events of services that can't be read."),
    Metric::counter(
        "gateway_languages_dropped_total",
        "Languages of users that notify-service was not told.",
    ),
    Metric::counter(
        "gateway_languages_full_total",
        "Times that as many languages were remembered as may be.",
    ),
    Metric::counter("gateway_key_refreshes_total", "Reads of JWT_JWKS_URL, by result.")
        .by("result", &["ok", "failed"]),
    Metric::histogram(
        "http_server_request_duration_seconds",
        "Calls of the HTTP API, by method, route and status.",
    )
    .seconds(),
];
