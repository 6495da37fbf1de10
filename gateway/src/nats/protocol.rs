//! What a NATS server says to a client, as far as one that only listens hears it. Pure: no I/O.

use std::str;

/// Bytes of a line, at most. The longest is the greeting, which names every server of a cluster.
const LINE: usize = 64 * 1024;
/// Digits of a size, at most.
const DIGITS: usize = 9;

/// One thing that the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// What the server is like: JSON.
    Info(&'a str),
    /// Something was published.
    Message(Message<'a>),
    /// It wants to hear something.
    Ping,
    /// It has done all that was asked before a ping.
    Pong,
    /// It did what was asked; only said to who wants it said.
    Ok,
    /// It did not do what was asked, and why.
    Error(&'a str),
}

/// Something that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Where.
    pub subject: &'a str,
    /// What the subscription was called.
    pub sid: &'a str,
    /// Its headers as they came, first line included; empty where there are none.
    pub headers: &'a [u8],
    /// What.
    pub payload: &'a [u8],
}

/// What no NATS server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A line does not end.
    #[error("a line of more than {LINE} bytes")]
    Line,
    /// It is none of what is known.
    #[error("a line that can't be read")]
    Unknown,
    /// More than the server itself takes.
    #[error("a message of {0} bytes")]
    Large(usize),
    /// A message does not end where it should.
    #[error("a message that does not end where it should")]
    End,
}

