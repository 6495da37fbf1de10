//! Events: the answer means that JetStream has them.

use super::call::{App, IdempotencyKey};
use crate::{
    http::{
        extract::JsonBytes,
        problem::{Problem, ProblemDetails},
    },
    state::Shared,
};
use async_nats::HeaderMap as NatsHeaders;
use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
};
use bytes::Bytes;
use contract::{
    Code, Refusal,
    event::{self, Unusable},
    limits,
    notify::EventBody,
    streams::EVENTS_PREFIX,
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::{RawValue, to_raw_value};
use service::Backoff;
use std::{borrow::Cow, collections::BTreeMap, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};
use utoipa::ToSchema;

/// Maximum number of events in a batch.
const BATCH: usize = 100;
/// Time limit of one attempt to publish.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// An event that JetStream has stored.
#[derive(Serialize, ToSchema)]
pub struct Stored {
    /// The identity of the event, by which a repeat is recognised.
    event_id: String,
    /// The number of the event in its stream.
    #[schema(minimum = 1)]
    seq: u64,
}

/// The outcomes of a batch.
#[derive(Serialize, ToSchema)]
pub struct Outcomes {
    /// One outcome for each event, in the order of the request.
    items: Vec<Outcome>,
}

/// The outcome of one event of a batch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Outcome {
    /// The event is stored.
    Stored(Stored),
    /// The event is not stored, or perhaps not.
    Refused(ProblemDetails),
}

/// Publish an event
///
/// The answer 202 means that JetStream has the event: it becomes one notification for each of its users, or a dead
/// letter. `Idempotency-Key` is the `event_id` if the event has none; without both, the event gets a new one. A repeat of
/// an `event_id` notifies nobody again, even with another body: the first one counts.
///
/// CloudEvents 1.0 are accepted as well: structured (`application/cloudevents+json`, or a body with `specversion`) and
/// binary (headers `ce-…`).
#[utoipa::path(post, path = "/backend/events/{type}", tag = "Events",
    params(
        ("type" = String, Path, description = "Type of the event, such as `payment_completed`"),
        ("Idempotency-Key" = Option<String>, Header, description = "The `event_id`, if the event has none"),
    ),
    request_body = EventBody,
    responses((status = 202, description = "JetStream has the event", body = Stored)))]
pub async fn publish_event(
    State(shared): App,
    kind: Result<Path<String>, PathRejection>,
    IdempotencyKey(key): IdempotencyKey,
    headers: HeaderMap,
    JsonBytes(body): JsonBytes,
) -> Result<(StatusCode, Json<Stored>), Problem> {
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .filter(|(name, _)| name.as_str() == "content-type" || name.as_str().starts_with("ce-"))
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    let Path(kind) = kind.map_err(|_| Problem::invalid("the type in the path is not UTF-8"))?;
    let event = Checked::new(kind, &headers, body, key)?;
    store(&shared, event, Instant::now() + limits::SEND_DEADLINE)
        .await
        .map(|stored| (StatusCode::ACCEPTED, Json(stored)))
}

/// Publish several events
///
/// An array of at most 100 events, each with its `type`; at most 1 MiB. Each event succeeds or fails by itself. With
/// `Idempotency-Key`, an event without `event_id` gets the key, a colon, and its index from 0.
#[utoipa::path(post, path = "/backend/events", tag = "Events",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "Beginning of the `event_id` of events that have none")),
    request_body = Vec<EventBody>,
    responses((status = 200, description = "The outcome of each event", body = Outcomes)))]
pub async fn publish_events(
    State(shared): App,
    IdempotencyKey(key): IdempotencyKey,
    JsonBytes(body): JsonBytes,
) -> Result<Json<Outcomes>, Problem> {
    let parsed: Result<Vec<&RawValue>, _> = serde_json::from_slice(&body);
    let bodies = parsed.map_err(|_| match serde_json::from_slice::<IgnoredAny>(&body) {
        Ok(_) => Problem::invalid("the body must be an array of events"),
        Err(_) => Refusal::new(Code::InvalidJson, "not JSON").into(),
    })?;
    if bodies.len() > BATCH {
        return Err(Problem::invalid(format!("a batch has at most {BATCH} events")));
    }
    let end = Instant::now() + limits::SEND_DEADLINE;
    let outcomes = bodies.into_iter().enumerate().map(async |(index, raw)| {
        let key = key.as_ref().map(|key| format!("{key}:{index}"));
        let stored = async {
            let kind = type_of(raw)?;
            let event = Checked::new(kind, &[], body.slice_ref(raw.get().as_bytes()), key)?;
            store(&shared, event, end).await
        };
        match stored.await {
            Ok(stored) => Outcome::Stored(stored),
            Err(problem) => Outcome::Refused(problem.into()),
        }
    });
    Ok(Json(Outcomes { items: join_all(outcomes).await }))
}

