//! Decodes the NATS protocol from server to client, as far as the gateway needs it. Pure: no I/O.

use std::str;

/// Maximum length of a line, in bytes. The longest line is `INFO`, which lists every server of a cluster.
const LINE: usize = 64 * 1024;
/// Maximum number of digits of a size.
const DIGITS: usize = 9;

/// The status of the reply to a request for which nobody is subscribed.
pub const NO_RESPONDERS: &str = "503";

/// An operation of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Information about the server, in JSON.
    Info(&'a str),
    /// A published message.
    Message(Message<'a>),
    /// A ping, which the client must answer.
    Ping,
    /// The answer to a ping. The server has processed all earlier commands.
    Pong,
    /// The confirmation of a command. Sent only if the client asked for verbose mode.
    Ok,
    /// An error.
    Error(&'a str),
}

/// A published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The subject.
    pub subject: &'a str,
    /// The id of the subscription.
    pub sid: &'a str,
    /// The raw headers, including their first line; empty if there are none.
    pub headers: &'a [u8],
    /// The payload, without the headers.
    pub payload: &'a [u8],
}

/// A violation of the protocol by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A line is too long.
    #[error("a line of more than {LINE} bytes")]
    LineTooLong,
    /// A line is not a known operation.
    #[error("an invalid line")]
    InvalidLine,
    /// A message exceeds the server's own limit.
    #[error("a message of {0} bytes")]
    MessageTooLarge(usize),
    /// A message is not followed by a line end.
    #[error("a message without a line end")]
    MissingLineEnd,
}

