//! What can't be used is kept where someone sees it and may publish it again.

use crate::streams;
use anyhow::Context;
use async_nats::{
    HeaderMap, HeaderValue,
    header::{HeaderName, NATS_MESSAGE_ID},
};
use bytes::Bytes;
use contract::{
    notify::{
        ORIGINAL_SUBJECT_HEADER, REASON_HEADER, TRUNCATED_BODY, TRUNCATED_HEADER, TRUNCATED_HEADERS,
        TRUNCATED_SUBJECT, UNREADABLE_HEADERS_HEADER, kept_header,
    },
    streams::{DEADLETTERS_PREFIX, EVENTS_PREFIX},
};
use service::Bus;

/// Bytes of all headers of a message in a stream: JetStream takes less than 64 KiB.
const HEADERS_BYTES: usize = 65_535;
/// Bytes of a reason.
const REASON_BYTES: usize = 2_000;
/// Bytes of the type in a dead letter's subject: no event with a longer one can be used.
const TYPE_BYTES: usize = crate::event::TYPE_BYTES;
/// Headers begin and end with this.
const EMPTY_HEADERS: usize = "NATS/1.0\r\n\r\n".len();

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

/// Keeps a message as a dead letter: its body byte for byte, its headers, its subject, and why; of what is too large, as
/// much as fits, and a note of what was cut. Twice is once.
///
/// # Errors
/// When JetStream has not confirmed it: the message must be kept.
pub async fn keep(bus: &Bus, letter: Letter<'_>) -> anyhow::Result<()> {
    let most = bus.client().max_payload();
    if let Err(error) = publish(bus, &letter, most).await {
        // The stream may be gone, or may take less than NATS itself.
        let stream = service::streams::open(bus, streams::deadletters()).await;
        let stream = stream.with_context(|| format!("{error:#}; make the stream of dead letters"))?;
        let most = usize::try_from(stream.cached_info().config.max_message_size)
            .map_or(most, |limit| if limit == 0 { most } else { limit.min(most) });
        publish(bus, &letter, most).await?;
    }
    let Letter { subject, place, reason, .. } = letter;
    metrics::counter!("deadletters_total").increment(1);
    tracing::warn!(subject, place, reason, "an event can't be used: it is a dead letter now");
    Ok(())
}

async fn publish(bus: &Bus, letter: &Letter<'_>, most: usize) -> anyhow::Result<()> {
    let (headers, body) = contents(letter, most);
    let is_truncated = headers.get(TRUNCATED_HEADER).is_some();
    let confirmed = bus.jetstream().publish_with_headers(buried_at(letter.subject), headers, body).await;
    confirmed.context("publish a dead letter")?.await.context("confirm a dead letter")?;
    if is_truncated {
        metrics::counter!("deadletters_truncated_total").increment(1);
    }
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
    format!("{DEADLETTERS_PREFIX}{}", first_bytes(&kind, TYPE_BYTES).trim_end_matches('.'))
}

/// What a dead letter consists of that may take so many bytes altogether. Ours come first, as without them it is of no use.
fn contents(letter: &Letter<'_>, most: usize) -> (HeaderMap, Bytes) {
    let subject = one_line(letter.subject);
    let mut own = vec![
        (REASON_HEADER, one_line(first_bytes(letter.reason, REASON_BYTES))),
        (NATS_MESSAGE_ID.as_ref(), one_line(letter.place)),
    ];
    let mut cut = Vec::new();
    if subject != letter.subject {
        cut.push(TRUNCATED_SUBJECT);
    }
    own.push((ORIGINAL_SUBJECT_HEADER, subject));
    let mut headers = HeaderMap::new();
    let mut bytes = EMPTY_HEADERS + line_bytes(TRUNCATED_HEADER, "subject,headers,body");
    for (name, value) in own {
        bytes += line_bytes(name, &value);
        headers.insert(name, whole(&value));
    }
    let room = HEADERS_BYTES.min(most).saturating_sub(bytes);
    let (taken, all) = match letter.headers {
        Headers::Read(original) => take_headers(&mut headers, original, room),
        Headers::Unreadable(base64) => take_unreadable(&mut headers, base64, room),
    };
    if !all {
        cut.push(TRUNCATED_HEADERS);
    }
    let room = most.saturating_sub(bytes + taken);
    if letter.body.len() > room {
        cut.push(TRUNCATED_BODY);
    }
    if !cut.is_empty() {
        headers.insert(TRUNCATED_HEADER, cut.join(","));
    }
    (headers, letter.body.slice(..letter.body.len().min(room)))
}

/// The original's headers, small ones first, as far as there is room: how many bytes, and whether that is all. What NATS or
/// we would act upon, such as `Nats-Msg-Id`, is kept as `Original-…`.
fn take_headers(headers: &mut HeaderMap, original: Option<&HeaderMap>, room: usize) -> (usize, bool) {
    let (mut taken, mut all) = (0, true);
    let values = |(name, values): (&HeaderName, &Vec<HeaderValue>)| {
        let kept = kept_header(name.as_ref()).into_owned();
        let bytes: usize = values.iter().map(|value| line_bytes(&kept, value.as_str())).sum();
        (bytes, kept, values.clone())
    };
    let mut original: Vec<_> = original.into_iter().flat_map(HeaderMap::iter).map(values).collect();
    original.sort_unstable_by_key(|(bytes, ..)| *bytes);
    for (bytes, kept, values) in original {
        match kept.parse::<HeaderName>() {
            Ok(kept) if taken + bytes <= room => {
                taken += bytes;
                for value in values {
                    headers.append(kept.clone(), value);
                }
            }
            _ => all = false,
        }
    }
    (taken, all)
}

