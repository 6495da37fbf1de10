//! A dead letter and its text form.

use std::fmt::{self, Write};

use anyhow::{Context, bail};
use async_nats::{HeaderMap, jetstream::message::StreamMessage};
use contract::{
    notify::{
        ORIGINAL_SUBJECT_HEADER, REASON_HEADER, REPLAY_OF_HEADER, TRUNCATED_BODY, TRUNCATED_HEADER,
        TRUNCATED_HEADERS, TRUNCATED_SUBJECT, UNREADABLE_HEADERS_HEADER, original_header,
    },
    streams::DEADLETTERS_PREFIX,
};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Header by which JetStream detects duplicates within its duplicate window.
const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";
/// Header with the size of a body that was not requested.
const SIZE_HEADER: &str = "Nats-Msg-Size";

/// A dead letter.
pub struct Letter {
    seq: u64,
    time: OffsetDateTime,
    headers: HeaderMap,
    /// Body as published.
    pub body: Vec<u8>,
}

impl From<StreamMessage> for Letter {
    fn from(message: StreamMessage) -> Self {
        let StreamMessage { sequence, time, headers, payload, .. } = message;
        Self { seq: sequence, time, headers, body: payload.to_vec() }
    }
}

/// Parts that a replay may omit instead of being refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Without {
    /// True to omit headers that could not be parsed.
    pub unreadable_headers: bool,
    /// True to omit headers that did not fit into the dead letter.
    pub truncated_headers: bool,
}

impl Letter {
    /// Whether a part of the event was truncated to fit.
    fn is_truncated(&self, part: &str) -> bool {
        self.header(TRUNCATED_HEADER).is_some_and(|cut| cut.split(',').any(|cut| cut.trim() == part))
    }

    /// Checks that the dead letter still holds the complete event.
    fn check_complete(&self, without: Without) -> anyhow::Result<()> {
        if self.is_truncated(TRUNCATED_BODY) {
            bail!(
                "its body was cut because it did not fit into a dead letter: its publisher must publish it again"
            );
        }
        if self.is_truncated(TRUNCATED_SUBJECT) {
            bail!("its subject was cut: publish its body yourself, with show --body");
        }
        // Unparsable headers are omitted anyway, and their truncation doesn't matter.
        let is_readable = self.header(UNREADABLE_HEADERS_HEADER).is_none();
        if self.is_truncated(TRUNCATED_HEADERS) && is_readable && !without.truncated_headers {
            bail!(
                "some of its headers did not fit into a dead letter: `show` prints the others. \
                 To replay it without them, use --without-truncated-headers"
            );
        }
        Ok(())
    }

    /// Original subject of the event.
    pub fn subject(&self) -> anyhow::Result<&str> {
        let subject = self.header(ORIGINAL_SUBJECT_HEADER).context("it has no Original-Subject")?;
        if subject.contains(char::REPLACEMENT_CHARACTER) {
            bail!("its subject is not UTF-8: publish its body yourself, with show --body");
        }
        Ok(subject)
    }

    /// Headers of the replayed event.
    ///
    /// JetStream would drop the original `Nats-Msg-Id` as a duplicate within two minutes. So the replay gets an id that
    /// is the same for each replay of this dead letter. The original identity goes into `Replay-Of`, which
    /// notify-service reads.
    pub fn replay_headers(&self, without: Without) -> anyhow::Result<HeaderMap> {
        self.check_complete(without)?;
        if self.header(UNREADABLE_HEADERS_HEADER).is_some() && !without.unreadable_headers {
            bail!(
                "its headers can't be parsed or sent again: `show` prints them as base64. \
                 To replay it without them, use --without-unreadable-headers"
            );
        }
        let mut headers = HeaderMap::new();
        let (mut message_id, mut replay_of) = (None, None);
        for (kept, values) in self.headers.iter() {
            let Some(name) = original_header(kept.as_ref()) else { continue };
            if is(name, MESSAGE_ID_HEADER) {
                message_id = values.first().map(ToString::to_string);
            } else if is(name, REPLAY_OF_HEADER) {
                replay_of = values.first().map(ToString::to_string);
            } else if !name.to_ascii_lowercase().starts_with("nats-expected-") {
                // The stream no longer has the state that these headers expect.
                for value in values {
                    headers.append(name, value.clone());
                }
            }
        }
        let first_position = || self.header(MESSAGE_ID_HEADER).map(|position| format!("at:{position}"));
        let identity = replay_of.or_else(|| message_id.map(|id| format!("id:{id}"))).or_else(first_position);
        if let Some(identity) = identity {
            headers.insert(REPLAY_OF_HEADER, identity);
        }
        let id = format!("replay:{}:{}", self.seq, self.time.unix_timestamp_nanos());
        headers.insert(MESSAGE_ID_HEADER, id);
        Ok(headers)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }
}

