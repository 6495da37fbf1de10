//! The metrics of the gateway.

use service::metrics::Metric;

/// All metrics of the gateway.
pub const METRICS: &[Metric] = &[
    Metric::gauge("gateway_sockets", "Open sockets, by kind."),
    Metric::counter("gateway_handshakes_total", "Accepted handshakes, by kind.")
        .by("kind", &["chat", "notifications", "typing", "presence", "multiplexed"]),
    Metric::counter("gateway_handshakes_refused_total", "Refused handshakes, by reason.").by(
        "reason",
        &["address", "bad_address", "overload", "origin", "user", "token", "forbidden", "unavailable"],
    ),
    Metric::counter("gateway_closes_total", "Sockets closed, by close code.").by(
        "code",
        &["1000", "1002", "1003", "1007", "1009", "1011", "1012", "1013", "4400", "4401", "4403", "4429"],
    ),
    Metric::counter(
        "gateway_sockets_limited_total",
        "Handshakes refused because their user already had SOCKETS_PER_USER sockets.",
    ),
    Metric::counter("gateway_frames_limited_total", "Frames refused because their user exceeded FRAME_RATE."),
    Metric::counter(
        "gateway_sends_limited_total",
        "Messages refused because their user exceeded SEND_RATE or CONVERSATION_SEND_RATE.",
    ),
    Metric::counter(
        "gateway_typing_limited_total",
        "Typing inputs refused because their user exceeded TYPING_RATE.",
    ),
    Metric::counter(
        "gateway_calls_limited_total",
        "HTTP API calls refused because their user exceeded CALL_RATE.",
    ),
    Metric::counter("backend_calls_total", "HTTP API calls of backends, by route and status."),
    Metric::counter(
        "gateway_conversations_limited_total",
        "Calls to open a conversation refused because their user exceeded CONVERSATION_RATE.",
    ),
    Metric::counter(
        "gateway_reads_limited_total",
        "Read markers refused because their user exceeded READ_RATE.",
    ),
    Metric::counter(
        "gateway_subscribes_limited_total",
        "Subscriptions refused because their user exceeded SUBSCRIBE_RATE.",
    ),
    Metric::counter(
        "gateway_typing_full_total",
        "Typing inputs refused because too many waited for typing-service.",
    ),
    Metric::counter(
        "gateway_requests_refused_total",
        "HTTP requests refused because they exceeded a limit, by limit.",
    )
    .by("limit", &["head_bytes", "head_time", "body_bytes", "body_time"]),
    Metric::counter(
        "gateway_connections_refused_total",
        "Connections refused with 503 because too few file descriptors were left.",
    ),
    Metric::gauge("gateway_response_bytes", "Bytes of HTTP API responses that are not yet written."),
    Metric::counter(
        "gateway_responses_limited_total",
        "HTTP API calls refused because too many responses were in progress, by limit.",
    )
    .by("limit", &["answers", "user_answers", "bytes", "user_bytes"]),
    Metric::counter(
        "gateway_responses_stalled_total",
        "Connections closed because the client did not read a response in time.",
    ),
    Metric::counter("gateway_typing_stale_total", "Typing events dropped because they arrived too late."),
    Metric::counter("gateway_slow_clients_total", "Sockets closed because the client read too slowly."),
    Metric::counter(
        "gateway_silent_clients_total",
        "Sockets closed because nothing was received from the client for IDLE_SECONDS.",
    ),
    Metric::counter(
        "gateway_channels_limited_total",
        "Subscriptions refused because the socket already had the maximum number.",
    ),
    Metric::counter(
        "gateway_joins_full_total",
        "Joins of conversations that found the queue to chat-service full and waited.",
    )
    .formerly("gateway_doors_full_total"),
    Metric::histogram("gateway_send_batch_messages", "Messages in a batch to chat-service.")
        .formerly("gateway_pack_sends"),
    Metric::counter(
        "gateway_send_batches_failed_total",
        "Failed attempts to send a batch to chat-service; repeated until the deadline.",
    )
    .formerly("gateway_packs_failed_total"),
    Metric::gauge(
        "gateway_sends_waiting",
        "Messages waiting to be sent to chat-service or to be answered by it.",
    )
    .formerly("gateway_packer_waiting_sends"),
    Metric::counter(
        "gateway_sends_full_total",
        "Messages that found the queue to chat-service full and waited.",
    )
    .formerly("gateway_packer_full_total"),
    Metric::histogram(
        "gateway_delivery_duration_seconds",
        "Time from a live message's commit until the last socket of this gateway has written it.",
    )
    .seconds(),
    Metric::gauge(
        "gateway_events_connected",
        "Whether the gateway's own NATS connection, for events, sends, joins and typing, is established: 1 or 0.",
    )
    .from_zero(),
    Metric::counter("gateway_events_total", "Events received from services."),
    Metric::counter("gateway_events_bytes_total", "Bytes of events received from services."),
    Metric::counter(
        "gateway_events_full_total",
        "The gateway's own NATS connections closed because too many commands waited to be written.",
    ),
    Metric::counter("gateway_changes_repaired_total", "Reads of missed changes from chat-service."),
    Metric::gauge("gateway_present_users", "Users who are present at this gateway."),
    Metric::counter("gateway_presence_batches_total", "Batches of users who came or left, published."),
    Metric::counter("gateway_presence_snapshots_total", "Pages of present users, sent to services."),
    Metric::counter(
        "gateway_presence_limited_total",
        "Changes of who sees a user's presence refused because their user made more than 10 in a minute.",
    ),
    Metric::gauge(
        "gateway_presence_waiting",
        "Users who came or are leaving, which is not published yet.",
    ),
    Metric::gauge("gateway_presence_watches", "Subscriptions of sockets to presence."),
    Metric::counter(
        "gateway_presence_unread_total",
        "Times that presence or blocks of watched users could not be read from notify-service or chat-service.",
    ),
    Metric::gauge("gateway_channels_repairing", "Channels whose missed entries or markers are being read.")
        .formerly("gateway_channels_mending"),
    Metric::counter(
        "gateway_logs_restarted_total",
        "Channels whose log went back, for example after a restore of Postgres; their sockets were closed.",
    ),
    Metric::counter("gateway_repairs_total", "Requests for entries or markers that a channel had missed."),
    Metric::counter(
        "gateway_pending_full_total",
        "Events dropped because too many already waited behind a gap; read from the service later.",
    ),
    Metric::counter("gateway_undecodable_total", "Events of services that could not be decoded."),
    Metric::counter(
        "gateway_languages_dropped_total",
        "Languages of users that could not be reported to notify-service.",
    ),
    Metric::counter("gateway_languages_full_total", "Number of times the language cache was full."),
    Metric::counter("gateway_key_refreshes_total", "Requests to JWT_JWKS_URL, by result.")
        .by("result", &["ok", "failed"]),
    Metric::counter(
        "gateway_tokens_by_previous_key_total",
        "Tokens accepted because a former key verifies them.",
    ),
    Metric::histogram(
        "http_server_request_duration_seconds",
        "Duration of HTTP API calls, by method, route and status.",
    )
    .seconds(),
];
