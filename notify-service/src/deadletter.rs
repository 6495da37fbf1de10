//! Dead letters: invalid messages, kept so that an operator can inspect and republish them.

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
use std::borrow::Cow;

/// Longest id, in bytes, that identifies a dead letter.
const ID_BYTES: usize = 256;
/// Maximum size of all headers of a message in bytes: JetStream accepts less than 64 KiB.
const HEADERS_BYTES: usize = 65_535;
/// Maximum size of a reason in bytes.
const REASON_BYTES: usize = 2_000;
/// Maximum size of the type in a dead letter's subject, in bytes. Events with a longer type are invalid.
const TYPE_BYTES: usize = contract::limits::EVENT_TYPE_BYTES;
/// Size of a header block without headers.
const EMPTY_HEADERS: usize = "NATS/1.0\r\n\r\n".len();

/// An invalid message.
pub struct Letter<'a> {
    pub subject: &'a str,
    pub headers: Headers<'a>,
    pub body: Bytes,
    /// Identifier of the message, the same for each delivery.
    pub place: &'a str,
    /// Reason why the message is invalid.
    pub reason: &'a str,
}

/// The headers of a message.
pub enum Headers<'a> {
    /// Parsed headers, if there are any.
    Read(Option<&'a HeaderMap>),
    /// Base64 of headers that can't be parsed.
    Unreadable(&'a str),
}

impl Letter<'_> {
    /// Identity of the dead letter. A message that its publisher repeats because an acknowledgement was lost has the
    /// same id, and perhaps another place: JetStream forgets the ids of messages that are consumed when it restarts.
    fn id(&self) -> Cow<'_, str> {
        let Headers::Read(Some(headers)) = self.headers else { return self.place.into() };
        match headers.get(NATS_MESSAGE_ID).map(HeaderValue::as_str) {
            Some(id) if id.len() <= ID_BYTES => {
                format!("{} {id}", first_bytes(self.subject, ID_BYTES)).into()
            }
            _ => self.place.into(),
        }
    }
}

/// Stores a message as a dead letter: its unchanged body, its headers, its subject and the reason. If it is too large,
/// parts are truncated and a header names them. Repeating this stores one dead letter.
///
/// # Errors
/// If JetStream has not confirmed it. Then the message must be kept.
pub async fn store(bus: &Bus, letter: Letter<'_>) -> anyhow::Result<()> {
    let most = bus.client().max_payload();
    if let Err(error) = publish(bus, &letter, most).await {
        // The stream may be missing, or may have a lower limit than NATS itself.
        let stream = service::streams::open(bus, streams::deadletters()).await;
        let stream = stream.with_context(|| format!("{error:#}; open the stream of dead letters"))?;
        let most = usize::try_from(stream.cached_info().config.max_message_size)
            .map_or(most, |limit| if limit == 0 { most } else { limit.min(most) });
        publish(bus, &letter, most).await?;
    }
    metrics::counter!("deadletters_total").increment(1);
    Ok(())
}

/// Logs the dead letter of an invalid event.
pub fn log(subject: &str, place: &str, reason: &str) {
    tracing::warn!(subject, place, reason, "an event is invalid; stored as a dead letter");
}

async fn publish(bus: &Bus, letter: &Letter<'_>, most: usize) -> anyhow::Result<()> {
    let (headers, body) = contents(letter, most);
    let is_truncated = headers.get(TRUNCATED_HEADER).is_some();
    let confirmed = bus.jetstream().publish_with_headers(subject_of(letter.subject), headers, body).await;
    confirmed.context("publish a dead letter")?.await.context("confirm a dead letter")?;
    if is_truncated {
        metrics::counter!("deadletters_truncated_total").increment(1);
    }
    Ok(())
}

/// The subject of a dead letter: `deadletters.<type>`.
fn subject_of(original: &str) -> String {
    let kind = original.strip_prefix(EVENTS_PREFIX).unwrap_or(original);
    // NATS accepted the original subject. Only characters that a stricter server would refuse are replaced.
    let kind: String = kind
        .chars()
        .map(|char| if char.is_control() || "*> \t".contains(char) { '_' } else { char })
        .collect();
    format!("{DEADLETTERS_PREFIX}{}", first_bytes(&kind, TYPE_BYTES).trim_end_matches('.'))
}

