//! What can't be used is kept where someone sees it and may publish it again.

use anyhow::Context;
use async_nats::{
    HeaderMap, HeaderValue,
    header::{HeaderName, NATS_MESSAGE_ID},
};
use bytes::Bytes;
use contract::notify::{
    DEADLETTERS_PREFIX, EVENTS_PREFIX, ORIGINAL_HEADER_PREFIX, ORIGINAL_SUBJECT_HEADER, REASON_HEADER,
};
use service::Bus;

/// Keeps a message as a dead letter: its body byte for byte, its headers, its subject, and why. Twice is once.
///
/// # Errors
/// When JetStream has not confirmed it: the message must be kept.
pub async fn keep(
    bus: &Bus,
    subject: &str,
    headers: Option<&HeaderMap>,
    body: Bytes,
    place: &str,
    reason: &str,
) -> anyhow::Result<()> {
    let headers = with_ours(headers, subject, place, reason);
    let confirmed = bus.jetstream().publish_with_headers(buried_at(subject), headers, body).await;
    confirmed.context("publish a dead letter")?.await.context("confirm a dead letter")?;
    metrics::counter!("deadletters_total").increment(1);
    tracing::warn!(subject, place, reason, "an event can't be used: it is a dead letter now");
    Ok(())
}

/// `deadletters.<type>`.
fn buried_at(original: &str) -> String {
    let kind = original.strip_prefix(EVENTS_PREFIX).unwrap_or(original);
    // NATS has stored it under this subject; only what a stricter server would not take is replaced.
    let kind: String = kind
        .chars()
        .map(|char| if char.is_control() || "*> \t".contains(char) { '_' } else { char })
        .collect();
    format!("{DEADLETTERS_PREFIX}{kind}")
}

/// The original's headers, and ours. What NATS or we would act upon, such as `Nats-Msg-Id`, is kept as `Original-…`.
fn with_ours(original: Option<&HeaderMap>, subject: &str, place: &str, reason: &str) -> HeaderMap {
    let ours = |name: &str| {
        name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
            || [REASON_HEADER, ORIGINAL_SUBJECT_HEADER].iter().any(|our| our.eq_ignore_ascii_case(name))
    };
    let mut headers = HeaderMap::new();
    for (name, values) in original.into_iter().flat_map(HeaderMap::iter) {
        let text: &str = name.as_ref();
        let kept =
            if ours(text) { format!("{ORIGINAL_HEADER_PREFIX}{text}").parse() } else { Ok(name.clone()) };
        let Ok(kept): Result<HeaderName, _> = kept else { continue };
        for value in values {
            headers.append(kept.clone(), value.clone());
        }
    }
    headers.insert(REASON_HEADER, one_line(reason));
    headers.insert(ORIGINAL_SUBJECT_HEADER, one_line(subject));
    headers.insert(NATS_MESSAGE_ID, one_line(place));
    headers
}

/// A header's value; a line break would end it.
fn one_line(text: &str) -> HeaderValue {
    let text: String =
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(1_000).collect();
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nats_would_act_upon_is_kept_under_another_name() {
        let mut original = HeaderMap::new();
        original.insert("Nats-Msg-Id", "m1");
        original.insert("nats-expected-stream", "EVENTS");
        original.insert("Reason", "mine");
        original.append("X-Trace", "a");
        original.append("X-Trace", "b");
        let kept = with_ours(Some(&original), "events.a", "EVENTS:7", "not JSON\r\nNats-Msg-Id: forged");
        let value = |name: &str| kept.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(value("Nats-Msg-Id").as_deref(), Some("EVENTS:7"));
        assert_eq!(value("Original-Nats-Msg-Id").as_deref(), Some("m1"));
        assert_eq!(value("Original-nats-expected-stream").as_deref(), Some("EVENTS"));
        assert_eq!(value("nats-expected-stream"), None);
        assert_eq!(value("Reason").as_deref(), Some("not JSON  Nats-Msg-Id: forged"));
        assert_eq!(value("Original-Reason").as_deref(), Some("mine"));
        assert_eq!(value("Original-Subject").as_deref(), Some("events.a"));
        assert_eq!(kept.get_all("X-Trace").count(), 2);
    }

    #[test]
    fn the_subject_is_the_types() {
        assert_eq!(buried_at("events.payment_completed"), "deadletters.payment_completed");
        assert_eq!(buried_at("events.a.b"), "deadletters.a.b");
        assert_eq!(buried_at("chat.log"), "deadletters.chat.log");
        assert_eq!(buried_at("events.*"), "deadletters._");
    }
}
