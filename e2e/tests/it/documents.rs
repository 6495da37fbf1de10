//! The machine-readable documents of the API. Every other test checks frames and responses against them.

use e2e::documented::{self, Sender};
use e2e::{Stack, within};
use futures_util::StreamExt;
use serde_json::{Value, json};

#[tokio::test]
async fn the_http_api_serves_its_openapi_document_and_page() {
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
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            assert!(operation["responses"]["401"].is_object(), "{method} {path} does not document 401");
        }
    }
    // The page loads nothing from other hosts and runs no inline scripts: its policy forbids both.
    let page = read("/api/docs").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    let asks = read("/api/docs/swagger-initializer.js").await.text().await.unwrap();
    assert!(asks.contains(r#""url": "openapi.json""#) && !asks.contains("://"), "{asks}");
    assert_eq!(read("/api/docs/nothing.js").await.status(), 404);
    assert_eq!(read("/api/docs/").await.url().path(), "/api/docs");
}

#[tokio::test]
async fn replies_to_backends_on_nats_are_documented() {
    let stack = Stack::start().await;
    let backend = stack.backend().await;
    let check = |channel: &str, sender: Sender, payload: &[u8]| -> Value {
        let payload: Value = serde_json::from_slice(payload).unwrap();
        documented::check(channel, sender, &payload).unwrap();
        payload
    };
    let request = async |subject: &'static str, channel: &str, body: Value| -> Value {
        documented::check(channel, Sender::Client, &body).unwrap();
        let reply = backend.request(subject, body.to_string().into()).await.unwrap();
        check(&format!("{channel}Reply"), Sender::Server, &reply.payload)
    };
    let people = json!([{"user_id": 456, "username": "john_doe"}, {"user_id": 457}]);
    let made = json!({"participants": people, "listing_id": 3, "title": "Vélo"});
    let conversation = request("chat.conversations.create", "createConversation", made).await;
    let id = &conversation["conversation_id"];
    let message = json!({"conversation_id": id, "sender_id": 456, "message": "Bonjour", "client_id": "a"});
    let sent = request("chat.messages.send", "sendMessage", message).await;
    let ids = json!({"conversation_id": id, "message_id": sent["message_id"]});
    let with = |name: &str, value: &str| {
        let mut body = ids.clone();
        body[name] = value.into();
        body
    };
    request("chat.messages.update", "updateMessage", with("message", "Bonjour !")).await;
    let mut moderators = testkit::nats::subscribe(&backend, "chat.reported").await.unwrap();
    let report = json!({"message_id": sent["message_id"], "reason": "rude"});
    stack.post("/api/reports", 457, report).await.expect(201);
    let message = within("the report", moderators.next()).await.unwrap();
    check("reported", Sender::Server, &message.payload);
    request("chat.messages.remove", "removeMessage", with("reason", "rude")).await;
    let list = json!({"conversation_id": id, "limit": 5});
    request("chat.messages.list", "listMessages", list.clone()).await;
    request("chat.messages.versions", "listVersions", list).await;
    request("sessions.revoke", "revokeSessions", json!({"user_id": 456})).await;
}

#[test]
fn undocumented_frames_are_detected() {
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