fn is(name: &str, other: &str) -> bool {
    name.eq_ignore_ascii_case(other)
}

impl fmt::Display for Letter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = |name: &str| printable(self.header(name).unwrap_or("-"));
        writeln!(out, "number    {}", self.seq)?;
        writeln!(out, "since     {}", rfc3339(self.time))?;
        writeln!(out, "reason    {}", own(REASON_HEADER))?;
        writeln!(out, "subject   {}", own(ORIGINAL_SUBJECT_HEADER))?;
        if self.header(TRUNCATED_HEADER).is_some() {
            writeln!(out, "cut       {}: too large for a dead letter", own(TRUNCATED_HEADER))?;
        }
        for (kept, values) in self.headers.iter() {
            let Some(name) = original_header(kept.as_ref()) else { continue };
            for value in values {
                writeln!(out, "header    {}: {}", printable(name), printable(value.as_str()))?;
            }
        }
        if self.header(UNREADABLE_HEADERS_HEADER).is_some() {
            writeln!(out, "headers   can't be parsed; in base64: {}", own(UNREADABLE_HEADERS_HEADER))?;
        }
        match std::str::from_utf8(&self.body) {
            Ok(text) => writeln!(out, "body      {} bytes\n\n{}", self.body.len(), printable_body(text)),
            Err(_) => {
                let text = String::from_utf8_lossy(&self.body);
                let (len, text) = (self.body.len(), printable_body(&text));
                writeln!(out, "body      {len} bytes, not UTF-8; show --body prints them unchanged\n\n{text}")
            }
        }
    }
}

/// A dead letter in a list.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Number of the dead letter.
    pub seq: u64,
    time: String,
    r#type: String,
    reason: String,
    /// Size of the body in bytes.
    size: u64,
    /// Truncated parts of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<String>,
}

impl Line {
    /// Creates the line of a message whose body was not requested.
    pub fn new(seq: u64, time: OffsetDateTime, message: &async_nats::Message) -> Self {
        let header = |name| message.headers.as_ref()?.get(name).map(|value| value.as_str());
        let subject = message.subject.as_str();
        Self {
            seq,
            time: rfc3339(time),
            r#type: subject.strip_prefix(DEADLETTERS_PREFIX).unwrap_or(subject).to_owned(),
            reason: header(REASON_HEADER).unwrap_or_default().to_owned(),
            size: header(SIZE_HEADER).and_then(|size| size.parse().ok()).unwrap_or_default(),
            truncated: header(TRUNCATED_HEADER).map(ToOwned::to_owned),
        }
    }
}

