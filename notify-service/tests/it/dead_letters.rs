//! Dead letters of large events, of unreadable headers, and without their stream.

use crate::app::{App, eventually, within};
use async_nats::jetstream;
use contract::streams::DEADLETTERS_STREAM;

fn header(letter: &jetstream::Message, name: &str) -> Option<String> {
    letter.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned())
}

async fn publish_raw(app: &App, headers: &[u8], body: &[u8]) {
    let sent = app.nats.publish_raw(None, "events.payment_completed", headers, body);
    within("JetStream", sent).await.unwrap();
}

/// Publishes a valid event and waits for its notification: earlier events don't block it.
async fn a_valid_event_passes(app: &App, user: i64) {
    app.event("payment_completed", format!(r#"{{"user_id":{user}}}"#)).await;
    eventually("the notification", async || app.inbox(user).await.len() == 1).await;
}

#[tokio::test]
async fn large_unreadable_headers_are_a_dead_letter_and_block_no_other() {
    let app = App::spawn().await;
    let headers = format!("NATS/1.0\r\nA b: {}\r\n\r\n", "x".repeat(50_000));
    publish_raw(&app, headers.as_bytes(), br#"{"user_id":1}"#).await;
    a_valid_event_passes(&app, 2).await;
    app.is_settled().await;
    let letter = &app.dead_letters(1).await[0];
    assert_eq!(&letter.payload[..], br#"{"user_id":1}"#);
    assert_eq!(header(letter, "Truncated").as_deref(), Some("headers"));
    assert!(header(letter, "Original-Headers").unwrap().len() > 30_000);
    assert_eq!(header(letter, "Original-Subject").as_deref(), Some("events.payment_completed"));
}

#[tokio::test]
async fn large_readable_headers_are_a_dead_letter_with_those_that_fit() {
    let app = App::spawn().await;
    let large = "x".repeat(65_400);
    let headers = [("X-Large", large.as_str()), ("X-Trace", "t1"), ("Nats-Msg-Id", "m1")];
    app.event_with("payment_completed", &headers, "not json").await;
    a_valid_event_passes(&app, 2).await;
    app.is_settled().await;
    let letter = &app.dead_letters(1).await[0];
    assert_eq!(&letter.payload[..], b"not json");
    assert_eq!(header(letter, "Truncated").as_deref(), Some("headers"));
    assert_eq!(header(letter, "X-Trace").as_deref(), Some("t1"));
    assert_eq!(header(letter, "Original-Nats-Msg-Id").as_deref(), Some("m1"));
    assert_eq!(header(letter, "X-Large"), None);
}

#[tokio::test]
async fn a_body_that_leaves_no_room_is_a_truncated_dead_letter() {
    let app = App::spawn().await;
    // The stream of events has a lower limit; this one has the limit of NATS.
    let body = "x".repeat(1024 * 1024);
    app.jetstream.publish("chat.log", body.clone().into()).await.unwrap().await.unwrap();
    app.message(7, 10, 1, &[2]).await;
    eventually("the notification", async || app.inbox(2).await.len() == 1).await;
    app.is_settled().await;
    let letter = &app.dead_letters(1).await[0];
    assert_eq!(header(letter, "Truncated").as_deref(), Some("body"));
    assert!(letter.payload.len() > 1_000_000 && body.as_bytes().starts_with(&letter.payload));
}

#[tokio::test]
async fn an_event_that_fits_into_a_dead_letter_is_not_truncated() {
    let app = App::spawn().await;
    let large = "x".repeat(40_000);
    app.event_with("payment_completed", &[("X-Large", &large)], "y".repeat(900_000)).await;
    app.is_settled().await;
    let letter = &app.dead_letters(1).await[0];
    assert_eq!((letter.payload.len(), header(letter, "X-Large")), (900_000, Some(large)));
    assert_eq!(header(letter, "Truncated"), None);
}

#[tokio::test]
async fn the_longest_subject_is_not_truncated() {
    let app = App::spawn().await;
    let kind = "k".repeat(3_900);
    app.event(&kind, r#"{"user_id":1,"title":"T","message":"M"}"#).await;
    a_valid_event_passes(&app, 2).await;
    app.is_settled().await;
    let letter = &app.dead_letters(1).await[0];
    assert_eq!(header(letter, "Original-Subject"), Some(format!("events.{kind}")));
    assert!(letter.subject.len() < 200, "{} bytes", letter.subject.len());
}

#[tokio::test]
async fn a_missing_stream_of_dead_letters_is_recreated() {
    let app = App::spawn().await;
    app.jetstream.delete_stream(DEADLETTERS_STREAM).await.unwrap();
    app.event("payment_completed", "not json").await;
    publish_raw(&app, b"NATS/1.0\r\nX Name: a\r\n\r\n", br#"{"user_id":1}"#).await;
    a_valid_event_passes(&app, 2).await;
    app.is_settled().await;
    app.dead_letters(2).await;
    // Also without a dead letter.
    app.jetstream.delete_stream(DEADLETTERS_STREAM).await.unwrap();
    eventually("the stream", async || app.jetstream.get_stream(DEADLETTERS_STREAM).await.is_ok()).await;
}

#[tokio::test]
async fn a_dead_letter_that_jetstream_refuses_blocks_no_other_event() {
    let app = App::spawn().await;
    let stream = app.jetstream.get_stream(DEADLETTERS_STREAM).await.unwrap();
    let config = stream.cached_info().config.clone();
    let narrow = jetstream::stream::Config { max_message_size: 100, ..config.clone() };
    app.jetstream.update_stream(narrow).await.unwrap();
    publish_raw(&app, b"NATS/1.0\r\nX Name: a\r\n\r\n", br#"{"user_id":1}"#).await;
    app.event("payment_completed", "not json").await;
    a_valid_event_passes(&app, 2).await;
    app.jetstream.update_stream(config).await.unwrap();
    app.is_settled().await;
    app.dead_letters(2).await;
}

#[tokio::test]
async fn dead_letters_respect_the_size_limit_of_their_stream() {
    let app = App::spawn().await;
    let stream = app.jetstream.get_stream(DEADLETTERS_STREAM).await.unwrap();
    let config = jetstream::stream::Config { max_message_size: 2_000, ..stream.cached_info().config.clone() };
    app.jetstream.update_stream(config).await.unwrap();
    app.event("payment_completed", "x".repeat(10_000)).await;
    app.is_settled().await;
    let letter = &app.dead_letters(1).await[0];
    assert_eq!(header(letter, "Truncated").as_deref(), Some("body"));
    assert!((1_000..2_000).contains(&letter.payload.len()), "{}", letter.payload.len());
}

#[tokio::test]
async fn a_large_body_with_unreadable_headers_is_not_truncated() {
    let app = App::spawn().await;
    let body = "y".repeat(1_000_000);
    publish_raw(&app, b"NATS/1.0\r\nX Name: a\r\n\r\n", body.as_bytes()).await;
    a_valid_event_passes(&app, 2).await;
    app.is_settled().await;
    let letter = &app.dead_letters(1).await[0];
    assert_eq!((letter.payload.len(), header(letter, "Truncated")), (1_000_000, None));
}