/// Headers that can't be read, in base64, as far as there is room: how many bytes, and whether that is all.
fn take_unreadable(headers: &mut HeaderMap, base64: &str, room: usize) -> (usize, bool) {
    let room = room.saturating_sub(line_bytes(UNREADABLE_HEADERS_HEADER, ""));
    // Four digits are three bytes.
    let kept = if base64.len() > room { first_bytes(base64, room / 4 * 4) } else { base64 };
    if !kept.is_empty() {
        headers.insert(UNREADABLE_HEADERS_HEADER, whole(kept));
    }
    (line_bytes(UNREADABLE_HEADERS_HEADER, kept), kept.len() == base64.len())
}

/// Bytes of one header on the wire.
const fn line_bytes(name: &str, value: &str) -> usize {
    name.len() + ": ".len() + value.len() + "\r\n".len()
}

/// At most so many bytes of a text.
fn first_bytes(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// A header's value: a line break would end it.
fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// A header's value that holds no line break.
fn whole(text: &str) -> HeaderValue {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_nats_would_act_upon_is_kept_under_another_name() {
        let mut original = HeaderMap::new();
        original.insert("Nats-Msg-Id", "m1");
        original.insert("nats-expected-stream", "EVENTS");
        original.insert("Reason", "mine");
        original.append("X-Trace", "a");
        original.append("X-Trace", "b");
        original.insert("Truncated", "mine");
        let letter = Letter {
            subject: "events.a",
            headers: Headers::Read(Some(&original)),
            body: Bytes::new(),
            place: "EVENTS:7",
            reason: "not JSON\r\nNats-Msg-Id: forged",
        };
        let (kept, _) = contents(&letter, 1_000);
        let value = |name: &str| kept.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(value("Nats-Msg-Id").as_deref(), Some("EVENTS:7"));
        assert_eq!(value("Original-Nats-Msg-Id").as_deref(), Some("m1"));
        assert_eq!(value("Original-nats-expected-stream").as_deref(), Some("EVENTS"));
        assert_eq!(value("nats-expected-stream"), None);
        assert_eq!(value("Reason").as_deref(), Some("not JSON  Nats-Msg-Id: forged"));
        assert_eq!(value("Original-Reason").as_deref(), Some("mine"));
        assert_eq!(value("Original-Subject").as_deref(), Some("events.a"));
        assert_eq!((value("Truncated"), value("Original-Truncated").as_deref()), (None, Some("mine")));
        assert_eq!(kept.get_all("X-Trace").count(), 2);
    }

    proptest! {
        #[test]
        fn a_dead_letter_fits_whatever_its_event_is(
            subject in "events\\.[a-zé]{1,3000}", reason in "\\PC{0,3000}",
            names in proptest::collection::vec(("[A-Z][a-z]{0,20}|Nats-[a-z]{1,9}", 0..70_000_usize), 0..6),
            unreadable in proptest::option::of(0..90_000_usize), body in 0..1_100_000_usize, most in 20_000..1_048_576_usize,
        ) {
            let mut original = HeaderMap::new();
            for (name, bytes) in &names {
                original.append(name.as_str(), "x".repeat(*bytes));
            }
            let base64 = "QUJD".repeat(unreadable.unwrap_or_default() / 4);
            let headers =
                if unreadable.is_some() { Headers::Unreadable(&base64) } else { Headers::Read(Some(&original)) };
            let body = Bytes::from(vec![b'y'; body]);
            let letter = Letter { subject: &subject, headers, body: body.clone(), place: "EVENTS:1:2", reason: &reason };
            let (kept, kept_body) = contents(&letter, most);
            let lines = kept.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
            let bytes: usize = lines.map(|(name, value)| line_bytes(name.as_ref(), value.as_str())).sum();
            let bytes = EMPTY_HEADERS + bytes;
            prop_assert!(bytes <= HEADERS_BYTES && bytes + kept_body.len() <= most, "{} {}", bytes, kept_body.len());
            prop_assert!(body.starts_with(&kept_body));
            let cut = kept.get(TRUNCATED_HEADER).map(|value| value.as_str().to_owned()).unwrap_or_default();
            prop_assert_eq!(cut.contains("body"), kept_body.len() < body.len());
            prop_assert_eq!(kept.get(ORIGINAL_SUBJECT_HEADER).unwrap().as_str(), subject.as_str());
            let whole = match kept.get(UNREADABLE_HEADERS_HEADER) {
                Some(kept) => kept.as_str().len() == base64.len(),
                None if unreadable.is_some() => base64.is_empty(),
                None => original.iter().all(|(name, values)| {
                    kept.get_all(kept_header(name.as_ref()).as_ref()).count() == values.len()
                }),
            };
            prop_assert_eq!(cut.contains("headers"), !whole);
        }
    }

    #[test]
    fn the_subject_is_the_types() {
        assert_eq!(buried_at(&format!("events.{}", "k".repeat(4_000))).len(), "deadletters.".len() + 128);
        assert_eq!(buried_at("events.payment_completed"), "deadletters.payment_completed");
        assert_eq!(buried_at("events.a.b"), "deadletters.a.b");
        assert_eq!(buried_at("chat.log"), "deadletters.chat.log");
        assert_eq!(buried_at("events.*"), "deadletters._");
    }
}