/// Decodes the first operation of `input`, and returns it with its length in bytes. Returns `None` if it is incomplete.
/// A message may have `max` bytes, including its headers.
///
/// # Errors
/// If the input is invalid. The rest of the stream cannot be decoded.
pub fn decode(input: &[u8], max: usize) -> Result<Option<(Op<'_>, usize)>, ProtocolError> {
    let Some(end) = input.iter().take(LINE).position(|byte| *byte == b'\n') else {
        return if input.len() < LINE { Ok(None) } else { Err(ProtocolError::LineTooLong) };
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(ProtocolError::InvalidLine)?;
    let line = str::from_utf8(line).map_err(|_| ProtocolError::InvalidLine)?;
    let (name, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let op = match name {
        "MSG" => return message(rest, false, input, end + 1, max),
        "HMSG" => return message(rest, true, input, end + 1, max),
        "PING" => Op::Ping,
        "PONG" => Op::Pong,
        "INFO" => Op::Info(rest.trim()),
        "+OK" => Op::Ok,
        "-ERR" => Op::Error(rest.trim().trim_matches('\'')),
        _ => return Err(ProtocolError::InvalidLine),
    };
    Ok(Some((op, end + 1)))
}

/// Decodes a message whose first line is `line`: `subject sid [reply] [size of the headers] size`.
fn message<'a>(
    line: &'a str,
    has_headers: bool,
    input: &'a [u8],
    start: usize,
    max: usize,
) -> Result<Option<(Op<'a>, usize)>, ProtocolError> {
    let mut words = line.split_ascii_whitespace();
    let mut word = || words.next().ok_or(ProtocolError::InvalidLine);
    let (subject, sid) = (word()?, word()?);
    let mut sizes = [word()?; 4];
    let mut count = 1;
    for word in words {
        *sizes.get_mut(count).ok_or(ProtocolError::InvalidLine)? = word;
        count += 1;
    }
    // The optional first word is a reply subject, which is not used.
    let (headers, size) = match (has_headers, &sizes[..count]) {
        (false, [size] | [_, size]) => (0, self::size(size)?),
        (true, [headers, size] | [_, headers, size]) => (self::size(headers)?, self::size(size)?),
        _ => return Err(ProtocolError::InvalidLine),
    };
    if size > max {
        return Err(ProtocolError::MessageTooLarge(size));
    }
    if headers > size {
        return Err(ProtocolError::InvalidLine);
    }
    let end = start + size;
    let Some(ending) = input.get(end..end + 2) else { return Ok(None) };
    if ending != b"\r\n" {
        return Err(ProtocolError::MissingLineEnd);
    }
    let (headers, payload) = input[start..end].split_at(headers);
    Ok(Some((Op::Message(Message { subject, sid, headers, payload }), end + 2)))
}

fn size(text: &str) -> Result<usize, ProtocolError> {
    let is_number = text.len() <= DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or(ProtocolError::InvalidLine)
}

impl<'a> Message<'a> {
    /// The status in the first line of the headers, behind the version: the server's own replies have one.
    pub fn status(&self) -> Option<&'a str> {
        let line = str::from_utf8(self.headers).ok()?.lines().next()?;
        line.split_ascii_whitespace().nth(1)
    }

    /// The first value of a header. Its name is compared without case.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let lines = str::from_utf8(self.headers).ok()?.split("\r\n").skip(1);
        let mut values = lines.filter_map(|line| line.split_once(':'));
        values.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1024;

    /// Decodes input that arrives in these pieces. Returns the operations, and the error if there is one.
    fn decode_all(pieces: &[&[u8]]) -> (Vec<String>, Option<ProtocolError>) {
        let (mut buffer, mut ops) = (Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                let len = match decode(&buffer, MAX) {
                    Ok(Some((op, len))) => {
                        ops.push(format!("{op:?}"));
                        len
                    }
                    Ok(None) => break,
                    Err(error) => return (ops, Some(error)),
                };
                buffer.drain(..len);
            }
        }
        (ops, None)
    }

    #[derive(Debug, Clone)]
    struct Sample {
        subject: String,
        sid: String,
        reply: Option<String>,
        headers: Option<Vec<u8>>,
        payload: Vec<u8>,
    }

    impl Sample {
        fn bytes(&self) -> Vec<u8> {
            let reply = self.reply.iter().map(|reply| format!(" {reply}")).collect::<String>();
            let size = self.payload.len();
            let mut bytes = match &self.headers {
                None => format!("MSG {} {}{reply} {size}\r\n", self.subject, self.sid).into_bytes(),
                Some(headers) => {
                    let (headers, size) = (headers.len(), headers.len() + size);
                    format!("HMSG {} {}{reply} {headers} {size}\r\n", self.subject, self.sid).into_bytes()
                }
            };
            bytes.extend(self.headers.iter().flatten());
            bytes.extend(&self.payload);
            bytes.extend(b"\r\n");
            bytes
        }
    }

    prop_compose! {
        fn sample()(
            subject in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}",
            sid in "[a-z0-9]{1,8}",
            reply in proptest::option::of("_INBOX\\.[a-z]{1,8}"),
            headers in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
            payload in proptest::collection::vec(any::<u8>(), 0..80),
        ) -> Sample {
            Sample { subject, sid, reply, headers, payload }
        }
    }

    proptest! {
        #[test]
        fn messages_are_decoded_in_any_pieces(
            samples in proptest::collection::vec(sample(), 1..8),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        ) {
            let with_pings = samples.iter().flat_map(|sample| [sample.bytes(), b"PING\r\n".to_vec()]);
            let bytes: Vec<u8> = with_pings.flatten().collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let expected: Vec<String> = samples.iter().flat_map(|sample| {
                let (headers, payload) = (sample.headers.as_deref().unwrap_or_default(), &sample.payload[..]);
                let message = Message { subject: &sample.subject, sid: &sample.sid, headers, payload };
                [format!("{:?}", Op::Message(message)), "Ping".to_owned()]
            }).collect();
            prop_assert_eq!(decode_all(&pieces), (expected, None));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, name in "(MSG|HMSG|INFO|-ERR) [ -~]{0,30}\r\n") {
            let _ = decode_all(&[&bytes]);
            let _ = decode_all(&[name.as_bytes(), &bytes]);
        }
    }

    #[test]
    fn every_operation_is_decoded() {
        let input =
            b"INFO {\"server_id\":\"x\"} \r\n+OK\r\nPONG\r\n-ERR 'Slow Consumer'\r\nMSG a.b c7 0\r\n\r\n";
        let (ops, error) = decode_all(&[input]);
        assert_eq!(error, None);
        assert_eq!(ops[0], format!("{:?}", Op::Info("{\"server_id\":\"x\"}")));
        assert_eq!(
            ops[1..4],
            ["Ok".to_owned(), "Pong".to_owned(), format!("{:?}", Op::Error("Slow Consumer"))]
        );
        assert_eq!(ops.len(), 5);
    }

    #[test]
    fn invalid_input_is_an_error() {
        for (input, expected) in [
            (&b"HELLO\r\n"[..], ProtocolError::InvalidLine),
            (b"PING\n", ProtocolError::InvalidLine),
            (b"MSG a\r\n", ProtocolError::InvalidLine),
            (b"MSG a c7 +1\r\n", ProtocolError::InvalidLine),
            (b"MSG a c7 r s 1\r\n", ProtocolError::InvalidLine),
            (b"HMSG a c7 5 3\r\nabc\r\n", ProtocolError::InvalidLine),
            (b"MSG a c7 1025\r\n", ProtocolError::MessageTooLarge(1025)),
            (b"MSG a c7 9999999999999999999999\r\n", ProtocolError::InvalidLine),
            (b"MSG a c7 1\r\nabc", ProtocolError::MissingLineEnd),
        ] {
            assert_eq!(decode_all(&[input]).1, Some(expected), "{}", String::from_utf8_lossy(input));
        }
        assert_eq!(decode_all(&[&[b'x'; LINE]]).1, Some(ProtocolError::LineTooLong));
    }

    #[test]
    fn headers_have_names_and_a_status() {
        let headers = b"NATS/1.0\r\nA: 1\r\nTraceParent:00-ab\r\n\r\n";
        let message = Message { subject: "a", sid: "c7", headers, payload: b"" };
        assert_eq!(message.header("traceparent"), Some("00-ab"));
        assert_eq!((message.header("b"), message.status()), (None, None));
        let status = Message { headers: b"NATS/1.0 503\r\n\r\n", ..message };
        assert_eq!(status.status(), Some(NO_RESPONDERS));
    }
}
