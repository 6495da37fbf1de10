//! NATS client of the services: typed events and requests.

use crate::{Backoff, config, trace};
use anyhow::Context;
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event as ClientEvent, HeaderMap, RequestErrorKind, Subscriber,
    connection::State,
};
use bytes::Bytes;
use contract::{Code, Deadline, Event, Refusal, Request, TraceParent, deadline::DEADLINE};
use futures_util::StreamExt;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// The oldest nats-server that supports every setting we use. Older ones silently ignore some of them.
const MIN_SERVER_VERSION: (i64, i64, i64) = (2, 11, 0);
/// Timeout of one attempt of [`retry_until`]: a replica that is killed after it received a request never replies.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// The header of a reply that is a refusal.
pub const REFUSAL: &str = async_nats::service::NATS_SERVICE_ERROR;
/// Maximum size of a payload: within NATS' default limit of 1 MiB, with room for headers.
pub const PAYLOAD_BYTES: usize = 900 * 1024;

/// A connection to NATS that reconnects automatically. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    jetstream: async_nats::jetstream::Context,
    disruptions: Arc<watch::Sender<u64>>,
}

/// The reason why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The service refused the request.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// There is no connection to NATS, so the request was not sent.
    #[error("not connected to NATS: request on {0} not sent")]
    NotConnected(&'static str),
    /// No replica of the service is subscribed.
    #[error("no service is subscribed to {0}")]
    NoResponders(&'static str),
    /// No replica replied in time. The request may have been executed.
    #[error("no reply on {0} in time")]
    TimedOut(&'static str),
    /// The request could not be sent.
    #[error("send a request on {0}")]
    Failed(&'static str, #[source] async_nats::Error),
    /// The request can't be encoded, or the reply can't be decoded.
    #[error("encode or decode the payload of {0}")]
    Payload(&'static str, #[source] serde_json::Error),
}

impl RequestError {
    /// Whether a repetition may help. The request must be idempotent.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(refusal.code, Code::Unavailable),
            Self::NotConnected(_) | Self::NoResponders(_) | Self::TimedOut(_) | Self::Failed(..) => true,
            Self::Payload(..) => false,
        }
    }

    /// Converts the error into the refusal that a client receives.
    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Payload(..) => Refusal::internal(),
            _ => Refusal::unavailable(),
        }
    }
}

