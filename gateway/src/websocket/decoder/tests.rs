use super::*;
use proptest::prelude::*;

const MAX: usize = 1_000;

/// Encodes a frame of a client.
fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ ..=125 => bytes.push(MASKED | u8::try_from(len).unwrap()),
        len @ ..=65_535 => {
            bytes.push(MASKED | 126);
            bytes.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(MASKED | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Decodes bytes that arrive in these pieces.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Item>, Close> {
    let mut decoder = Decoder::new(MAX);
    let mut items = Vec::new();
    for mut piece in pieces {
        while let Some(item) = decoder.decode(&mut piece)? {
            items.push(item);
        }
        assert!(piece.is_empty(), "bytes may remain only behind an item");
    }
    Ok(items)
}

fn text(text: &str) -> Item {
    Item::Text(text.to_owned())
}

/// Encodes a message as fragments that end at `cuts`, with a control frame between them.
fn message(payload: &[u8], mut cuts: Vec<usize>, mask: [u8; 4]) -> Vec<u8> {
    cuts.iter_mut().for_each(|cut| *cut %= payload.len() + 1);
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([payload.len()]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let mut bytes = Vec::new();
    for (index, (start, end)) in starts.zip(ends).enumerate() {
        if index > 0 {
            bytes.extend(frame(FIN | opcode::PONG, b"", mask));
        }
        let last = if index == cuts.len() { FIN } else { 0 };
        let opcode = if index == 0 { opcode::TEXT } else { opcode::CONTINUATION };
        bytes.extend(frame(last | opcode, &payload[start..end], mask));
    }
    bytes
}

proptest! {
    #[test]
    fn a_message_is_decoded_in_any_fragments_and_pieces(
        content in ".{0,200}",
        cuts in proptest::collection::vec(0_usize..300, 0..4),
        mask: [u8; 4],
        pieces in 1_usize..20,
    ) {
        let bytes = message(content.as_bytes(), cuts.clone(), mask);
        let mut expected = vec![Item::Pong; cuts.len()];
        expected.push(text(&content));
        let mut chunks = bytes.chunks(pieces);
        prop_assert_eq!(decode(std::iter::from_fn(|| chunks.next())), Ok(expected));
    }

    #[test]
    fn the_result_does_not_depend_on_the_pieces(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        pieces in 1_usize..20,
    ) {
        prop_assert_eq!(decode([&bytes[..]]), decode(bytes.chunks(pieces)));
    }

    #[test]
    fn text_is_refused_if_and_only_if_it_is_not_utf8(
        payload in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xe2), Just(0x82), Just(0xac)], 0..8),
        cuts in proptest::collection::vec(0_usize..10, 0..3),
    ) {
        let items = decode([&message(&payload, cuts, [1, 2, 3, 4])[..]]);
        match String::from_utf8(payload) {
            Ok(content) => prop_assert_eq!(items.unwrap().pop(), Some(Item::Text(content))),
            Err(_) => prop_assert_eq!(items, Err(Close::NotUtf8)),
        }
    }
}

#[test]
fn violations_are_refused_at_once() {
    let close = |payload: &[u8]| frame(FIN | opcode::CLOSE, payload, [0; 4]);
    for (bytes, close) in [
        (vec![0xc1], Close::Protocol), // the bit of an extension
        (vec![0x83], Close::Protocol), // unknown opcodes
        (vec![0x8b], Close::Protocol),
        (vec![0x09], Close::Protocol),       // a fragmented control frame
        (vec![0x89, 0xfe], Close::Protocol), // a long control frame
        (vec![0x81, 0x05], Close::Protocol), // no mask
        (vec![0x80, 0x80, 0, 0, 0, 0], Close::Protocol), // a continuation without a message
        (vec![0x01, 0x80, 0, 0, 0, 0, 0x81, 0x80, 0, 0, 0, 0], Close::Protocol), // a message within another
        (vec![0x81, 0xfe, 0, 125, 0, 0, 0, 0], Close::Protocol), // lengths that are not the shortest encoding
        (vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], Close::Protocol),
        (vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], Close::Protocol),
        (vec![0x82, 0x80, 0, 0, 0, 0], Close::Binary),
        (vec![0x81, 0xfe, 0x03, 0xe9, 0, 0, 0, 0], Close::TooBig),
        (vec![0x81, 0xff, 0x7f, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], Close::TooBig),
        (vec![0x81, 0x8a, 0, 0, 0, 0, b'a', 0xff], Close::NotUtf8), // before the rest has arrived
        (close(b"\x03"), Close::Protocol),
        (close(&999_u16.to_be_bytes()), Close::Protocol),
        (close(&1005_u16.to_be_bytes()), Close::Protocol),
        (close(&1016_u16.to_be_bytes()), Close::Protocol),
        (close(&5000_u16.to_be_bytes()), Close::Protocol),
        (close(b"\x03\xe8\xff"), Close::NotUtf8),
    ] {
        assert_eq!(decode([&bytes[..]]), Err(close), "{bytes:x?}");
    }
    let parts = [frame(opcode::TEXT, &[b'x'; 600], [9; 4]), frame(FIN, &[b'x'; 401], [9; 4])].concat();
    assert_eq!(decode([&parts[..]]), Err(Close::TooBig), "the limit is for the whole message");
}

#[test]
fn control_frames_are_decoded() {
    let bytes = [
        frame(FIN | opcode::PING, b"are you there?", [1, 2, 3, 4]),
        frame(FIN | opcode::PING, &[7; CONTROL_BYTES], [0; 4]),
        frame(FIN | opcode::PONG, b"I am", [5; 4]),
        frame(FIN | opcode::TEXT, &[b'x'; MAX], [6; 4]),
    ];
    let items = decode([&bytes.concat()[..]]).unwrap();
    let pings = [Item::Ping(b"are you there?".to_vec()), Item::Ping(vec![7; CONTROL_BYTES])];
    assert_eq!(items[..2], pings);
    assert_eq!(items[2..], [Item::Pong, text(&"x".repeat(MAX))]);
    for payload in [&b""[..], b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0", b"\x03\xf6"] {
        let bytes = frame(FIN | opcode::CLOSE, payload, [4, 3, 2, 1]);
        assert_eq!(decode([&bytes[..]]), Ok(vec![Item::Close]));
    }
}
