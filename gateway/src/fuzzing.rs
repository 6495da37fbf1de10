//! Entry points for the fuzz targets in `fuzz/`. Built for fuzzing only.

use crate::{
    admission::{
        jwks,
        tokens::{Verifier, parameter},
    },
    channel::encode,
    config::{TokenExpiry, Tokens},
    http::upgrade,
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
        jwt_secret_previous: None,
        jwt_public_key_previous: None,
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

/// Parses a frame of a multiplexed socket.
pub fn multiplexed(text: &str) {
    if let Ok((_, reference)) = multiplex::Op::parse(text, user()) {
        multiplex::ok(&reference);
    }
}

/// Reads a token from every part of a handshake that can contain one, and returns whether it is valid.
pub fn takes_token(text: &str) -> bool {
    let names = [header::AUTHORIZATION, header::SEC_WEBSOCKET_PROTOCOL, header::COOKIE];
    for name in names {
        let mut headers = HeaderMap::new();
        if let Ok(value) = text.parse() {
            headers.insert(name, value);
        }
        let _ = VERIFIER.token_of(&headers, Some(text));
    }
    VERIFIER.verify(text).is_ok()
}

/// Parses a JSON Web Key Set.
pub fn keys(body: &[u8]) {
    let _ = jwks::read(body);
}

/// Parses a path and its query.
pub fn path(path: &str, query: &str) {
    if let Some(target) = upgrade::target(path) {
        let _ = upgrade::start(Some(query), target);
    }
    let _ = parameter(query, "token");
}

/// Parses the name of a channel, and returns its canonical form.
pub fn channel(name: &str) -> Option<String> {
    multiplex::topic(Some(name), user()).ok().map(crate::topic::Topic::name)
}

/// Parses a payload as an event of each service.
pub fn events(payload: &[u8]) {
    let _ = encode::chat_event(payload);
    let _ = encode::inbox_event(user(), None, payload);
    let _ = serde_json::from_slice::<TypingEvent>(payload);
}

/// Decodes the bytes of a socket, in these pieces. Returns the items, and the close code if the bytes are invalid.
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

/// Decodes the bytes of a NATS server, in these pieces. Returns the operations, and the error if the bytes are invalid.
pub fn nats(pieces: &[&[u8]]) -> (Vec<String>, Option<String>) {
    const MAX: usize = 1024 * 1024;
    let (mut buffer, mut ops) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let len = match protocol::decode(&buffer, MAX) {
                Ok(Some((op, len))) => {
                    if let protocol::Op::Message(message) = op {
                        let _ =
                            (crate::topic::Subscriber::of_sid(message.sid), message.header("traceparent"));
                    }
                    ops.push(format!("{op:?}"));
                    len
                }
                Ok(None) => break,
                Err(error) => return (ops, Some(error.to_string())),
            };
            buffer.drain(..len);
        }
    }
    (ops, None)
}