/// The headers and the body of a dead letter of limited size. Our own headers have priority, because a dead letter is
/// useless without them.
fn contents(letter: &Letter<'_>, most: usize) -> (HeaderMap, Bytes) {
    let subject = one_line(letter.subject);
    let mut own = vec![
        (REASON_HEADER, one_line(first_bytes(letter.reason, REASON_BYTES))),
        (NATS_MESSAGE_ID.as_ref(), one_line(&letter.id())),
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
        headers.insert(name, header_value(&value));
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

/// Copies the original headers that fit, small ones first. Returns their size and whether all fit. Headers with a
/// meaning for NATS or for us, such as `Nats-Msg-Id`, are renamed to `Original-…`.
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

/// Copies as much of unreadable headers, in base64, as fits. Returns their size and whether all fit.
fn take_unreadable(headers: &mut HeaderMap, base64: &str, room: usize) -> (usize, bool) {
    let room = room.saturating_sub(line_bytes(UNREADABLE_HEADERS_HEADER, ""));
    // Four digits are three bytes.
    let kept = if base64.len() > room { first_bytes(base64, room / 4 * 4) } else { base64 };
    if !kept.is_empty() {
        headers.insert(UNREADABLE_HEADERS_HEADER, header_value(kept));
    }
    (line_bytes(UNREADABLE_HEADERS_HEADER, kept), kept.len() == base64.len())
}

/// Size of one header on the wire, in bytes.
const fn line_bytes(name: &str, value: &str) -> usize {
    name.len() + ": ".len() + value.len() + "\r\n".len()
}

/// The start of a text, of at most `most` bytes.
fn first_bytes(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Replaces control characters, because a line break would end a header's value.
fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// The header value of a text without line breaks.
fn header_value(text: &str) -> HeaderValue {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_with_a_meaning_for_nats_are_renamed() {
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
        assert_eq!(value("Nats-Msg-Id").as_deref(), Some("events.a m1"));
        assert_eq!(value("Original-Nats-Msg-Id").as_deref(), Some("m1"));
        assert_eq!(value("Original-nats-expected-stream").as_deref(), Some("EVENTS"));
        assert_eq!(value("nats-expected-stream"), None);
        assert_eq!(value("Reason").as_deref(), Some("not JSON  Nats-Msg-Id: forged"));
        assert_eq!(value("Original-Reason").as_deref(), Some("mine"));
        assert_eq!(value("Original-Subject").as_deref(), Some("events.a"));
        assert_eq!((value("Truncated"), value("Original-Truncated").as_deref()), (None, Some("mine")));
        assert_eq!(kept.get_all("X-Trace").count(), 2);
    }

    #[test]
    fn a_repeated_message_is_one_dead_letter() {
        let id = |subject: &str, id: Option<&str>, place: &str| {
            let mut headers = HeaderMap::new();
            if let Some(id) = id {
                headers.insert(NATS_MESSAGE_ID, id);
            }
            let headers = Headers::Read(Some(&headers));
            Letter { subject, headers, body: Bytes::new(), place, reason: "not JSON" }.id().into_owned()
        };
        assert_eq!(id("events.a", Some("m1"), "EVENTS:7"), id("events.a", Some("m1"), "EVENTS:9"));
        assert_ne!(id("events.a", Some("m1"), "EVENTS:7"), id("events.a", Some("m2"), "EVENTS:7"));
        assert_ne!(id("webhook.a", Some("m1"), "EVENTS_OUT:7"), id("webhook.b", Some("m1"), "EVENTS_OUT:7"));
        assert_eq!(id("events.a", None, "EVENTS:7"), "EVENTS:7");
        assert_eq!(id("events.a", Some(&"x".repeat(300)), "EVENTS:7"), "EVENTS:7");
    }

    proptest! {
        #[test]
        fn a_dead_letter_of_any_event_fits(
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
    fn the_subject_contains_the_type() {
        assert_eq!(subject_of(&format!("events.{}", "k".repeat(4_000))).len(), "deadletters.".len() + 128);
        assert_eq!(subject_of("events.payment_completed"), "deadletters.payment_completed");
        assert_eq!(subject_of("events.a.b"), "deadletters.a.b");
        assert_eq!(subject_of("chat.log"), "deadletters.chat.log");
        assert_eq!(subject_of("events.*"), "deadletters._");
    }
}
