//! What can't be used is kept where someone sees it and may publish it again.

use anyhow::Context;
use async_nats::{
    HeaderMap, HeaderValue,
    header::{HeaderName, NATS_MESSAGE_ID},
};
use bytes::Bytes;
use contract::notify::{
    DEADLETTERS_PREFIX, EVENTS_PREFIX, ORIGINAL_SUBJECT_HEADER, REASON_HEADER, UNREADABLE_HEADERS_HEADER,
    kept_header,
};
use service::Bus;

/// A message that can't be used.
pub struct Letter<'a> {
    /// Where it was published.
    pub subject: &'a str,
    /// With which headers.
    pub headers: Headers<'a>,
    /// The body.
    pub body: Bytes,
    /// Names it, the same for each delivery of it.
    pub place: &'a str,
    /// Why it can't be used.
    pub reason: &'a str,
}

/// The headers of a message.
pub enum Headers<'a> {
    /// As they were read; there may be none.
    Read(Option<&'a HeaderMap>),
    /// They can't be read: base64 of their bytes.
    Unreadable(&'a str),
}

/// Keeps a message as a dead letter: its body byte for byte, its headers, its subject, and why. Twice is once.
///
/// # Errors
/// When JetStream has not confirmed it: the message must be kept.
pub async fn keep(bus: &Bus, letter: Letter<'_>) -> anyhow::Result<()> {
    let Letter { subject, place, reason, .. } = letter;
    let headers = headers_of(&letter);
    let confirmed = bus.jetstream().publish_with_headers(buried_at(subject), headers, letter.body).await;
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
fn headers_of(letter: &Letter<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    match letter.headers {
        Headers::Read(original) => {
            for (name, values) in original.into_iter().flat_map(HeaderMap::iter) {
                let Ok(kept): Result<HeaderName, _> = kept_header(name.as_ref()).parse() else { continue };
                for value in values {
                    headers.append(kept.clone(), value.clone());
                }
            }
        }
        Headers::Unreadable(base64) => headers.insert(UNREADABLE_HEADERS_HEADER, whole(base64)),
    }
    headers.insert(REASON_HEADER, one_line(letter.reason));
    headers.insert(ORIGINAL_SUBJECT_HEADER, one_line(letter.subject));
    headers.insert(NATS_MESSAGE_ID, one_line(letter.place));
    headers
}

/// A header's value, cut where it goes on for too long; a line break would end it.
fn one_line(text: &str) -> HeaderValue {
    let text: String =
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(1_000).collect();
    whole(&text)
}

/// A header's value that holds no line break.
fn whole(text: &str) -> HeaderValue {
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
        let kept = headers_of(&Letter {
            subject: "events.a",
            headers: Headers::Read(Some(&original)),
            body: Bytes::new(),
            place: "EVENTS:7",
            reason: "not JSON\r\nNats-Msg-Id: forged",
        });
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
