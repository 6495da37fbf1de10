//! Events whose headers or subject our NATS client can't read: it breaks the connection on each, or ends for good.
//!
//! NATS takes any bytes there. Whenever the connection is new, what was delivered and not acknowledged is looked at
//! through JetStream's own API, which shows headers as base64, so that such an event becomes a dead letter like others.

use crate::{
    deadletter::{self, Headers, Letter},
    streams::Source,
};
use anyhow::Context;
use async_nats::jetstream::{self, consumer::pull, response::Response};
use serde::Deserialize;
use service::Bus;

/// JetStream's code for "no message found" (<https://github.com/nats-io/nats-server/blob/main/server/errors.json>).
const NO_MESSAGE: u64 = 10037;

#[derive(Deserialize)]
struct Found {
    message: Stored,
}

/// A message as JetStream's API shows it.
#[derive(Deserialize)]
struct Stored {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

/// Makes dead letters of what can't be read, among what was delivered and is not acknowledged.
///
/// # Errors
/// When NATS doesn't answer.
pub async fn sweep(
    bus: &Bus,
    source: Source,
    consumer: &jetstream::consumer::Consumer<pull::Config>,
) -> anyhow::Result<()> {
    let info = consumer.get_info().await.context("ask for the consumer")?;
    let mut next = info.ack_floor.stream_sequence + 1;
    while next <= info.delivered.stream_sequence {
        let question = serde_json::json!({"seq": next, "next_by_subj": ">"});
        let subject = format!("STREAM.MSG.GET.{}", source.name());
        let answer: Response<Found> =
            bus.jetstream().request(subject, &question).await.context("ask for a message")?;
        let stored = match answer {
            Response::Ok(found) => found.message,
            Response::Err { error } if error.error_code().0 == NO_MESSAGE => return Ok(()),
            Response::Err { error } => return Err(error).context("ask for a message"),
        };
        next = stored.seq + 1;
        if stored.seq <= info.delivered.stream_sequence && !is_readable(&stored) {
            bury(bus, source, &stored).await?;
        }
    }
    Ok(())
}

async fn bury(bus: &Bus, source: Source, stored: &Stored) -> anyhow::Result<()> {
    let body = base64(&stored.data).context("the body is not base64")?;
    let place = format!("{}:{}:{}", source.name(), stored.seq, stored.time);
    let letter = Letter {
        subject: &stored.subject,
        headers: Headers::Unreadable(&stored.hdrs),
        body: body.into(),
        place: &place,
        reason: "its subject or headers hold characters that can't be read",
    };
    deadletter::keep(bus, letter).await?;
    let stream = bus.jetstream().get_stream(source.name()).await.context("open the stream")?;
    stream.delete_message(stored.seq).await.context("delete what is a dead letter now")?;
    Ok(())
}

/// Whether async-nats reads these headers, and would not fail over the subject.
fn is_readable(stored: &Stored) -> bool {
    // JetStream shows bytes that are no UTF-8 as this character.
    if stored.subject.contains(char::REPLACEMENT_CHARACTER) {
        return false;
    }
    let Some(text) = base64(&stored.hdrs).and_then(|headers| String::from_utf8(headers).ok()) else {
        return false;
    };
    let mut lines = text.lines();
    // A status is not an event's to have: the client would take it for a word of the server.
    let plain = lines.next().is_none_or(|version| version.trim() == "NATS/1.0");
    plain && lines.filter(|line| !line.is_empty()).all(is_readable_line)
}

fn is_readable_line(line: &str) -> bool {
    // It may go on from the line before.
    let rest = line.starts_with(char::is_whitespace);
    let named =
        line.split_once(':').is_some_and(|(name, _)| name.chars().all(|char| char.is_ascii_graphic()));
    (rest || named) && !line.trim().contains('\r')
}

/// Base64 as Go writes it. `None` if it isn't.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits = text.trim_end_matches('=').bytes().map(digit).collect::<Option<Vec<u8>>>()?;
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let bits =
            group.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - group.len()));
        let [_, first, second, third] = bits.to_be_bytes();
        bytes.extend([first, second, third].into_iter().take(group.len() * 3 / 4));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in
            [("", &b""[..]), ("YQ==", b"a"), ("YWI=", b"ab"), ("YWJj", b"abc"), ("/+8=", b"\xff\xef")]
        {
            assert_eq!(base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(base64("a b"), None);
    }

    #[test]
    fn lines_that_end_the_client_are_known() {
        for line in ["A: b", "A:", "A: é", " goes on", "Nats-Msg-Id: 1"] {
            assert!(is_readable_line(line), "{line:?}");
        }
        for line in ["A b: c", "no colon", "é: c", "A: b\rc"] {
            assert!(!is_readable_line(line), "{line:?}");
        }
    }
}
