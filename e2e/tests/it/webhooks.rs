//! Events for backends: on NATS, and as webhooks. `notify-service/src/webhooks/tests.rs` tests receivers that fail.

use crate::{events_out::Events, wait_for_unread};
use async_nats::jetstream;
use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use e2e::{Kind, Options, Stack, eventually, within};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{net::TcpListener, sync::mpsc};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn with(env: &[(&'static str, &str)]) -> Options {
    Options {
        env: env.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        ..Options::one_of_each()
    }
}

async fn send(stack: &Stack, conversation: i64, sender: i64, text: &str) -> Value {
    let path = format!("/api/conversations/{conversation}/messages");
    stack.post(&path, sender, json!({"message": text})).await.expect(201)
}

/// The first `count` events of a subject in the stream, each checked against its document.
async fn events(stack: &Stack, subject: &str, channel: &'static str, count: usize) -> Vec<Value> {
    let mut reader = Events::of(stack, subject, channel).await;
    let mut events = Vec::new();
    while events.len() < count {
        events.push(reader.next().await);
    }
    events
}

#[tokio::test]
async fn backends_are_told_of_messages_and_reads_if_the_operator_wants_it() {
    let stack = Stack::with(with(&[("TELL", "opened,sent,read,changed")])).await;
    let wanted = json!({"participant_ids": [2, 3], "listing_id": 12});
    let made = stack.post("/api/conversations", 1, wanted).await.expect(201);
    let conversation = made["conversation_id"].as_i64().unwrap();
    // Only once: the conversation exists.
    let again = json!({"participant_ids": [1, 3], "listing_id": 12});
    stack.post("/api/conversations", 2, again).await.expect(200);
    let told = events(&stack, "chat.opened", "openedForBackends", 1).await;
    assert_eq!(told[0]["event_id"], format!("chat.opened-{conversation}"));
    assert_eq!((&told[0]["occurred_at"], &told[0]["listing_id"]), (&made["created_at"], &json!(12)));
    assert_eq!(told[0]["participant_ids"], json!([1, 2, 3]));
    let mut sent = Vec::new();
    for text in ["one", "two", "three"] {
        sent.push(send(&stack, conversation, 1, text).await);
    }
    let offer = json!({"kind": "offer", "data": {"amount": 4500, "currency": "EUR", "state": "open"}});
    let path = format!("/api/conversations/{conversation}/messages");
    sent.push(stack.post(&path, 1, offer).await.expect(201));
    let told = events(&stack, "chat.sent", "sentForBackends", 4).await;
    for (event, message) in told.iter().zip(&sent) {
        for field in ["conversation_id", "message_id", "seq", "sender_id", "created_at"] {
            assert_eq!(event[field], message[field]);
        }
        assert_eq!((&event["recipients"], &event["listing_id"]), (&json!([2, 3]), &json!(12)));
        assert_eq!((&event["occurred_at"], event.get("text")), (&message["created_at"], None));
        assert_eq!(event.get("kind"), message.get("kind"));
    }
    // The notifications are made as without the events.
    wait_for_unread(&stack, 2, 1, 4).await;
    let read = json!({"message_id": sent[1]["message_id"]});
    stack.post(&format!("/api/conversations/{conversation}/read"), 2, read).await.expect(204);
    let told = events(&stack, "chat.read", "readForBackends", 1).await;
    assert_eq!((&told[0]["user_id"], &told[0]["seq"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn nobody_is_told_of_messages_by_default() {
    let stack = Stack::with(with(&[])).await;
    let conversation = stack.conversation(&[1, 2]).await;
    send(&stack, conversation, 1, "one").await;
    stack.post("/api/reports", 2, json!({"user_id": 1, "reason": "rude"})).await.expect(201);
    wait_for_unread(&stack, 2, 1, 1).await;
    let jetstream = jetstream::new(stack.backend().await);
    let mut stream = jetstream.get_stream("EVENTS_OUT").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1, "only the report");
}

/// Law of the events: each message has its event, although notify-service and chat-service are killed.
#[tokio::test]
async fn each_message_has_its_event_although_services_are_killed() {
    let mut stack = Stack::with(with(&[("TELL", "sent,opened"), ("TELL_TEXT", "yes")])).await;
    let conversation = stack.conversation(&[1, 2]).await;
    let mut texts = BTreeMap::new();
    for round in 0..4 {
        for number in 0..10 {
            let text = format!("{round}-{number}");
            let sent = send(&stack, conversation, 1, &text).await;
            texts.insert(sent["seq"].as_i64().unwrap(), text);
        }
        let opened = stack.post("/api/conversations", 1, json!({"participant_ids": [10 + round]})).await;
        opened.expect(201);
        let kind = if round % 2 == 0 { Kind::Notify } else { Kind::Chat };
        stack.kill(kind, 0).await;
        stack.restart(kind, 0);
        stack.ready().await;
    }
    let mut sent = Events::of(&stack, "chat.sent", "sentForBackends").await;
    let mut told = BTreeMap::new();
    while told.len() < texts.len() {
        let event = sent.next().await;
        told.insert(event["seq"].as_i64().unwrap(), event["text"].as_str().unwrap().to_owned());
    }
    assert_eq!(told, texts);
    // The first conversation, and one of each round.
    events(&stack, "chat.opened", "openedForBackends", 5).await;
}

type Received = (String, Value);

/// A receiver of webhooks, which accepts a request once `open` is set.
async fn receiver(open: Arc<AtomicBool>) -> (String, mpsc::Receiver<Received>) {
    let (sender, received) = mpsc::channel(1_000);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let accept = async |State((open, sender)): State<(Arc<AtomicBool>, mpsc::Sender<Received>)>,
                        headers: HeaderMap,
                        body: Bytes| {
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        assert!(headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
        sender.send((id, serde_json::from_slice(&body).unwrap())).await.unwrap();
        if !open.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    };
    let router = Router::new().route("/hook", post(accept)).with_state((open, sender));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

/// Law W3: notify-service is killed between the request and its acknowledgement.
#[tokio::test]
async fn a_webhook_is_sent_again_with_its_id_after_notify_service_was_killed() {
    let open = Arc::new(AtomicBool::new(false));
    let (url, mut received) = receiver(open.clone()).await;
    let env = [("WEBHOOK_URL", &*url), ("WEBHOOK_SECRET", SECRET), ("WEBHOOK_EVENTS", "chat.reported")];
    let mut stack = Stack::with(with(&env)).await;
    let report = json!({"user_id": 1, "reason": "rude"});
    let made = stack.post("/api/reports", 2, report).await.expect(201);
    let (id, first) = within("the first attempt", received.recv()).await.unwrap();
    assert_eq!((id.as_str(), first["type"].as_str()), ("report-1", Some("chat.reported")));
    assert_eq!((&first["data"]["report_id"], &first["data"]["event_id"]), (&made["report_id"], &json!(id)));
    stack.kill(Kind::Notify, 0).await;
    open.store(true, Ordering::SeqCst);
    stack.restart(Kind::Notify, 0);
    stack.ready().await;
    assert_eq!(within("the second attempt", received.recv()).await.unwrap(), (id, first));
    // The delivery is counted after its acknowledgement.
    let lag = "webhook_lag{endpoint=\"default\"} 0";
    let delivered = "webhooks_total{endpoint=\"default\",outcome=\"delivered\"} 1";
    eventually("one delivery and no lag", || async {
        let metrics = stack.metrics(Kind::Notify, 0).await;
        (metrics.contains(lag) && metrics.contains(delivered)).then_some(())
    })
    .await;
}

/// Law W4: an endpoint that hangs delays neither the chat nor its notifications.
#[tokio::test]
async fn an_endpoint_that_hangs_delays_no_chat() {
    let (url, mut received) = receiver(Arc::new(AtomicBool::new(false))).await;
    let env = [("WEBHOOK_URL", &*url), ("WEBHOOK_SECRET", SECRET), ("TELL", "sent")];
    let stack = Stack::with(with(&env)).await;
    let conversation = stack.conversation(&[1, 2]).await;
    for number in 0..30 {
        send(&stack, conversation, 1, &number.to_string()).await;
    }
    within("a delivery", received.recv()).await.unwrap();
    wait_for_unread(&stack, 2, 1, 30).await;
}

#[tokio::test]
async fn a_stream_that_refuses_changes_delays_no_chat() {
    let stack = Stack::with(with(&[("TELL", "changed")])).await;
    let id = stack.conversation(&[1, 2]).await;
    let path = format!("/api/conversations/{id}/messages");
    let message = send(&stack, id, 1, "Bonjour!").await;
    let jetstream = jetstream::new(stack.backend().await);
    let config = jetstream.get_stream("EVENTS_OUT").await.unwrap().info().await.unwrap().config.clone();
    let full = jetstream::stream::Config {
        discard: jetstream::stream::DiscardPolicy::New,
        max_message_size: 1,
        ..config.clone()
    };
    jetstream.update_stream(full).await.unwrap();

    let change = format!("{path}/{}", message["message_id"]);
    stack.call("PATCH", &change, 1, Some(json!({"message": "Bonsoir!"}))).await.expect(200);
    // Longer than a service that can't sweep its outbox is called ready.
    let is_old = async || {
        assert_eq!(stack.readyz(Kind::Chat, 0).await, Some(200));
        (stack.metric(Kind::Chat, 0, "chat_outbox_age_seconds").await > 12.0).then_some(())
    };
    eventually("the change to wait", is_old).await;
    jetstream.update_stream(config).await.unwrap();
    let changed = events(&stack, "chat.changed", "changedForBackends", 1).await;
    assert_eq!(changed[0]["message_id"], message["message_id"]);
}