/// The type that an event of a batch states.
fn type_of(event: &RawValue) -> Result<String, Problem> {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(borrow)]
        r#type: Cow<'a, str>,
    }
    let typed: Result<Typed<'_>, _> = serde_json::from_str(event.get());
    typed.map(|typed| typed.r#type.into_owned()).map_err(|_| Problem::invalid("an event needs a \"type\""))
}

/// A valid event with an identity.
struct Checked {
    event_id: String,
    subject: String,
    headers: NatsHeaders,
    body: Bytes,
}

impl Checked {
    /// Checks an event. If it has no identity, it gets the key, or else a new one.
    fn new(
        kind: String,
        headers: &[(&str, &str)],
        body: Bytes,
        key: Option<String>,
    ) -> Result<Self, Problem> {
        let parsed = event::parse(&kind, headers, &body).map_err(|reason| unusable(&reason, &body))?;
        let (event_id, body) = match parsed.identity {
            Some(identity) => (identity.id().to_owned(), body),
            None if is_cloud_event(headers, &body) => {
                return Err(Problem::invalid("the CloudEvent has no \"id\""));
            }
            None => {
                let id = key.unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)));
                let id = event::event_id(id).map_err(|reason| Problem::invalid(reason.0))?;
                let body = with_id(&body, &id)?;
                // Again: it may have become too large.
                event::parse(&kind, headers, &body).map_err(|reason| unusable(&reason, &body))?;
                (id, body)
            }
        };
        let mut own = NatsHeaders::new();
        for (name, value) in headers {
            own.append(*name, *value);
        }
        Ok(Self { event_id, subject: format!("{EVENTS_PREFIX}{kind}"), headers: own, body })
    }
}

/// Whether an event without identity is a CloudEvent: then its body is not the object that could have an `event_id`.
fn is_cloud_event(headers: &[(&str, &str)], body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Structured {
        specversion: Option<IgnoredAny>,
    }
    headers.iter().any(|(name, value)| {
        let is_structured = || value.to_ascii_lowercase().starts_with("application/cloudevents");
        name.starts_with("ce-") || *name == "content-type" && is_structured()
    }) || serde_json::from_slice::<Structured>(body).is_ok_and(|event| event.specversion.is_some())
}

/// Adds an `event_id` to an event, whose other fields stay as they are.
fn with_id(body: &[u8], id: &str) -> Result<Bytes, Problem> {
    let with_id = || {
        let mut fields: BTreeMap<Cow<'_, str>, Box<RawValue>> = serde_json::from_slice(body)?;
        fields.insert("event_id".into(), to_raw_value(id)?);
        serde_json::to_vec(&fields)
    };
    with_id().map(Bytes::from).map_err(|_| Refusal::internal().into())
}

fn unusable(reason: &Unusable, body: &[u8]) -> Problem {
    match serde_json::from_slice::<IgnoredAny>(body) {
        Ok(_) => Problem::invalid(reason.0.clone()),
        Err(_) => Refusal::new(Code::InvalidJson, reason.0.clone()).into(),
    }
}

