//! The functions on the path of every message and delivery, for `benches/hot.rs`. Built with the feature `bench` and
//! for tests.

use crate::{
    Tokens,
    admission::tokens::Verifier,
    channel::{
        encode::{self, Event},
        entry::Position,
        ordering::Log,
        view::View,
    },
    config::TokenExpiry,
    nats::{
        protocol::{self, Op},
        requests::REPLIES,
    },
    websocket::{Decoder, Item, outbox::Outbox},
};
use contract::{
    ConversationId, MessageId, Timestamp, UserId,
    chat::{ChatEvent, Message, Send, SendBatch, Sent},
    frames::ChatFrame,
    limits,
};
use jsonwebtoken::{EncodingKey, Header};
use std::{hint::black_box, sync::Arc};

/// Number of sockets that a message is delivered to.
const SOCKETS: i64 = 100;
/// Number of sends in a batch.
const BATCH: usize = 64;
const SECRET: &str = "the secret of the benchmarks";

/// The names of all measured operations.
pub const NAMES: [&str; 6] =
    ["parse_frame", "encode_event", "fan_out_100", "build_pack_64", "take_reply_64", "check_token"];

/// Prepares the operation of this name.
///
/// # Panics
/// If there is no such operation.
pub fn operation(name: &str) -> Box<dyn FnMut()> {
    match name {
        "parse_frame" => parse_frame(),
        "encode_event" => encode_event(),
        "fan_out_100" => fan_out(),
        "build_pack_64" => build_batch(),
        "take_reply_64" => take_reply(),
        "check_token" => check_token(),
        _ => panic!("unknown operation {name}"),
    }
}

fn user(id: i64) -> UserId {
    UserId::new(id).expect("a positive number")
}

fn message(seq: i64) -> Message {
    Message {
        conversation_id: ConversationId::new(123).expect("a positive number"),
        message_id: MessageId::new(seq * 7).expect("a positive number"),
        seq,
        sender_id: user(456),
        sender_username: "john_doe".to_owned(),
        content: "Bonjour! Est-ce que le vélo est encore à vendre ?".to_owned(),
        created_at: Timestamp::now(),
        is_read: false,
        client_id: Some("3f6c1a9e-5f0d-4a52-9f5e-0d8b6a7c1e42".to_owned()),
        kind: None,
        data: None,
        reply_to: None,
        system: false,
        change: None,
        edited_at: None,
        deleted_at: None,
        deleted_by: None,
    }
}

/// From the bytes of a socket to a parsed frame.
fn parse_frame() -> Box<dyn FnMut()> {
    let text =
        r#"{"message":"Bonjour! Est-ce que le vélo est encore à vendre ?","client_id":"3f6c1a9e-5f0d"}"#;
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![0x81, 0x80 | u8::try_from(text.len()).expect("a short text")];
    bytes.extend_from_slice(&mask);
    bytes.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    let mut decoder = Decoder::new(limits::FRAME_BYTES);
    Box::new(move || {
        let mut input = black_box(&bytes[..]);
        let Ok(Some(Item::Text(text))) = decoder.decode(&mut input) else { panic!("a whole frame") };
        assert!(black_box(ChatFrame::parse(&text)).is_ok());
    })
}

/// From an event of chat-service to the frames for sockets.
fn encode_event() -> Box<dyn FnMut()> {
    let payload = serde_json::to_vec(&ChatEvent::Message(message(1))).expect("an event");
    Box::new(move || drop(black_box(encode::chat_event(black_box(&payload)).expect("an event"))))
}

/// From one entry to the outboxes of all sockets, including the removal from them.
fn fan_out() -> Box<dyn FnMut()> {
    let mut log = Log::default();
    let outboxes: Vec<Arc<Outbox>> = (1..=SOCKETS).map(|_| Arc::new(Outbox::new(1024, 1 << 20))).collect();
    for (id, outbox) in (1..).zip(&outboxes) {
        let view = View { user_id: user(id), outbox: outbox.clone(), envelope: None };
        log.attach(view, Position::default(), Vec::new(), false);
    }
    let payload = serde_json::to_vec(&ChatEvent::Message(message(1))).expect("an event");
    let Ok(Event::Entry(mut entry, _)) = encode::chat_event(&payload) else { panic!("an entry") };
    entry.at.seq = 0;
    Box::new(move || {
        entry.at.seq += 1;
        log.entry(entry.clone());
        for outbox in &outboxes {
            assert_eq!(black_box(outbox.take()).len(), 1);
        }
    })
}

/// From pending sends to the bytes of a batch.
fn build_batch() -> Box<dyn FnMut()> {
    let mut sends: Vec<Send> = (1..=BATCH)
        .map(|index| Send {
            sender_named_at: None,
            conversation_id: ConversationId::new(123).expect("a positive number"),
            sender_id: user(456),
            sender_username: Some("john_doe".to_owned()),
            message: "Bonjour! Est-ce que le vélo est encore à vendre ?".to_owned(),
            client_id: Some(format!("3f6c1a9e-5f0d-{index}")),
            kind: None,
            data: None,
            reply_to: None,
            system: false,
        })
        .collect();
    Box::new(move || {
        let batch = SendBatch {
            sends: std::mem::take(black_box(&mut sends)),
            traces: Vec::new(),
            deadlines: Vec::new(),
            receipts: true,
        };
        black_box(serde_json::to_vec(&batch).expect("a batch"));
        sends = batch.sends;
    })
}

/// From the bytes of a NATS message to the receipts of a batch.
fn take_reply() -> Box<dyn FnMut()> {
    let receipts: Vec<Sent> = (1..=BATCH as i64).map(|seq| Sent::Placed(message(seq).into())).collect();
    let payload = serde_json::to_vec(&receipts).expect("a reply");
    let mut bytes = format!("MSG _INBOX.gateway.1.7 {REPLIES} {}\r\n", payload.len()).into_bytes();
    bytes.extend_from_slice(&payload);
    bytes.extend_from_slice(b"\r\n");
    Box::new(move || {
        let Ok(Some((Op::Message(reply), _))) = protocol::decode(black_box(&bytes), bytes.len()) else {
            panic!("a whole message")
        };
        let sent: Vec<Sent> = serde_json::from_slice(reply.payload).expect("receipts");
        assert_eq!(black_box(sent).len(), BATCH);
    })
}

fn check_token() -> Box<dyn FnMut()> {
    let verifier = Verifier::new(Tokens {
        jwt_secret: Some(SECRET.to_owned()),
        jwt_public_key: None,
        jwt_secret_previous: None,
        jwt_public_key_previous: None,
        jwt_jwks_url: None,
        jwt_issuer: None,
        jwt_audience: None,
        token_cookie: None,
        token_expiry: TokenExpiry::Enforce,
        user_id_claim: "user_id".to_owned(),
        username_claim: "username".to_owned(),
    })
    .expect("a key");
    let claims = serde_json::json!({
        "token_type": "access", "exp": Timestamp::now().unix() + 3_600, "iat": Timestamp::now().unix(),
        "jti": "7e5f0c", "user_id": 456, "username": "john_doe",
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token");
    Box::new(move || drop(black_box(verifier.verify(black_box(&token)).expect("a token of ours"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_can_be_repeated() {
        for name in NAMES {
            let mut operation = operation(name);
            (0..3).for_each(|_| operation());
        }
    }
}