impl Bus {
    /// Connects, and logs every few seconds while it can't. Returns `None` if the token is cancelled first.
    ///
    /// # Errors
    /// If the configuration can't be used, so that a retry would not help.
    pub async fn connect(
        name: &str,
        config: &config::Nats,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));
        let servers = config.servers()?;
        let disruptions = Arc::new(watch::Sender::new(0));
        loop {
            let options = options(name, config, &servers, disruptions.clone()).await?;
            let connected = tokio::select! {
                connected = options.connect(&servers.addresses[..]) => connected,
                () = shutdown.cancelled() => return Ok(None),
            };
            match connected {
                Ok(client) => return Ok(Some(Self::new(client, disruptions))),
                Err(error) if error.kind() == ConnectErrorKind::AuthorizationViolation => tracing::warn!(
                    "NATS refuses the user and password in NATS_URL, or the file in NATS_CREDS; trying again"
                ),
                Err(error) => tracing::warn!(error = chain(&error), "waiting for NATS at NATS_URL"),
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = shutdown.cancelled() => return Ok(None),
            }
        }
    }

    fn new(client: Client, disruptions: Arc<watch::Sender<u64>>) -> Self {
        let (major, minor, patch) = MIN_SERVER_VERSION;
        if !client.is_server_compatible(major, minor, patch) {
            let version = client.server_info().version;
            tracing::warn!(version, "this nats-server is too old: {major}.{minor} or later is needed");
        }
        tracing::info!(server = client.server_info().server_name, "connected to NATS");
        let mut jetstream = async_nats::jetstream::new(client.clone());
        jetstream.set_timeout(Duration::from_secs(5));
        Self { client, jetstream, disruptions }
    }

    /// The underlying client, for untyped use.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// JetStream over the same connection.
    pub const fn jetstream(&self) -> &async_nats::jetstream::Context {
        &self.jetstream
    }

    /// Changes whenever events may have been lost: the connection was lost or restored, or a subscription overflowed.
    pub fn disruptions(&self) -> watch::Receiver<u64> {
        self.disruptions.subscribe()
    }

    /// Whether the connection is up, as far as the client knows.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Publishes to all current subscribers. Waits only while the client's own queue is full.
    ///
    /// # Errors
    /// If the client is closed, or the payload is too large.
    pub async fn publish<E: Event>(&self, event: &E) -> anyhow::Result<()> {
        let payload = serde_json::to_vec(event).context("encode an event")?;
        self.publish_bytes(event.subject(), payload.into(), trace::current()).await
    }

    /// Publishes bytes, with `parent` as the parent span.
    ///
    /// # Errors
    /// Same as [`Bus::publish`].
    pub async fn publish_bytes(
        &self,
        subject: String,
        payload: Bytes,
        parent: Option<TraceParent>,
    ) -> anyhow::Result<()> {
        match trace::headers(parent) {
            None => self.client.publish(subject, payload).await,
            Some(headers) => self.client.publish_with_headers(subject, headers, payload).await,
        }
        .context("publish")
    }

    /// Publishes to a stream, and waits for the ack. JetStream drops a repeated `id` within minutes as a duplicate.
    ///
    /// # Errors
    /// If JetStream doesn't acknowledge the message. It may have stored it nevertheless.
    pub async fn store<E: Event>(&self, event: &E, id: &str) -> anyhow::Result<()> {
        let payload = serde_json::to_vec(event).context("encode an event")?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        self.store_bytes(event.subject(), headers, payload.into()).await.map(drop)
    }

    /// Publishes bytes to a stream, and waits for the ack. Returns the number of the message in the stream.
    ///
    /// # Errors
    /// Same as [`Bus::store`].
    pub async fn store_bytes(
        &self,
        subject: String,
        mut headers: HeaderMap,
        payload: Bytes,
    ) -> anyhow::Result<u64> {
        // If it were queued in the client, it might be stored long after the caller gave up.
        anyhow::ensure!(self.is_connected(), "not connected to NATS");
        for (name, values) in trace::headers(trace::current()).iter().flat_map(HeaderMap::iter) {
            values.iter().for_each(|value| headers.insert(name.clone(), value.clone()));
        }
        let ack = self.jetstream.publish_with_headers(subject, headers, payload).await;
        let ack = ack.context("publish to a stream")?.await;
        Ok(ack.context("JetStream did not acknowledge the message")?.sequence)
    }

    /// Sends a request to one replica of a service. A replica that receives it only after `within` drops it.
    ///
    /// # Errors
    /// If there is no reply, or it is a refusal.
    pub async fn request<R: Request>(&self, request: &R, within: Duration) -> Result<R::Reply, RequestError> {
        self.attempt(request, within, Deadline::after(within)).await
    }

    /// Sends a request to one replica of a service, and waits for its reply for `within`. The caller may repeat the
    /// request until `deadline`; a replica that receives it only after that drops it.
    ///
    /// # Errors
    /// If there is no reply, or it is a refusal.
    pub async fn attempt<R: Request>(
        &self,
        request: &R,
        within: Duration,
        deadline: Deadline,
    ) -> Result<R::Reply, RequestError> {
        let payload =
            serde_json::to_vec(request).map_err(|error| RequestError::Payload(R::SUBJECT, error))?;
        let reply = self.request_bytes(R::SUBJECT, payload.into(), within, deadline).await?;
        serde_json::from_slice(&reply).map_err(|error| RequestError::Payload(R::SUBJECT, error))
    }

    /// Sends a request to one replica of a service, and repeats it while that may help, for at most `within` in total.
    /// The request must be idempotent.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn request_until<R: Request>(
        &self,
        request: &R,
        within: Duration,
    ) -> Result<R::Reply, RequestError> {
        retry_until(within, |within, deadline| self.attempt(request, within, deadline)).await
    }

    async fn request_bytes(
        &self,
        subject: &'static str,
        payload: Bytes,
        within: Duration,
        deadline: Deadline,
    ) -> Result<Bytes, RequestError> {
        if !self.is_connected() {
            // If it were queued in the client, it might be executed long after the caller gave up.
            return Err(RequestError::NotConnected(subject));
        }
        let mut headers = trace::headers(trace::current()).unwrap_or_default();
        headers.insert(DEADLINE, deadline.to_string());
        let request = async_nats::Request::new().payload(payload).timeout(Some(within)).headers(headers);
        let answer =
            self.client.send_request(subject, request).await.map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => RequestError::NoResponders(subject),
                RequestErrorKind::TimedOut => RequestError::TimedOut(subject),
                _ => RequestError::Failed(subject, error.into()),
            })?;
        match answer.headers.as_ref().and_then(|headers| headers.get(REFUSAL)) {
            Some(refusal) => Err(RequestError::Refused(Refusal::from_header(refusal.as_str()))),
            None => Ok(answer.payload),
        }
    }

    /// Subscribes to a subject; `*` and `>` are wildcards.
    ///
    /// # Errors
    /// If the client is closed.
    pub async fn subscribe(&self, subject: String) -> anyhow::Result<Subscriber> {
        self.client.subscribe(subject).await.context("subscribe")
    }

    /// Subscribes in a queue group: each payload goes to one replica of this service.
    ///
    /// # Errors
    /// If the client is closed.
    pub async fn queue_subscribe<E: Event>(&self, group: &str) -> anyhow::Result<Subscriber> {
        self.client.queue_subscribe(E::PATTERN, group.to_owned()).await.context("subscribe")
    }

    /// Checks that a message published by this process comes back to it through NATS.
    ///
    /// # Errors
    /// If it doesn't come back within 2 s.
    pub async fn round_trip(&self) -> anyhow::Result<()> {
        let round_trip = async {
            let inbox = self.client.new_inbox();
            let mut subscriber = self.client.subscribe(inbox.clone()).await?;
            self.client.publish(inbox, Bytes::new()).await?;
            subscriber.next().await.context("the subscription ended")
        };
        timeout(Duration::from_secs(2), round_trip).await.context("no reply from NATS within 2 s")??;
        Ok(())
    }

    /// Sets the metrics of the connection.
    pub fn measure(&self) {
        metrics::gauge!("nats_connected").set(f64::from(u8::from(self.is_connected())));
        let totals = self.client.statistics();
        for (direction, messages, bytes) in
            [("in", &totals.in_messages, &totals.in_bytes), ("out", &totals.out_messages, &totals.out_bytes)]
        {
            let (messages, bytes) = (messages.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
            metrics::counter!("nats_messages_total", "direction" => direction).absolute(messages);
            metrics::counter!("nats_bytes_total", "direction" => direction).absolute(bytes);
        }
    }

    /// Waits until the client has ended. A lost connection is restored automatically, but some input ends the client's
    /// task (async-nats 0.51: a header with a bare CR), and then only a new process helps.
    pub async fn lost(&self) -> anyhow::Error {
        while self.client.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        anyhow::anyhow!("the NATS client has ended")
    }

    /// Sends all queued messages and closes the connection. Waits at most 5 s.
    pub async fn close(&self) {
        let drained = timeout(Duration::from_secs(5), async {
            self.client.flush().await.ok();
            self.client.drain().await.ok();
        });
        if drained.await.is_err() {
            tracing::warn!("could not send all queued messages to NATS in time");
        }
    }
}

