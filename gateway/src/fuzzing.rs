//! Entry points for the fuzz targets in `fuzz/`: in no other build.

use crate::{
    admission::{
        jwks,
        tokens::{Verifier, parameter},
    },
    channel::encode,
    config::{TokenExpiry, Tokens},
    http,
    nats::protocol,
    session::multiplex,
    websocket::{Decoder, Item},
};
use axum::http::{HeaderMap, header};
use contract::{Close, UserId, limits, typing::TypingEvent};
use std::sync::LazyLock;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    Verifier::new(Tokens {
        jwt_secret: Some("a secret that no fuzzer guesses".to_owned()),
        jwt_public_key: None,
        jwt_jwks_url: None,
        jwt_issuer: None,
        jwt_audience: None,
        token_cookie: Some("token".to_owned()),
        token_expiry: TokenExpiry::Enforce,
        user_id_claim: "user_id".to_owned(),
        username_claim: "username".to_owned(),
    })
    .expect("a secret is there")
});

fn user() -> UserId {
    UserId::new(7).expect("7 is an id")
}

/// A frame of the multiplexed socket.
pub fn multiplexed(text: &str) {
    if let Ok((_, reference)) = multiplex::Op::parse(text, user()) {
        multiplex::ok(&reference);
    }
}

/// Whether a token is taken, wherever it comes in.
pub fn takes_token(text: &str) -> bool {
    let places = [header::AUTHORIZATION, header::SEC_WEBSOCKET_PROTOCOL, header::COOKIE];
    for name in places {
        let mut headers = HeaderMap::new();
        if let Ok(value) = text.parse() {
            headers.insert(name, value);
        }
        let _ = VERIFIER.token_of(&headers, Some(text));
    }
    VERIFIER.verify(text).is_ok()
}

/// A key set.
pub fn keys(body: &[u8]) {
    let _ = jwks::read(body);
}

/// A path and its query.
pub fn path(path: &str, query: &str) {
    if let Some(target) = http::target(path) {
        let _ = http::start(Some(query), target);
    }
    let _ = parameter(query, "token");
}

/// The channel that a name means, as it is written.
pub fn channel(name: &str) -> Option<String> {
    multiplex::topic(Some(name), user()).ok().map(crate::topic::Topic::name)
}

/// An event of a service.
pub fn events(payload: &[u8]) {
    let _ = encode::chat_event(payload);
    let _ = encode::inbox_event(user(), None, payload);
    let _ = serde_json::from_slice::<TypingEvent>(payload);
}

/// All that a socket's bytes mean, in these pieces, and what ended it.
pub fn decode(pieces: &[&[u8]]) -> (Vec<Item>, Option<Close>) {
    let (mut decoder, mut items) = (Decoder::new(limits::FRAME_BYTES), Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match decoder.decode(&mut rest) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(close) => return (items, Some(close)),
            }
        }
    }
    (items, None)
}

/// All that a NATS server says, in these pieces, and what ended it.
pub fn nats(pieces: &[&[u8]]) -> (Vec<String>, Option<String>) {
    const MAX: usize = 1024 * 1024;
    let (mut buffer, mut said) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let len = match protocol::decode(&buffer, MAX) {
                Ok(Some((op, len))) => {
                    if let protocol::Op::Message(message) = op {
                        let _ =
                            (crate::topic::Subscriber::of_sid(message.sid), message.header("traceparent"));
                    }
                    said.push(format!("{op:?}"));
                    len
                }
                Ok(None) => break,
                Err(broken) => return (said, Some(broken.to_string())),
            };
            buffer.drain(..len);
        }
    }
    (said, None)
}
