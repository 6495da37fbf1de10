//! A receiver of webhooks, which keeps the ids of the events, and sometimes fails. At the end, they are compared with
//! the events that were published.

use super::rules::{Fault, Rule};
use anyhow::Context;
use async_nats::jetstream;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use contract::streams::{EVENTS_OUT_STREAM, SENT_SUBJECT};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::net::TcpListener;

/// A secret of the webhook.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// One of so many first attempts fails.
const FAILING: u8 = 20;

/// The receiver. It answers as long as the process lives.
pub struct Receiver {
    url: String,
    received: Arc<Mutex<Received>>,
}

/// What the receiver has accepted.
#[derive(Debug, Default)]
struct Received {
    /// Number of accepted requests of each event.
    accepted: BTreeMap<String, u64>,
    /// Events whose first attempt failed.
    failed: BTreeSet<String>,
    rng: fastrand::Rng,
}

impl Receiver {
    /// Starts to answer on a free port.
    ///
    /// # Errors
    /// If there is none.
    pub async fn start(seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for webhooks")?;
        let url = format!("http://{}/", listener.local_addr()?);
        let rng = fastrand::Rng::with_seed(seed);
        let received = Arc::new(Mutex::new(Received { rng, ..Received::default() }));
        let router = Router::new().route("/", post(accept)).with_state(received.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, received })
    }

    /// Configuration of the services: this webhook and all events.
    pub fn env(&self) -> [(&'static str, String); 3] {
        [
            ("WEBHOOK_URL", self.url.clone()),
            ("WEBHOOK_SECRET", SECRET.to_owned()),
            ("TELL", "opened,sent,read,changed".to_owned()),
        ]
    }

    /// Number of accepted requests of each event.
    pub fn accepted(&self) -> BTreeMap<String, u64> {
        lock(&self.received).accepted.clone()
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(State(received): State<Arc<Mutex<Received>>>, headers: HeaderMap) -> StatusCode {
    let Some(id) = headers.get("webhook-id").and_then(|id| id.to_str().ok()) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut received = lock(&received);
    if !received.accepted.contains_key(id)
        && received.rng.u8(..FAILING) == 0
        && received.failed.insert(id.to_owned())
    {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    *received.accepted.entry(id.to_owned()).or_default() += 1;
    StatusCode::NO_CONTENT
}

/// Number of events that the webhook has not received.
///
/// # Errors
/// If NATS doesn't reply.
pub async fn pending(jetstream: &jetstream::Context) -> anyhow::Result<u64> {
    let stream = jetstream.get_stream_no_info(EVENTS_OUT_STREAM).await.context("open a stream")?;
    // Without a webhook, there is no consumer.
    let Ok(info) = stream.consumer_info("webhook-default").await else { return Ok(0) };
    Ok(info.num_pending + info.num_ack_pending as u64)
}

/// Collects the faults of the events: each stored message has one, and each one was delivered.
pub fn judge(
    accepted: &BTreeMap<String, u64>,
    published: &BTreeSet<&str>,
    messages: impl IntoIterator<Item = i64>,
    faults: &mut Vec<Fault>,
) {
    let sent = messages.into_iter().map(|message| format!("{SENT_SUBJECT}-{message}"));
    let unpublished: Vec<String> = sent.filter(|id| !published.contains(id.as_str())).collect();
    let undelivered: Vec<String> =
        published.iter().filter(|id| !accepted.contains_key(**id)).map(|id| (*id).to_owned()).collect();
    let unknown: Vec<String> =
        accepted.keys().filter(|id| !published.contains(id.as_str())).cloned().collect();
    for (what, ids) in [
        ("stored messages have no event for backends", unpublished),
        ("events for backends were not delivered to the webhook", undelivered),
        ("events that the webhook received were never published", unknown),
    ] {
        if !ids.is_empty() {
            let fault = Fault::new(Rule::Told, format!("{} {what}", ids.len()));
            faults.push(fault.with(ids.into_iter().take(5)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_an_event_is_found() {
        let found = |accepted: &[&str], published: &[&str]| {
            let accepted = accepted.iter().map(|id| ((*id).to_owned(), 2)).collect();
            let published = published.iter().copied().collect();
            let mut faults = Vec::new();
            judge(&accepted, &published, [7], &mut faults);
            faults.into_iter().map(|fault| fault.what).collect::<Vec<_>>()
        };
        assert_eq!(found(&["chat.sent-7", "report-1"], &["chat.sent-7", "report-1"]), [] as [&str; 0]);
        assert_eq!(found(&[], &[]), ["1 stored messages have no event for backends"]);
        assert_eq!(found(&[], &["chat.sent-7"]), ["1 events for backends were not delivered to the webhook"]);
        assert_eq!(
            found(&["chat.sent-7", "x"], &["chat.sent-7"]),
            ["1 events that the webhook received were never published"]
        );
    }
}
