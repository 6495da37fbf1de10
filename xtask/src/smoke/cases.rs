//! The checks. Each one panics if the stack doesn't behave as documented.

use std::{pin::Pin, sync::Arc};

use e2e::{eventually, within};
use serde_json::{Value, json};

use super::target::Target;

type Case = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All checks, with the fact that each one checks.
pub fn all(target: &Arc<Target>) -> Vec<(&'static str, Case)> {
    let target = || Arc::clone(target);
    vec![
        ("a token with a wrong signature is refused", Box::pin(refusal(target()))),
        ("two users chat, in order", Box::pin(chat(target()))),
        ("a socket resumes after a message", Box::pin(resume(target()))),
        ("a read marker moves, and the unread count falls", Box::pin(read_marker(target()))),
        ("the HTTP API lists conversations and messages", Box::pin(http(target()))),
        ("typing starts and ends", Box::pin(typing(target()))),
        ("a backend's event becomes one notification", Box::pin(notification(target()))),
        ("a backend creates a conversation and sends into it", Box::pin(marketplace(target()))),
        ("NATS denies a backend other subjects", Box::pin(denial(target()))),
    ]
}

/// Two users that no other run uses.
fn users() -> (i64, i64) {
    let first = fastrand::i64(1_000_000_000..2_000_000_000_000);
    (first, first + 1)
}

async fn refusal(target: Arc<Target>) {
    let status = target.status_of_socket("/ws/notifications/", "eyJhbGciOiJIUzI1NiJ9.e30.wrong").await;
    assert!([401, 4401].contains(&status.unwrap_or_default()), "ended with {status:?}");
}

async fn chat(target: Arc<Target>) {
    let (ada, ben) = users();
    let path = format!("/ws/chat/{}/", target.conversation(&[ada, ben]).await);
    let (mut first, mut second) = (target.socket(0, &path, ada).await, target.socket(1, &path, ben).await);
    for seq in 1..=20 {
        let sender = if seq % 2 == 0 { &mut first } else { &mut second };
        sender.say(&format!("message {seq}")).await;
        for socket in [&mut first, &mut second] {
            let frame = socket.next().await;
            let seen = (&frame["seq"], &frame["content"]);
            assert_eq!(seen, (&json!(seq), &json!(format!("message {seq}"))), "{frame}");
        }
    }
}

async fn resume(target: Arc<Target>) {
    let (ada, ben) = users();
    let path = format!("/ws/chat/{}/", target.conversation(&[ada, ben]).await);
    let mut sender = target.socket(0, &path, ada).await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        sender.say(text).await;
        ids.push(sender.next().await["message_id"].clone());
    }
    let mut resumed = target.socket(1, &format!("{path}?after={}", ids[0]), ben).await;
    assert_eq!(resumed.next().await["content"], "two");
    assert_eq!(resumed.next().await["content"], "three");
    sender.say("four").await;
    assert_eq!(resumed.next().await["content"], "four");
    resumed.expect_silence().await;
}

async fn read_marker(target: Arc<Target>) {
    let (ada, ben) = users();
    let path = format!("/ws/chat/{}/", target.conversation(&[ada, ben]).await);
    let (mut sender, mut reader) = (target.socket(0, &path, ada).await, target.socket(1, &path, ben).await);
    sender.say("read this").await;
    let id = reader.next().await["message_id"].clone();
    assert_eq!(target.get("/api/unread", ben).await["messages"], 1);
    reader.send(json!({"type": "read", "message_id": id})).await;
    assert_eq!(reader.next_of("read").await["unread_count"], 0);
    assert_eq!(sender.next_of("read").await["user_id"], ben);
    assert_eq!(target.get("/api/unread", ben).await["messages"], 0);
}

async fn http(target: Arc<Target>) {
    let (ada, ben) = users();
    let id = target.conversation(&[ada, ben]).await;
    let path = format!("/api/conversations/{id}/messages");
    let body = json!({"message": "by HTTP", "client_id": "c1"});
    let sent = target.call("POST", &path, ada, Some(body.clone())).await.expect(201);
    let again = target.call("POST", &path, ada, Some(body)).await.expect(200);
    assert_eq!(again["message_id"], sent["message_id"], "a repeated client_id is the same message");
    assert_eq!(target.get(&path, ben).await["items"][0]["content"], "by HTTP");
    assert_eq!(target.get("/api/conversations", ben).await["items"][0]["conversation_id"], id);
    let stranger = target.call("GET", &path, ben + 1, None).await;
    assert!([403, 404].contains(&stranger.status), "another user gets {stranger:?}");
}

async fn typing(target: Arc<Target>) {
    let (ada, ben) = users();
    let path = format!("/ws/typing/{}/", target.conversation(&[ada, ben]).await);
    let (mut first, mut second) = (target.socket(0, &path, ada).await, target.socket(1, &path, ben).await);
    for is_typing in [true, false] {
        first.send(json!({ "is_typing": is_typing })).await;
        let frame = second.next().await;
        assert_eq!((&frame["user_id"], &frame["is_typing"]), (&json!(ada), &json!(is_typing)), "{frame}");
    }
}

async fn notification(target: Arc<Target>) {
    let (ada, _) = users();
    let mut socket = target.socket(1, "/ws/notifications/", ada).await;
    let (billing, _) = target.backend("billing").await;
    let event = json!({"user_id": ada, "data": {"payment_id": 789}}).to_string();
    billing.publish("events.payment_completed", event.into()).await.expect("publish an event");
    let frame = socket.next().await;
    assert_eq!((&frame["type"], &frame["unread_count"]), (&json!("payment_completed"), &json!(1)), "{frame}");
    assert_eq!(frame["data"], json!({"payment_id": 789}));
    let stored = target.get("/api/notifications", ada).await;
    assert_eq!(stored["items"].as_array().map(Vec::len), Some(1), "{stored}");
    socket.expect_silence().await;
}

async fn marketplace(target: Arc<Target>) {
    let (ada, ben) = users();
    let (backend, _) = target.backend("marketplace").await;
    let request = async |subject: &'static str, body: Value| -> Value {
        let answer = within(subject, backend.request(subject, body.to_string().into())).await;
        let answer = answer.unwrap_or_else(|error| panic!("{subject}: {error}"));
        let json = serde_json::from_slice(&answer.payload);
        json.unwrap_or_else(|_| panic!("{subject}: {:?}", answer.headers))
    };
    let participants = json!([{"user_id": ada, "username": "Ada"}, {"user_id": ben, "username": "Ben"}]);
    let made = request("chat.conversations.create", json!({ "participants": participants })).await;
    let id = made["conversation_id"].clone();
    let mut inbox = target.socket(0, &format!("/ws/chat/{id}/"), ben).await;
    let body = json!({"conversation_id": id, "sender_id": ada, "message": "from a backend"});
    request("chat.messages.send", body).await;
    assert_eq!(inbox.next().await["content"], "from a backend");
    let counted = || async { (target.get("/api/unread", ben).await["messages"] == 1).then_some(()) };
    eventually("the message to be counted as unread", counted).await;
}

async fn denial(target: Arc<Target>) {
    let (billing, mut errors) = target.backend("billing").await;
    billing.publish("chat.event.1", "{}".into()).await.expect("hand a message to the client");
    let error = within("an error of nats-server", errors.recv()).await.unwrap_or_default();
    assert!(error.to_lowercase().contains("permissions violation"), "{error}");
}