/// A table of dead letters, with a header line.
pub fn table(lines: &[Line]) -> String {
    let rows = lines.iter().map(|line| {
        let (kind, mut reason) = (printable(&line.r#type), printable(&line.reason));
        if let Some(cut) = &line.truncated {
            reason = format!("{reason} (cut: {})", printable(cut));
        }
        [line.seq.to_string(), line.time.clone(), kind, line.size.to_string(), reason]
    });
    let head = ["SEQ", "TIME", "TYPE", "BYTES", "REASON"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (seq, time, kind, size) = (width(0), width(1), width(2), width(3));
    let mut table = String::new();
    for [a, b, c, d, reason] in &rows {
        // Writing to a string doesn't fail.
        let _ = writeln!(table, "{a:>seq$}  {b:time$}  {c:kind$}  {d:>size$}  {reason}");
    }
    table
}

fn rfc3339(time: OffsetDateTime) -> String {
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.to_string())
}

/// Replaces control characters, so that a publisher's text can't control the reader's terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|char| if is_control(char) { '\u{fffd}' } else { char }).collect()
}

fn printable_body(text: &str) -> String {
    let keep = |char| !is_control(char) || matches!(char, '\n' | '\t');
    text.chars().map(|char| if keep(char) { char } else { '\u{fffd}' }).collect()
}

/// Whether a character is a control character, or changes the direction of text.
fn is_control(char: char) -> bool {
    char.is_control() || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Without = Without { unreadable_headers: true, truncated_headers: true };

    fn letter(headers: &[(&str, &str)]) -> Letter {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        Letter { seq: 7, time: OffsetDateTime::UNIX_EPOCH, headers: map, body: b"{\x1b[2J}".to_vec() }
    }

    fn replayed(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        let headers = letter(headers).replay_headers(ALL).unwrap();
        let mut pairs: Vec<_> = headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
            .collect();
        pairs.sort();
        pairs
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_replay_has_the_original_headers_and_its_own_id() {
        let own = [("Reason", "r"), ("Original-Subject", "events.a"), ("Nats-Msg-Id", "EVENTS:1:2")];
        let id = ("Nats-Msg-Id", "replay:7:0");
        assert_eq!(replayed(&own), pairs(&[id, ("Replay-Of", "at:EVENTS:1:2")]));
        let mut with = own.to_vec();
        with.extend([("Original-Nats-Msg-Id", "m1"), ("Original-Nats-Expected-Last-Sequence", "3")]);
        with.extend([("X-Trace", "a"), ("X-Trace", "b"), ("Original-Reason", "mine")]);
        let mut expected = vec![id, ("Reason", "mine"), ("Replay-Of", "id:m1")];
        expected.extend([("X-Trace", "a"), ("X-Trace", "b")]);
        assert_eq!(replayed(&with), pairs(&expected));
        // A second replay still has the identity of the first event.
        with.extend([("Replay-Of", "id:m0"), ("Original-Nats-Msg-Id", "replay:3:0")]);
        assert!(replayed(&with).contains(&("Replay-Of".to_owned(), "id:m0".to_owned())));
    }

    #[test]
    fn unparsable_headers_are_omitted_only_on_request() {
        let letter = letter(&[("Original-Headers", "TkFUUw==")]);
        assert!(letter.replay_headers(Without::default()).unwrap_err().to_string().contains("base64"));
        assert!(letter.replay_headers(ALL).is_ok());
        assert!(letter.to_string().contains("TkFUUw=="));
    }

    #[test]
    fn a_truncated_event_is_not_replayed_as_if_it_were_complete() {
        let cut = |cut: &str| letter(&[("Truncated", cut), ("X-Trace", "t1")]);
        for truncated in ["body", "headers,body", "subject", "subject,headers"] {
            assert!(cut(truncated).replay_headers(ALL).is_err(), "{truncated}");
        }
        let headers = cut("headers");
        let refusal = headers.replay_headers(Without::default()).unwrap_err().to_string();
        assert!(refusal.contains("--without-truncated-headers"), "{refusal}");
        assert!(headers.replay_headers(ALL).is_ok());
        assert!(headers.to_string().contains("cut       headers"), "{headers}");
        // They are omitted together with the unparsable ones.
        let unreadable = letter(&[("Truncated", "headers"), ("Original-Headers", "TkFU")]);
        let without = Without { unreadable_headers: true, ..Without::default() };
        assert!(unreadable.replay_headers(without).is_ok());
        assert!(unreadable.replay_headers(Without::default()).is_err());
    }

    #[test]
    fn output_contains_no_terminal_control_characters() {
        let shown = letter(&[("Reason", "\u{202e}r")]).to_string();
        assert!(!shown.contains('\x1b') && !shown.contains('\u{202e}'), "{shown:?}");
    }
}
