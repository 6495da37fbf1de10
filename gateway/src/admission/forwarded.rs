//! The address of a client behind proxies: `X-Forwarded-For` and `Forwarded` (RFC 7239). Pure: no I/O.
//!
//! Each proxy appends the address of its peer. So the list is read from the right, and the first address that is not a
//! trusted proxy's is the client's. Everything to the left of it may be forged by the client.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use std::net::{IpAddr, SocketAddr};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client of a connection from `peer`: the peer itself, unless it is a trusted proxy.
///
/// If the two headers name different clients, one of them is not from our proxy, and it is unknown which. Then the peer
/// counts as the client.
pub fn client_of(peer: IpAddr, headers: &HeaderMap, is_trusted: impl Fn(&IpAddr) -> bool) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(&peer) {
        return peer;
    }
    let plain = headers
        .contains_key(X_FORWARDED_FOR)
        .then(|| last_untrusted(peer, lines(headers, &X_FORWARDED_FOR).flat_map(plain_hops), &is_trusted));
    let standard = headers.contains_key(header::FORWARDED).then(|| {
        last_untrusted(peer, lines(headers, &header::FORWARDED).flat_map(standard_hops), &is_trusted)
    });
    match (plain, standard) {
        (Some(plain), Some(standard)) if plain != standard => peer,
        (client, other) => client.or(other).unwrap_or(peer),
    }
}

/// Walks the hops from the right. An invalid hop was not written by our proxy, so it ends the list.
fn last_untrusted(
    peer: IpAddr,
    hops: impl Iterator<Item = Option<IpAddr>>,
    is_trusted: impl Fn(&IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer;
    for hop in hops.map_while(|hop| hop) {
        client = hop;
        if !is_trusted(&hop) {
            break;
        }
    }
    client
}

/// The lines of a header, the last one first. Together they form one list.
fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().rev().map(HeaderValue::as_bytes)
}

/// The hops of a line of `X-Forwarded-For`, from the right.
fn plain_hops(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    line.rsplit(|byte| *byte == b',').map(address)
}

/// The hops of a line of `Forwarded`, from the right. If its quotes do not match, it cannot be split, and is invalid.
fn standard_hops(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    let elements = split(line, b',').unwrap_or_else(|| vec![b""]);
    elements.into_iter().rev().map(|element| {
        let mut of = split(element, b';')?.into_iter().filter_map(|pair| {
            let (name, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
            name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| address(&value[1..]))
        });
        // The standard allows each parameter only once.
        of.next().filter(|_| of.next().is_none()).flatten()
    })
}

/// Splits at a byte outside of quotes. Returns `None` if a quote is not closed.
fn split(text: &[u8], at: u8) -> Option<Vec<&[u8]>> {
    let (mut parts, mut start, mut in_quotes, mut is_escaped) = (Vec::new(), 0, false, false);
    for (index, byte) in text.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_quotes => is_escaped = true,
            b'"' => in_quotes = !in_quotes,
            byte if *byte == at && !in_quotes => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!in_quotes).then_some(parts)
}