/// Publishes an event, and waits until JetStream has it. Repeats this until the deadline, which is safe because the event
/// has an identity.
async fn store(shared: &Shared, event: Checked, end: Instant) -> Result<Stored, Problem> {
    let Checked { event_id, subject, headers, body } = event;
    let bus = shared.hub.bus();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    let stored = async {
        loop {
            let attempt = bus.store_bytes(subject.clone(), headers.clone(), body.clone());
            match timeout(ATTEMPT, attempt).await {
                Ok(Ok(seq)) => return seq,
                Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "store an event of a backend"),
                Err(_) => tracing::warn!("store an event of a backend: no acknowledgement in time"),
            }
            backoff.wait().await;
        }
    };
    match timeout_at(end, stored).await {
        Ok(seq) => Ok(Stored { event_id, seq }),
        Err(_) => Err(Refusal::new(
            Code::Unavailable,
            "the event is perhaps not stored; repeat it with the same event_id",
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(headers: &[(&str, &str)], body: &str, key: Option<&str>) -> Result<(String, String), String> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        match Checked::new("payment_completed".into(), headers, body, key.map(str::to_owned)) {
            Ok(event) => Ok((event.event_id, String::from_utf8(event.body.to_vec()).unwrap())),
            Err(problem) => Err(format!("{problem:?}")),
        }
    }

    #[test]
    fn the_key_is_the_event_id_unless_the_event_has_one() {
        let own = r#"{ "user_id": 1, "event_id": "e1" }"#;
        assert_eq!(check(&[], own, Some("k")).unwrap(), ("e1".into(), own.into()), "the body is unchanged");
        let plain = r#"{"user_id":1,"event_id":null,"data":{"n":1.000000000000000000001}}"#;
        let (id, body) = check(&[], plain, Some("k")).unwrap();
        let expected = r#"{"data":{"n":1.000000000000000000001},"event_id":"k","user_id":1}"#;
        assert_eq!((&*id, &*body), ("k", expected), "numbers keep their digits");
        let (one, other) = (check(&[], plain, None).unwrap().0, check(&[], plain, None).unwrap().0);
        assert!(one.len() == 32 && one != other);
        let long = "k".repeat(257);
        assert!(check(&[], plain, Some(&long)).unwrap_err().contains("longer than 256"));
    }

    #[test]
    fn a_cloud_event_has_its_own_id() {
        let structured = r#"{"specversion":"1.0","id":"c1","source":"/pay","type":"payment_completed","data":{"user_id":7}}"#;
        assert_eq!(check(&[], structured, Some("k")).unwrap(), ("c1".into(), structured.into()));
        let binary = [("ce-id", "c2"), ("ce-source", "/pay"), ("ce-specversion", "1.0")];
        assert_eq!(check(&binary, r#"{"user_id":7}"#, None).unwrap().0, "c2");
        let without = structured.replace(r#""id":"c1","#, "");
        assert!(check(&[], &without, Some("k")).unwrap_err().contains("the CloudEvent has no"));
        assert!(
            check(&binary[1..], r#"{"user_id":7}"#, Some("k")).unwrap_err().contains("the CloudEvent has no")
        );
        let declared = [("content-type", "application/cloudevents+json")];
        let bare = r#"{"data":{"user_id":7}}"#;
        assert!(check(&declared, bare, Some("k")).unwrap_err().contains("the CloudEvent has no"));
    }

    #[test]
    fn a_wrong_shape_is_refused() {
        for (body, code) in [
            ("", "invalid_json"),
            ("{", "invalid_json"),
            ("[1]", "invalid_request"),
            ("{}", "invalid_request"),
            (r#"{"user_id":1,"type":"other"}"#, "invalid_request"),
            (r#"{"user_id":1,"data":[]}"#, "invalid_request"),
        ] {
            assert!(check(&[], body, None).unwrap_err().contains(code), "{body}");
        }
    }

    proptest! {
        #[test]
        fn an_event_that_is_accepted_is_still_valid_with_its_id(
            body in "\\{\"user_id\":[0-9]{1,3}(,\"data\":\\{\"a\":\"\\PC{0,9}\"\\})?(,\"event_id\":(null|\"\\PC{1,5}\"))?\\}",
            key in proptest::option::of("[!-~]{1,20}"),
        ) {
            let Ok((id, body)) = check(&[], &body, key.as_deref()) else { return Ok(()) };
            let parsed = event::parse("payment_completed", &[], body.as_bytes()).unwrap();
            prop_assert_eq!(parsed.identity.map(|identity| identity.id().to_owned()), Some(id));
        }

        #[test]
        fn no_body_panics(body: Vec<u8>, kind: String) {
            let _ = Checked::new(kind, &[], body.into(), None);
        }
    }
}
