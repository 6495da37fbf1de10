//! Messages of a stream as JetStream's own API returns them: without a consumer, and with headers in base64, so that
//! they may contain any bytes.

use crate::streams::Source;
use anyhow::Context;
use async_nats::jetstream::response::Response;
use serde::Deserialize;
use service::Bus;

/// JetStream's code for "no message found" (<https://github.com/nats-io/nats-server/blob/main/server/errors.json>).
const NO_MESSAGE: u64 = 10037;

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

/// A message in a stream.
#[derive(Deserialize)]
pub struct RawMessage {
    pub subject: String,
    pub seq: u64,
    /// Base64 of the whole header block.
    #[serde(default)]
    pub hdrs: String,
    /// Base64 of the body.
    #[serde(default)]
    pub data: String,
    /// Time of storage, as RFC 3339.
    pub time: String,
}

/// The first message of a stream from a sequence on.
///
/// # Errors
/// If NATS doesn't response.
pub async fn first_from(bus: &Bus, source: Source, seq: u64) -> anyhow::Result<Option<RawMessage>> {
    let request = serde_json::json!({"seq": seq, "next_by_subj": ">"});
    let subject = format!("STREAM.MSG.GET.{}", source.name());
    let response: Response<Found> =
        bus.jetstream().request(subject, &request).await.context("request a message")?;
    match response {
        Response::Ok(found) => Ok(Some(found.message)),
        Response::Err { error } if error.error_code().0 == NO_MESSAGE => Ok(None),
        Response::Err { error } => Err(error).context("request a message"),
    }
}

/// Decodes base64 as Go writes it. `None` if it is invalid.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
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
    fn base64_is_decoded() {
        for (text, bytes) in
            [("", &b""[..]), ("YQ==", b"a"), ("YWI=", b"ab"), ("YWJj", b"abc"), ("/+8=", b"\xff\xef")]
        {
            assert_eq!(decode_base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(decode_base64("a b"), None);
    }
}
