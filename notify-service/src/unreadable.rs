//! Events whose headers or subject our NATS client can't read: it breaks the connection on each, or ends for good.
//!
//! NATS takes any bytes there. Whenever the connection is new, what was delivered and not acknowledged is looked at
//! through JetStream's own API, which shows headers as base64, so that such an event becomes a dead letter like others.

use crate::{
    deadletter::{self, Headers, Letter},
    fetch::StreamConsumer,
    raw_message::{self, Stored, base64},
    streams::Source,
};
use anyhow::Context;
use service::Bus;
use std::ops::RangeInclusive;

/// Makes dead letters of what can't be read, among what was delivered and is not acknowledged. Where that fails, all of these
/// places come back: NATS delivers such a message again and again, and what it delivers behind it is lost with the
/// connection.
///
/// # Errors
/// When NATS doesn't answer.
pub async fn sweep(
    bus: &Bus,
    source: Source,
    consumer: &StreamConsumer,
) -> anyhow::Result<Option<RangeInclusive<u64>>> {
    let info = consumer.get_info().await.context("ask for the consumer")?;
    let places = info.ack_floor.stream_sequence + 1..=info.delivered.stream_sequence;
    let mut next = *places.start();
    while next <= *places.end() {
        let Some(stored) = raw_message::first_from(bus, source, next).await? else { break };
        next = stored.seq + 1;
        if stored.seq <= *places.end()
            && !is_readable(&stored)
            && let Err(error) = bury(bus, source, &stored).await
        {
            let (stream, error) = (source.name(), format!("{error:#}"));
            tracing::warn!(stream, seq = stored.seq, error, "what can't be read is no dead letter yet");
            return Ok(Some(places));
        }
    }
    Ok(None)
}

/// Makes a dead letter of a message that can't be read.
///
/// # Errors
/// When it is not one yet.
pub async fn bury(bus: &Bus, source: Source, stored: &Stored) -> anyhow::Result<()> {
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
pub fn is_readable(stored: &Stored) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
