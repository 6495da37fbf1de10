use async_nats::jetstream;
use e2e::{Stack, eventually, within};
use futures_util::StreamExt;
use serde_json::{Value, json};

#[tokio::test]
async fn a_blocked_user_cannot_send_show_typing_or_cause_notifications() {
    let stack = Stack::start().await;
    let (two, three) = (stack.conversation(&[1, 2]).await, stack.conversation(&[1, 2, 3]).await);
    let path = format!("/ws/chat/{two}/");
    let (mut ada, mut ben) = (stack.socket(&path, 1).await, stack.socket(&path, 2).await);
    let typing = format!("/ws/typing/{two}/");
    let (mut ada_types, mut ben_watches) = (stack.socket(&typing, 1).await, stack.socket(&typing, 2).await);
    ada_types.send(json!({"is_typing": true})).await;
    assert_eq!(ben_watches.next().await["is_typing"], true);

    for _ in 0..2 {
        stack.call("PUT", "/api/blocks/1", 2, None).await.expect(204);
    }
    assert_eq!(stack.get("/api/blocks", 2).await["items"], json!([{"user_id": 1, "username": "name-1"}]));
    assert_eq!(ben_watches.next().await["is_typing"], false, "the block ends the typing");
    ada_types.send(json!({"is_typing": false})).await;
    ada_types.send(json!({"is_typing": true})).await;
    ada.send(json!({"message": "hello?", "client_id": "c"})).await;
    let refused = ada.next().await;
    assert_eq!((&refused["code"], &refused["client_id"]), (&json!("blocked"), &json!("c")));
    let path = format!("/api/conversations/{two}/messages");
    stack.post(&path, 1, json!({"message": "hello?"})).await.expect_problem(403, "blocked");
    let mut both = stack.socket("/ws/", 1).await;
    let wanted =
        json!({"op": "send", "channel": format!("chat/{two}"), "data": {"message": "hello?"}, "ref": 1});
    both.send(wanted).await;
    assert_eq!(both.next().await["code"], "blocked");
    let backend = stack.backend().await;
    let send = json!({"conversation_id": two, "sender_id": 1, "message": "hello?"});
    let answer = backend.request("chat.messages.send", send.to_string().into()).await.unwrap();
    let headers = answer.headers.expect("a refusal");
    assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), "403");
    assert!(headers.get("Nats-Service-Error").unwrap().as_str().starts_with("blocked: "), "{headers:?}");
    assert_eq!(stack.get(&path, 2).await["items"], json!([]));
    ben.expect_silence().await;
    ben_watches.expect_silence().await;
    let mut late = stack.socket(&typing, 2).await;
    late.expect_silence().await;
    // A block has no effect in a conversation of three, and the user who blocks can still send.
    stack
        .post(&format!("/api/conversations/{three}/messages"), 1, json!({"message": "hi all"}))
        .await
        .expect(201);
    let unread = json!({"conversations": 1, "messages": 1, "notifications": 1});
    eventually("only the message to all three to be unread", async || {
        (stack.get("/api/unread", 2).await == unread).then_some(())
    })
    .await;
    ben.say("I can").await;
    assert_eq!(ada.next().await["content"], "I can");

    stack.call("DELETE", "/api/blocks/1", 2, None).await.expect(204);
    ada.send(json!({"message": "hello?", "client_id": "c"})).await;
    assert_eq!(ada.next().await["seq"], 2);
    stack.call("PUT", "/api/blocks/2", 2, None).await.expect_problem(400, "invalid_request");
}

/// The event about a report.
fn told(made: &Value) -> Value {
    let mut event = made.clone();
    event["event_id"] = json!(format!("report-{}", made["report_id"]));
    event["occurred_at"] = made["created_at"].clone();
    event
}

#[tokio::test]
async fn a_report_keeps_the_message_and_reaches_the_moderators() {
    let stack = Stack::start().await;
    let id = stack.conversation(&[1, 2]).await;
    let sent = json!({"message": "buy my coins", "client_id": "secret"});
    let message = stack.post(&format!("/api/conversations/{id}/messages"), 1, sent).await.expect(201);
    let message_id = message["message_id"].clone();
    let backend = stack.backend().await;
    let mut moderators = testkit::nats::subscribe(&backend, "chat.reported").await.unwrap();
    let report = json!({"message_id": message_id, "reason": "spam"});
    let made = stack.post("/api/reports", 2, report.clone()).await.expect(201);
    assert_eq!((&made["user_id"], &made["message"]["content"]), (&json!(1), &json!("buy my coins")));
    let message = within("the report", moderators.next()).await.unwrap();
    let published: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(published, told(&made));
    assert!(published["message"].get("client_id").is_none());
    // Strangers cannot learn whether a message exists.
    stack.post("/api/reports", 3, report).await.expect_problem(404, "not_found");
    stack.post("/api/reports", 2, json!({"user_id": 1, "reason": "rude"})).await.expect(201);
    stack.post("/api/reports", 2, json!({"reason": "rude"})).await.expect_problem(400, "invalid_request");
    stack
        .post("/api/reports", 2, json!({"user_id": 1, "reason": " "}))
        .await
        .expect_problem(400, "invalid_request");
}

#[tokio::test]
async fn a_report_that_cannot_be_published_is_stored_and_published_later() {
    let stack = Stack::start().await;
    let jetstream = jetstream::new(stack.backend().await);
    let config = jetstream.get_stream("EVENTS_OUT").await.unwrap().cached_info().config.clone();
    jetstream.delete_stream("EVENTS_OUT").await.unwrap();
    let id = stack.conversation(&[1, 2]).await;
    let sent = json!({"message": "buy my coins", "client_id": "secret"});
    let message = stack.post(&format!("/api/conversations/{id}/messages"), 1, sent).await.expect(201);
    let report = json!({"message_id": message["message_id"], "reason": "spam"});
    let made = stack.post("/api/reports", 2, report).await.expect(201);

    let stream = jetstream.get_or_create_stream(config).await.unwrap();
    let published = eventually("the report", || async {
        let stored = stream.get_last_raw_message_by_subject("chat.reported").await.ok()?;
        serde_json::from_slice::<Value>(&stored.payload).ok()
    })
    .await;
    assert_eq!(published, told(&made));
    let again = json!({"user_id": 1, "reason": "rude"});
    let second = stack.post("/api/reports", 2, again).await.expect(201);
    let last = stream.get_last_raw_message_by_subject("chat.reported").await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&last.payload).unwrap(), told(&second));
}
