//! What describes the API to machines and people. That frames and answers agree with it is checked by every test.

use e2e::documented::{self, Sender};
use e2e::{Stack, within};
use futures_util::StreamExt;
use serde_json::{Value, json};

#[tokio::test]
async fn the_http_api_describes_itself() {
    let stack = Stack::start().await;
    let origin = format!("http://{}", stack.host(0));
    let read = async |path: &str| stack.http().get(format!("{origin}{path}")).send().await.unwrap();
    let document: Value = read("/api/openapi.json").await.json().await.unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    for path in ["/api/conversations/{conversation_id}/messages", "/api/unread", "/api/reports"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has a summary");
            assert!(operation["responses"]["401"].is_object(), "{method} {path} wants a token");
        }
    }
    // The page that shows it loads nothing from elsewhere, and could not.
    let page = read("/api/docs").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe") && !policy.contains("http")
    );
    let mut texts = page.text().await.unwrap();
    for file in ["/api/docs/docs.js", "/api/docs/docs.css"] {
        texts.push_str(&read(file).await.error_for_status().unwrap().text().await.unwrap());
    }
    assert!(!texts.contains("://"), "an address of another host");
    assert_eq!(read("/api/docs/").await.url().path(), "/api/docs");
}

#[tokio::test]
async fn what_backends_are_answered_on_nats_is_documented() {
    let stack = Stack::start().await;
    let backend = stack.backend().await;
    let said = |channel: &str, by: Sender, payload: &[u8]| -> Value {
        let payload: Value = serde_json::from_slice(payload).unwrap();
        documented::check(channel, by, &payload).unwrap();
        payload
    };
    let ask = async |subject: &'static str, channel: &str, question: Value| -> Value {
        documented::check(channel, Sender::Client, &question).unwrap();
        let reply = backend.request(subject, question.to_string().into()).await.unwrap();
        said(&format!("{channel}Reply"), Sender::Server, &reply.payload)
    };
    let people = json!([{"user_id": 456, "username": "john_doe"}, {"user_id": 457}]);
    let made = json!({"participants": people, "listing_id": 3, "title": "Vélo"});
    let conversation = ask("chat.conversations.create", "createConversation", made).await;
    let id = &conversation["conversation_id"];
    let message = json!({"conversation_id": id, "sender_id": 456, "message": "Bonjour", "client_id": "a"});
    let sent = ask("chat.messages.send", "sendMessage", message).await;
    let mut moderators = backend.subscribe("chat.reported").await.unwrap();
    backend.flush().await.unwrap();
    let report = json!({"message_id": sent["message_id"], "reason": "rude"});
    stack.post("/api/reports", 457, report).await.expect(201);
    let heard = within("the report", moderators.next()).await.unwrap();
    said("reported", Sender::Server, &heard.payload);
    ask("sessions.revoke", "revokeSessions", json!({"user_id": 456})).await;
}

#[test]
fn what_is_not_documented_is_found() {
    let frame =
        json!({"type": "typing", "conversation_id": 1, "user_id": 2, "username": "a", "is_typing": true});
    documented::check("typing", Sender::Server, &frame).unwrap();
    for (field, value) in [("user_id", json!(0)), ("is_typing", json!("yes")), ("gateway", json!("g"))] {
        let mut wrong = frame.clone();
        wrong[field] = value;
        assert!(documented::check("typing", Sender::Server, &wrong).is_err(), "{wrong}");
    }
    assert!(documented::check("chat", Sender::Server, &frame).is_err(), "on another channel");
}
