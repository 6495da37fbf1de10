//! Events for backends, while the stream `EVENTS_OUT` refuses them.

use crate::app::{App, Client, eventually, get, user, within};
use async_nats::jetstream::stream::{Config as Stream, DiscardPolicy};
use contract::{
    ConversationId, MessageId,
    chat::{LogEntry, Marker},
    log::Range,
    streams::{EVENTS_OUT_STREAM, EVENTS_OUT_SUBJECTS},
};
use futures_util::future::join_all;
use service::config::OptionalEvent;
use std::collections::BTreeSet;

/// More than NATS delivers without an acknowledgement.
const MANY: i64 = 5_200;

/// A stream that is full with one message.
fn full() -> Stream {
    Stream {
        name: EVENTS_OUT_STREAM.to_owned(),
        subjects: EVENTS_OUT_SUBJECTS.map(str::to_owned).to_vec(),
        discard: DiscardPolicy::New,
        max_messages: 1,
        ..Stream::default()
    }
}

async fn fill(client: &Client) {
    client.jetstream.update_stream(full()).await.unwrap();
    client.jetstream.publish("chat.reported", "{}".into()).await.unwrap().await.unwrap();
}

/// Publishes a read of its own conversation for each of `count` users.
async fn reads(client: &Client, count: i64) {
    let numbers: Vec<i64> = (1..=count).collect();
    for some in numbers.chunks(500) {
        within("JetStream", join_all(some.iter().map(|number| read(client, *number)))).await;
    }
}

async fn read(client: &Client, number: i64) {
    let (user_id, conversation_id) = (user(number), ConversationId::new(number).unwrap());
    let message_id = MessageId::new(1_000_000 + number).unwrap();
    let marker = Marker {
        conversation_id,
        user_id,
        message_id,
        seq: 1,
        read_at: contract::Timestamp::now(),
        unread_count: Some(0),
        by_sending: false,
    };
    client.log(&LogEntry::Read { user_id, conversation_id, message_id, marker: Some(marker) }).await;
}

/// Adds so many events that the service counts no further, and waits until it knows.
async fn backlog(app: &App) {
    let query = "insert into telling (event_id, subject, body)
        select 'waiting-' || number, 'chat.read', '{}' from generate_series(1, 1000000) as number";
    sqlx::query(query).execute(&app.pool).await.unwrap();
    let admin = app.replica.as_ref().unwrap().admin;
    let counted = || async { get(admin, "/metrics").await.1.contains("events_out_waiting 1000000") };
    eventually("the events to be counted", counted).await;
}

#[tokio::test]
async fn a_stream_that_refuses_events_delays_no_notification() {
    let app = App::spawn_with(|config| config.optional_events = vec![OptionalEvent::Read]).await;
    fill(&app).await;
    notifies_and_publishes_all(app).await;
}

#[tokio::test]
#[ignore = "takes minutes on a busy machine"]
async fn a_million_events_that_wait_delay_no_notification() {
    let app = App::spawn_with(|config| config.optional_events = vec![OptionalEvent::Read]).await;
    fill(&app).await;
    backlog(&app).await;
    notifies_and_publishes_all(app).await;
}

/// Checks that a notification arrives behind many entries whose events are refused, and that each event arrives once
/// after the stream has room again.
async fn notifies_and_publishes_all(mut app: App) {
    reads(&app, MANY).await;
    app.message(7, 10, 1, &[2]).await;
    eventually("the notification", async || app.inbox(2).await.len() == 1).await;
    app.is_settled().await;
    // Another replica publishes the events, each with its id.
    app.stop().await;
    let query = "delete from telling where event_id like 'waiting-%'";
    sqlx::query(query).execute(&app.pool).await.unwrap();
    app.start().await;
    app.jetstream.update_stream(Stream { max_messages: -1, ..full() }).await.unwrap();
    eventually("all events", async || {
        let mut stream = app.jetstream.get_stream(EVENTS_OUT_STREAM).await.unwrap();
        stream.info().await.unwrap().state.messages == 1 + MANY as u64
    })
    .await;
    let stream = app.jetstream.get_stream(EVENTS_OUT_STREAM).await.unwrap();
    let mut ids = BTreeSet::new();
    for seq in 2..2 + MANY as u64 {
        let message = stream.get_raw_message(seq).await.unwrap();
        ids.insert(message.headers.get("Nats-Msg-Id").unwrap().as_str().to_owned());
    }
    let expected: BTreeSet<String> =
        (1..=MANY).map(|number| format!("chat.read-{number}-{number}-1")).collect();
    assert_eq!(ids, expected);
    assert_eq!(app.page(2, Range::Newest, 50).await.page.items.len(), 1);
    app.check_inboxes().await;
}
