//! One attempt to deliver an event.

use super::endpoints::Endpoint;
use async_nats::{HeaderMap, jetstream::Message};
use contract::{
    Timestamp,
    notify::{EVENT_TYPE_HEADER, REPLAY_OF_HEADER},
    streams::WEBHOOK_PREFIX,
};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Number of bytes of an answer that a dead letter's reason shows.
const ANSWER_BYTES: usize = 200;

/// An event as an endpoint receives it.
pub struct Delivery {
    /// The same for each attempt.
    pub id: String,
    /// The type: its subject, as published first.
    pub kind: String,
    /// The body of the request.
    pub body: String,
}

/// The result of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint has the event.
    Delivered,
    /// The endpoint wants no further attempt; with the reason.
    Gone(String),
    /// To be tried again; with the reason.
    Failed(String),
}

impl Delivery {
    /// The delivery of a message. `None` if it is no event.
    pub fn new(message: &Message) -> Option<Self> {
        #[derive(Deserialize)]
        struct Event<'a> {
            #[serde(borrow)]
            event_id: Option<Cow<'a, str>>,
            #[serde(borrow)]
            occurred_at: Option<Cow<'a, str>>,
            #[serde(borrow)]
            created_at: Option<Cow<'a, str>>,
        }
        let header = |name: &str| {
            let value = message.headers.as_ref().and_then(|headers: &HeaderMap| headers.get(name));
            value.map(|value| value.as_str().to_owned())
        };
        let data: &RawValue = serde_json::from_slice(&message.payload).ok()?;
        let event: Event<'_> = serde_json::from_str(data.get()).ok()?;
        let info = message.info().ok()?;
        // A replay has a new `Nats-Msg-Id`.
        let replayed = || header(REPLAY_OF_HEADER)?.strip_prefix("id:").map(str::to_owned);
        let id = event.event_id.map(Cow::into_owned).or_else(replayed).or_else(|| header("Nats-Msg-Id"));
        let id = id.unwrap_or_else(|| format!("{}-{}", info.stream, info.stream_sequence));
        let subject = message.subject.as_str();
        let kind =
            if subject.starts_with(WEBHOOK_PREFIX) { header(EVENT_TYPE_HEADER)? } else { subject.to_owned() };
        let at = event.occurred_at.or(event.created_at).map(Cow::into_owned);
        let at = at.unwrap_or_else(|| Timestamp::from(info.published).to_string());
        let (kind_json, at_json) = (serde_json::to_string(&kind).ok()?, serde_json::to_string(&at).ok()?);
        let body = format!(r#"{{"type":{kind_json},"timestamp":{at_json},"data":{}}}"#, data.get());
        Some(Self { id, kind, body })
    }

    /// Sends the event once. `client` has the time limit, and follows no redirects.
    pub async fn attempt(&self, client: &Client, endpoint: &Endpoint) -> Outcome {
        let now = Timestamp::now().unix();
        let signatures: Vec<String> =
            endpoint.secrets.iter().map(|secret| secret.sign(&self.id, now, &self.body)).collect();
        let request = client
            .post(endpoint.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &self.id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signatures.join(" "))
            .body(self.body.clone());
        match request.send().await {
            Ok(response) if response.status().is_success() => Outcome::Delivered,
            Ok(response) => {
                let status = response.status();
                let text = start_of(response).await;
                let colon = if text.is_empty() { "" } else { ": " };
                let reason = format!("the last answer was {}{colon}{text}", status.as_u16());
                if status == StatusCode::GONE { Outcome::Gone(reason) } else { Outcome::Failed(reason) }
            }
            Err(error) if error.is_timeout() => Outcome::Failed("no answer in time".to_owned()),
            // Without the address, which may contain a password.
            Err(error) => Outcome::Failed(service::bus::chain(&error.without_url())),
        }
    }
}

/// The start of an answer's text.
async fn start_of(mut response: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES - bytes.len())]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