/// Repeats a request while that may help, for at most `within` in total. `attempt` gets the time limit of one attempt and
/// the deadline of all.
///
/// # Errors
/// The error of the last attempt.
pub async fn retry_until<T, F: Future<Output = Result<T, RequestError>>>(
    within: Duration,
    attempt: impl Fn(Duration, Deadline) -> F,
) -> Result<T, RequestError> {
    let (end, deadline) = (tokio::time::Instant::now() + within, Deadline::after(within));
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    loop {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let error = match attempt(left.min(ATTEMPT), deadline).await {
            Err(error) if error.is_transient() => error,
            ended => return ended,
        };
        let delay = backoff.delay();
        if tokio::time::Instant::now() + delay >= end {
            return Err(error);
        }
        tokio::time::sleep(delay).await;
    }
}

async fn options(
    name: &str,
    config: &config::Nats,
    servers: &config::Servers,
    disruptions: Arc<watch::Sender<u64>>,
) -> anyhow::Result<ConnectOptions> {
    let options = match &config.nats_creds {
        Some(file) => ConnectOptions::with_credentials_file(file)
            .await
            .context("NATS_CREDS names a file that can't be read")?,
        None => ConnectOptions::new(),
    };
    let options = match servers.user.clone() {
        Some((user, password)) => options.user_and_password(user, password),
        None => options,
    };
    Ok(options
        .name(name)
        // A prefix of its own, so that nats-server can keep the replies to one user from the others.
        .custom_inbox_prefix(format!("_INBOX.{name}"))
        .connection_timeout(Duration::from_secs(3))
        .ping_interval(Duration::from_secs(3))
        .reconnect_delay_callback(|attempt| {
            let step = Duration::from_millis(100) * u32::try_from(attempt.min(20)).unwrap_or(20);
            step.mul_f64(0.5 + fastrand::f64() / 2.0)
        })
        .event_callback(move |event| {
            let disruptions = disruptions.clone();
            async move { note(&event, &disruptions) }
        }))
}

fn note(event: &ClientEvent, disruptions: &watch::Sender<u64>) {
    match event {
        ClientEvent::Connected => metrics::counter!("nats_connects_total").increment(1),
        ClientEvent::Disconnected => tracing::warn!("lost NATS; reconnecting"),
        ClientEvent::SlowConsumer(_) => {
            metrics::counter!("nats_dropped_total").increment(1);
        }
        ClientEvent::ServerError(error) => tracing::warn!(%error, "NATS reported an error"),
        ClientEvent::ClientError(error) => tracing::warn!(%error, "the NATS client reported an error"),
        _ => {}
    }
    if matches!(event, ClientEvent::Connected | ClientEvent::Disconnected | ClientEvent::SlowConsumer(_)) {
        disruptions.send_modify(|count| *count += 1);
    }
}

/// An error with its causes, on one line. Many errors contain the text of their cause: it is not repeated.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Upper bound of the length of a text in JSON, used to estimate the size of a payload.
pub fn json_len(text: &str) -> usize {
    let extra: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
            0..=0x1f => 5,
            _ => 0,
        })
        .sum();
    text.len() + extra + 2
}

/// Truncates a page so that it fits into a payload, but keeps at least one item. Returns whether items were removed.
pub fn truncate_page<T: serde::Serialize>(items: &mut Vec<T>) -> serde_json::Result<bool> {
    let (mut bytes, mut keep) = (0, 0);
    for item in &*items {
        bytes += serde_json::to_vec(item)?.len() + 1;
        if bytes > PAYLOAD_BYTES && keep > 0 {
            break;
        }
        keep += 1;
    }
    let cut = keep < items.len();
    items.truncate(keep);
    Ok(cut)
}