/// An address as proxies write it: with or without quotes, brackets (IPv6) and a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|with_port: SocketAddr| with_port.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_proxy(address: &IpAddr) -> bool {
        let proxies: ipnet::IpNet = "10.0.0.0/8".parse().unwrap();
        proxies.contains(address)
    }

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            headers.append(*name, HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    fn client(peer: &str, lines: &[(&'static str, &str)]) -> IpAddr {
        let lines: Vec<_> = lines.iter().map(|(name, line)| (*name, line.as_bytes())).collect();
        client_of(ip(peer), &headers(&lines), is_proxy)
    }

    #[test]
    fn the_header_is_used_only_if_the_peer_is_a_trusted_proxy() {
        let plain = |peer: &str, list: &str| client(peer, &[("x-forwarded-for", list)]);
        assert_eq!(plain("203.0.113.9", "198.51.100.1"), ip("203.0.113.9"));
        assert_eq!(plain("10.0.0.1", "198.51.100.1"), ip("198.51.100.1"));
        assert_eq!(plain("::ffff:10.0.0.1", "6.6.6.6, 198.51.100.1, 10.2.3.4"), ip("198.51.100.1"));
        assert_eq!(client("10.0.0.1", &[]), ip("10.0.0.1"));
        // If all hops are proxies, the first one counts.
        assert_eq!(plain("10.0.0.1", "10.0.0.3, 10.0.0.2"), ip("10.0.0.3"));
    }

    #[test]
    fn all_lines_form_one_list() {
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "198.51.100.1")];
        assert_eq!(client("10.0.0.1", &lines), ip("198.51.100.1"));
        let lines = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "10.0.0.2")];
        assert_eq!(client("10.0.0.1", &lines), ip("198.51.100.1"));
        let lines = [("forwarded", "for=6.6.6.6"), ("forwarded", "for=198.51.100.1, for=10.0.0.2")];
        assert_eq!(client("10.0.0.1", &lines), ip("198.51.100.1"));
    }

    #[test]
    fn ports_brackets_and_quotes_are_read() {
        for (text, expected) in [
            ("203.0.113.7:4711", "203.0.113.7"),
            (" 203.0.113.7 ", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
        ] {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", text)]), ip(expected), "{text}");
        }
        for (text, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            ("For=\"203.0.113.7:4711\"", "203.0.113.7"),
            ("proto=https; for=\"[2001:db8::1]:4711\" ;by=10.0.0.9", "2001:db8::1"),
            ("for=6.6.6.6, for=203.0.113.7;by=\"a,b;for=6.6.6.6\"", "203.0.113.7"),
            ("for=6.6.6.6;by=\"\\\"\", for=203.0.113.7", "203.0.113.7"),
        ] {
            assert_eq!(client("10.0.0.1", &[("forwarded", text)]), ip(expected), "{text}");
        }
    }

    #[test]
    fn an_invalid_hop_ends_the_list() {
        for text in ["6.6.6.6, nonsense", "nonsense", "", "6.6.6.6,", "6.6.6.6:port", "[6.6.6.6", "1.2.3.4.5"]
        {
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", text)]), ip("10.0.0.1"), "{text}");
        }
        // The last valid hop counts.
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", "nonsense, 10.0.0.2")]), ip("10.0.0.2"));
        for text in [
            "for=6.6.6.6, for=unknown",
            "for=_hidden",
            "6.6.6.6",
            "for=6.6.6.6;for=7.7.7.7",
            "for=\"6.6.6.6, for=203.0.113.7",
            "for = 6.6.6.6, by=10.0.0.2",
        ] {
            assert_eq!(client("10.0.0.1", &[("forwarded", text)]), ip("10.0.0.1"), "{text}");
        }
    }

    #[test]
    fn two_headers_that_differ_are_ignored() {
        let both =
            |standard| client("10.0.0.1", &[("x-forwarded-for", "203.0.113.7"), ("forwarded", standard)]);
        assert_eq!(both("for=203.0.113.7"), ip("203.0.113.7"));
        assert_eq!(both("for=6.6.6.6"), ip("10.0.0.1"));
    }

    proptest! {
        /// Whatever a client writes, into the proxy's line or into other lines, its address is the one that the proxy
        /// added.
        #[test]
        fn a_client_cannot_choose_its_address(
            own in proptest::collection::vec(proptest::collection::vec(0x20_u8..=0xff, 0..40), 0..4),
            seen in any::<u32>(),
            in_line in any::<bool>(),
        ) {
            let seen = IpAddr::from(seen.to_be_bytes());
            prop_assume!(!is_proxy(&seen));
            let is_value = |line: &Vec<u8>| HeaderValue::from_bytes(line).is_ok();
            let mut own: Vec<Vec<u8>> = own.into_iter().filter(is_value).collect();
            let mut last = if in_line { own.pop().unwrap_or_default() } else { Vec::new() };
            let is_first = last.is_empty();
            if !is_first {
                last.extend_from_slice(b", ");
            }
            last.extend_from_slice(seen.to_string().as_bytes());
            let lines: Vec<(&'static str, &[u8])> =
                own.iter().chain([&last]).map(|line| ("x-forwarded-for", line.as_slice())).collect();
            prop_assert_eq!(client_of(ip("10.0.0.1"), &headers(&lines), is_proxy), seen);
        }

        /// The same for `Forwarded`, except that unbalanced quotes in the proxy's line leave only the proxy's address.
        #[test]
        fn a_client_cannot_choose_its_address_in_forwarded(
            own in "([a-z=;,\" \\\\.:0-9\\[\\]]|for=6\\.6\\.6\\.6|for=\"){0,12}",
            seen in any::<u128>(),
            in_line in any::<bool>(),
        ) {
            let seen = IpAddr::from(seen.to_be_bytes()).to_canonical();
            prop_assume!(!is_proxy(&seen));
            let written = format!("for=\"[{seen}]:80\";by=\"10.0.0.1\"");
            let written = if seen.is_ipv4() { format!("for={seen}") } else { written };
            let joined = format!("{own}, {written}");
            let lines = [("forwarded", own.as_bytes()), ("forwarded", written.as_bytes())];
            let lines = if in_line { vec![("forwarded", joined.as_bytes())] } else { lines.to_vec() };
            let client = client_of(ip("10.0.0.1"), &headers(&lines), is_proxy);
            prop_assert!(client == seen || (in_line && client == ip("10.0.0.1")), "{}", client);
        }

        #[test]
        fn no_header_panics(name in 0_usize..2, line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let name = ["x-forwarded-for", "forwarded"][name];
            if HeaderValue::from_bytes(&line).is_ok() {
                client_of(ip("10.0.0.1"), &headers(&[(name, &line)]), is_proxy);
            }
        }
    }
}
