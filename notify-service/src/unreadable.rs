//! Events whose headers or subject our NATS client can't parse: each one breaks the connection or ends the client.
//!
//! NATS accepts any bytes there. After each new connection, messages that were delivered and not acknowledged are read
//! through JetStream's own API, which returns headers as base64, so that such events become dead letters like others.

use crate::{
    deadletter::{self, Headers, Letter},
    fetch::StreamConsumer,
    raw_message::{self, RawMessage, decode_base64},
    streams::Source,
};
use anyhow::Context;
use service::Bus;
use std::ops::RangeInclusive;

/// Stores unreadable messages, among those delivered and not acknowledged, as dead letters. If that fails, returns the
/// sequences of all these messages: NATS redelivers the unreadable one repeatedly, and each time the messages behind it
/// are lost with the connection.
///
/// # Errors
/// If NATS doesn't answer.
pub async fn sweep(
    bus: &Bus,
    source: Source,
    consumer: &StreamConsumer,
) -> anyhow::Result<Option<RangeInclusive<u64>>> {
    let info = consumer.get_info().await.context("request the consumer info")?;
    let seqs = info.ack_floor.stream_sequence + 1..=info.delivered.stream_sequence;
    let mut next = *seqs.start();
    while next <= *seqs.end() {
        let Some(stored) = raw_message::first_from(bus, source, next).await? else { break };
        next = stored.seq + 1;
        if stored.seq <= *seqs.end()
            && !is_readable(&stored)
            && let Err(error) = store_dead_letter(bus, source, &stored).await
        {
            let (stream, error) = (source.name(), format!("{error:#}"));
            tracing::warn!(
                stream,
                seq = stored.seq,
                error,
                "store an unreadable message as a dead letter; will be retried"
            );
            return Ok(Some(seqs));
        }
    }
    Ok(None)
}

/// Reason of the dead letter of an unreadable message.
const REASON: &str = "its subject or headers hold characters that can't be read";

/// Stores an unreadable message as a dead letter.
///
/// # Errors
/// If it is not stored.
pub async fn store_dead_letter(bus: &Bus, source: Source, stored: &RawMessage) -> anyhow::Result<()> {
    let body = decode_base64(&stored.data).context("the body is not base64")?;
    let place = format!("{}:{}:{}", source.name(), stored.seq, stored.time);
    let letter = Letter {
        subject: &stored.subject,
        headers: Headers::Unreadable(&stored.hdrs),
        body: body.into(),
        place: &place,
        reason: REASON,
    };
    deadletter::store(bus, letter).await?;
    deadletter::log(&stored.subject, &place, REASON);
    let stream = bus.jetstream().get_stream(source.name()).await.context("open the stream")?;
    stream.delete_message(stored.seq).await.context("delete the original of a dead letter")?;
    Ok(())
}

/// Whether async-nats can parse the headers and the subject.
pub fn is_readable(stored: &RawMessage) -> bool {
    // JetStream replaces bytes that are not UTF-8 by this character.
    if stored.subject.contains(char::REPLACEMENT_CHARACTER) {
        return false;
    }
    let Some(text) = decode_base64(&stored.hdrs).and_then(|headers| String::from_utf8(headers).ok()) else {
        return false;
    };
    let mut lines = text.lines();
    // An event must not have a status: the client would take it for a message of the server.
    let plain = lines.next().is_none_or(|version| version.trim() == "NATS/1.0");
    plain && lines.filter(|line| !line.is_empty()).all(is_readable_line)
}

fn is_readable_line(line: &str) -> bool {
    let continuation = line.starts_with(char::is_whitespace);
    let named =
        line.split_once(':').is_some_and(|(name, _)| name.chars().all(|char| char.is_ascii_graphic()));
    (continuation || named) && !line.trim().contains('\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_lines_that_break_the_client_are_detected() {
        for line in ["A: b", "A:", "A: é", " goes on", "Nats-Msg-Id: 1"] {
            assert!(is_readable_line(line), "{line:?}");
        }
        for line in ["A b: c", "no colon", "é: c", "A: b\rc"] {
            assert!(!is_readable_line(line), "{line:?}");
        }
    }
}