/// Reads the first thing of `input`, and says how many bytes it takes; `None` until all of it is there. A message has at
/// most `max` bytes, headers included.
///
/// # Errors
/// When no server says that. What follows means nothing.
pub fn decode(input: &[u8], max: usize) -> Result<Option<(Op<'_>, usize)>, Broken> {
    let Some(end) = input.iter().take(LINE).position(|byte| *byte == b'\n') else {
        return if input.len() < LINE { Ok(None) } else { Err(Broken::Line) };
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(Broken::Unknown)?;
    let line = str::from_utf8(line).map_err(|_| Broken::Unknown)?;
    let (name, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let op = match name {
        "MSG" => return message(rest, false, input, end + 1, max),
        "HMSG" => return message(rest, true, input, end + 1, max),
        "PING" => Op::Ping,
        "PONG" => Op::Pong,
        "INFO" => Op::Info(rest.trim()),
        "+OK" => Op::Ok,
        "-ERR" => Op::Error(rest.trim().trim_matches('\'')),
        _ => return Err(Broken::Unknown),
    };
    Ok(Some((op, end + 1)))
}

/// The message that `line` announces: `subject sid [reply] [size of the headers] size`.
fn message<'a>(
    line: &'a str,
    has_headers: bool,
    input: &'a [u8],
    start: usize,
    max: usize,
) -> Result<Option<(Op<'a>, usize)>, Broken> {
    let mut words = line.split_ascii_whitespace();
    let mut word = || words.next().ok_or(Broken::Unknown);
    let (subject, sid) = (word()?, word()?);
    let mut sizes = [word()?; 4];
    let mut count = 1;
    for word in words {
        *sizes.get_mut(count).ok_or(Broken::Unknown)? = word;
        count += 1;
    }
    // What comes before them is a subject to answer on, which nobody does.
    let (headers, size) = match (has_headers, &sizes[..count]) {
        (false, [size] | [_, size]) => (0, self::size(size)?),
        (true, [headers, size] | [_, headers, size]) => (self::size(headers)?, self::size(size)?),
        _ => return Err(Broken::Unknown),
    };
    if size > max {
        return Err(Broken::Large(size));
    }
    if headers > size {
        return Err(Broken::Unknown);
    }
    let end = start + size;
    let Some(ending) = input.get(end..end + 2) else { return Ok(None) };
    if ending != b"\r\n" {
        return Err(Broken::End);
    }
    let (headers, payload) = input[start..end].split_at(headers);
    Ok(Some((Op::Message(Message { subject, sid, headers, payload }), end + 2)))
}

fn size(text: &str) -> Result<usize, Broken> {
    let is_number = text.len() <= DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or(Broken::Unknown)
}

impl<'a> Message<'a> {
    /// The first value of a header, whatever the case of its name.
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

    /// All that `pieces` say, owned, and why it ended.
    fn heard(pieces: &[&[u8]]) -> (Vec<String>, Option<Broken>) {
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
                    Err(broken) => return (ops, Some(broken)),
                };
                buffer.drain(..len);
            }
        }
        (ops, None)
    }

    #[derive(Debug, Clone)]
    struct Said {
        subject: String,
        sid: String,
        reply: Option<String>,
        headers: Option<Vec<u8>>,
        payload: Vec<u8>,
    }

    impl Said {
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
        fn said()(
            subject in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}",
            sid in "[a-z0-9]{1,8}",
            reply in proptest::option::of("_INBOX\\.[a-z]{1,8}"),
            headers in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
            payload in proptest::collection::vec(any::<u8>(), 0..80),
        ) -> Said {
            Said { subject, sid, reply, headers, payload }
        }
    }

    proptest! {
        #[test]
        fn what_was_said_is_heard_in_whatever_pieces_it_comes(
            said in proptest::collection::vec(said(), 1..8),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        ) {
            let bytes: Vec<u8> = said.iter().flat_map(|said| [said.bytes(), b"PING\r\n".to_vec()]).flatten().collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let expected: Vec<String> = said.iter().flat_map(|said| {
                let (headers, payload) = (said.headers.as_deref().unwrap_or_default(), &said.payload[..]);
                let message = Message { subject: &said.subject, sid: &said.sid, headers, payload };
                [format!("{:?}", Op::Message(message)), "Ping".to_owned()]
            }).collect();
            prop_assert_eq!(heard(&pieces), (expected, None));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, name in "(MSG|HMSG|INFO|-ERR) [ -~]{0,30}\r\n") {
            let _ = heard(&[&bytes]);
            let _ = heard(&[name.as_bytes(), &bytes]);
        }
    }

    #[test]
    fn all_that_a_server_says_is_understood() {
        let said =
            b"INFO {\"server_id\":\"x\"} \r\n+OK\r\nPONG\r\n-ERR 'Slow Consumer'\r\nMSG a.b c7 0\r\n\r\n";
        let (ops, broken) = heard(&[said]);
        assert_eq!(broken, None);
        assert_eq!(ops[0], format!("{:?}", Op::Info("{\"server_id\":\"x\"}")));
        assert_eq!(
            ops[1..4],
            ["Ok".to_owned(), "Pong".to_owned(), format!("{:?}", Op::Error("Slow Consumer"))]
        );
        assert_eq!(ops.len(), 5);
    }

    #[test]
    fn what_no_server_says_is_an_error() {
        for (said, expected) in [
            (&b"HELLO\r\n"[..], Broken::Unknown),
            (b"PING\n", Broken::Unknown),
            (b"MSG a\r\n", Broken::Unknown),
            (b"MSG a c7 +1\r\n", Broken::Unknown),
            (b"MSG a c7 r s 1\r\n", Broken::Unknown),
            (b"HMSG a c7 5 3\r\nabc\r\n", Broken::Unknown),
            (b"MSG a c7 1025\r\n", Broken::Large(1025)),
            (b"MSG a c7 9999999999999999999999\r\n", Broken::Unknown),
            (b"MSG a c7 1\r\nabc", Broken::End),
        ] {
            assert_eq!(heard(&[said]).1, Some(expected), "{}", String::from_utf8_lossy(said));
        }
        assert_eq!(heard(&[&[b'x'; LINE]]).1, Some(Broken::Line));
    }

    #[test]
    fn a_header_is_found_by_its_name() {
        let headers = b"NATS/1.0\r\nA: 1\r\nTraceParent:00-ab\r\n\r\n";
        let message = Message { subject: "a", sid: "c7", headers, payload: b"" };
        assert_eq!(message.header("traceparent"), Some("00-ab"));
        assert_eq!(message.header("b"), None);
    }
}
